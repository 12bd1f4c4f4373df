"""A run on disk: never half, never mixed, never done twice; killed and resumed it is the same."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import fields
from pathlib import Path
from threading import Timer
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from tagger.bundle import Bundle
from tagger.catalog import Catalog, Columns
from tagger.dry_run import dry_run
from tagger.encoder import Encoder
from tagger.errors import (
    CatalogChangedError,
    CatalogError,
    LockedError,
    OtherRunError,
    OutputError,
    StoppedError,
    TooManyFailuresError,
    UsageError,
)
from tagger.job import (
    FINGERPRINT,
    Job,
    JobOptions,
    MaxFailures,
    check_out,
    default_out,
    read_fingerprint,
)
from tagger.part_reader import COPY_BYTES, COPY_ROWS, RowReader, part_rows
from tagger.run import Result, run
from tagger.run_directory import MANIFEST, SUCCESS, RunDirectory, Shard

from .conftest import TASKS, MakeCatalog, mixed_rows, random_titles, save_picture

NAMES = [task.name for task in TASKS]
PART_ROWS = 16
NUM_ROWS = 70
"""Four whole parts and one of six rows."""


@pytest.fixture
def catalog(make_catalog: MakeCatalog, tmp_path: Path) -> Path:
    """NUM_ROWS products of every kind."""
    return make_catalog(mixed_rows(tmp_path, NUM_ROWS))


def job(tiny: Bundle, catalog: Path, out: Path, **options: Any) -> Job:
    options = {"part_rows": PART_ROWS, "tasks": NAMES} | options
    return Job(tiny, JobOptions(catalog, out=out, **options))


def files(folder: Path) -> dict[str, bytes]:
    """Content of all files below `folder`."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def stop_after(num_rows: int) -> Callable[[int], None]:
    """A progress callback that ends the run as a signal would, once `num_rows` are labelled."""
    done = 0

    def progress(rows: int) -> None:
        nonlocal done
        done += rows
        if done > num_rows:
            raise StoppedError(15)

    return progress


def interrupt(job: Job, num_rows: int) -> None:
    with pytest.raises(StoppedError):
        run(job, stop_after(num_rows))


def same_answers(left: pa.Table, right: pa.Table) -> None:
    """Equal but for floats, which may differ by 1e-5, and for the metadata."""
    pd.testing.assert_frame_equal(left.to_pandas(), right.to_pandas(), rtol=0, atol=1e-5)


# ---- the output


def test_directory_holds_parts_a_manifest_and_success(
    tiny: Bundle, catalog: Path, tmp_path: Path
) -> None:
    result = run(job(tiny, catalog, tmp_path / "out"))
    assert result.finished
    names = [f"part-{k:05d}.parquet" for k in range(5)]
    assert sorted(files(tmp_path / "out")) == sorted([*names, MANIFEST, SUCCESS])
    rows = Job(tiny, JobOptions(catalog, NAMES, tmp_path / "out2"))
    assert rows.num_rows == NUM_ROWS
    assert '"part-00004.parquet": 6' in (tmp_path / "out" / MANIFEST).read_text()


def test_every_part_has_the_one_schema(
    tiny: Bundle, make_catalog: MakeCatalog, tmp_path: Path
) -> None:
    rows = [
        {"title": None if n < 32 else "red", "note": None if n < 48 else "x"} for n in range(64)
    ]
    run(job(tiny, make_catalog(rows), tmp_path / "out"))
    schemas = [pq.read_schema(part) for part in sorted((tmp_path / "out").glob("part-*"))]
    assert len(schemas) == 4
    assert all(schema.equals(schemas[0], check_metadata=True) for schema in schemas)


def test_file_and_directory_and_their_readers_agree(
    tiny: Bundle, catalog: Path, tmp_path: Path
) -> None:
    run(job(tiny, catalog, tmp_path / "out.parquet"))
    run(job(tiny, catalog, tmp_path / "out"))
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.num_rows == NUM_ROWS
    assert ds.dataset(tmp_path / "out").to_table().equals(table)
    assert Catalog(tmp_path / "out").read(table.column_names).equals(table)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "out"), table.to_pandas())


@pytest.mark.parametrize("part_rows", [1, 7, 64, 4096])
def test_size_of_the_parts_changes_no_answer(
    tiny: Bundle, catalog: Path, tmp_path: Path, part_rows: int
) -> None:
    run(job(tiny, catalog, tmp_path / "a.parquet"))
    run(job(tiny, catalog, tmp_path / "b.parquet", part_rows=part_rows))
    same_answers(pq.read_table(tmp_path / "a.parquet"), pq.read_table(tmp_path / "b.parquet"))


@pytest.mark.parametrize("batch_size", [1, 5, 200])
def test_batch_size_changes_no_answer(
    tiny: Bundle, catalog: Path, tmp_path: Path, batch_size: int
) -> None:
    run(job(tiny, catalog, tmp_path / "a.parquet"))
    run(job(tiny, catalog, tmp_path / "b.parquet", batch_size=batch_size, part_rows=50))
    same_answers(pq.read_table(tmp_path / "a.parquet"), pq.read_table(tmp_path / "b.parquet"))


def test_same_run_twice_gives_the_same_bytes(tiny: Bundle, catalog: Path, tmp_path: Path) -> None:
    run(job(tiny, catalog, tmp_path / "a.parquet"))
    run(job(tiny, catalog, tmp_path / "b.parquet"))
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_csv_output_reads_back_as_it_went_in(
    tiny: Bundle, make_catalog: MakeCatalog, tmp_path: Path
) -> None:
    values = ["NA", "007", "", None, 'a "b"', "x\ny", "é漢", " ", "1e5", "true"]
    path = make_catalog([{"title": "red", "note": value} for value in values], "feed.csv")
    run(job(tiny, path, tmp_path / "out.csv", top_k=2))
    labelled = Catalog(tmp_path / "out.csv")
    assert labelled.read(["note"])["note"].to_pylist() == values
    assert labelled.schema.names == job(tiny, path, tmp_path / "b.csv", top_k=2).schema.names
    ranking = labelled.read(["color_top_k"])["color_top_k"][0].as_py()
    assert ranking.startswith('[{"label":"')


def test_type_that_csv_cannot_hold_is_refused_before_the_run(tiny: Bundle, tmp_path: Path) -> None:
    pq.write_table(pa.table({"title": ["red"], "tags": [[1]]}), tmp_path / "feed.parquet")
    with pytest.raises(UsageError, match="column 'tags' of type list"):
        job(tiny, tmp_path / "feed.parquet", tmp_path / "out.csv")


@pytest.mark.parametrize(
    "column",
    [
        pa.array([b"\xff" * 16], pa.binary(16)),
        pa.array([b"\xff"], pa.binary()).dictionary_encode(),
    ],
)
def test_bytes_of_any_type_are_refused_for_csv_before_the_run(
    tiny: Bundle, tmp_path: Path, column: pa.Array
) -> None:
    pq.write_table(pa.table({"title": ["red"], "key": column}), tmp_path / "feed.parquet")
    with pytest.raises(UsageError, match="column 'key'"):
        job(tiny, tmp_path / "feed.parquet", tmp_path / "out.csv")


@pytest.mark.parametrize("cell", [{"price": float("nan")}, {"picture": b"\xff"}, {"label": "a"}])
def test_lists_of_the_catalog_are_refused_for_csv_before_the_run(
    tiny: Bundle, tmp_path: Path, cell: dict[str, Any]
) -> None:
    pq.write_table(pa.table({"title": ["red"], "offers": [[cell]]}), tmp_path / "feed.parquet")
    with pytest.raises(UsageError, match="column 'offers' of type list"):
        job(tiny, tmp_path / "feed.parquet", tmp_path / "out.csv")


def test_views_of_text_go_into_csv(tiny: Bundle, tmp_path: Path) -> None:
    notes = pa.array(["a", None, "a longer note, with a comma"], pa.string_view())
    path = tmp_path / "feed.parquet"
    try:
        pq.write_table(pa.table({"title": ["red"] * 3, "note": notes}), path)
    except pa.ArrowNotImplementedError as error:
        pytest.skip(str(error))  # of an older Arrow
    run(job(tiny, path, tmp_path / "out.csv"))
    assert Catalog(tmp_path / "out.csv").read(["note"])["note"].to_pylist() == notes.to_pylist()


@pytest.mark.parametrize(("share", "rows"), [("29%", 100), ("29%", 1000), ("7%", 100), ("5%", 40)])
def test_as_many_failures_as_allowed_are_allowed(share: str, rows: int) -> None:
    allowed = MaxFailures.parse(share)
    most = round(float(share[:-1]) * rows / 100)
    assert not allowed.exceeded(most, rows)
    assert allowed.exceeded(most + 1, rows)


@pytest.mark.parametrize("name", ["feed.csv", "feed.parquet", "feed"])
def test_default_output_is_beside_the_catalog(tmp_path: Path, name: str) -> None:
    assert default_out(tmp_path / name) == tmp_path / "feed.labeled.parquet"


def test_default_output_of_the_current_folder_has_the_folders_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "feed").mkdir()
    monkeypatch.chdir(tmp_path / "feed")
    assert default_out(Path()).resolve() == tmp_path / "feed.labeled.parquet"


def test_output_of_the_wrong_kind_is_refused(catalog: Path, tmp_path: Path) -> None:
    source = Catalog(catalog)
    (tmp_path / "out.parquet").mkdir()
    (tmp_path / "file").touch()
    for name in ("out.parquet", "file", "nowhere/out.parquet"):
        with pytest.raises(OutputError, match="--out"):
            check_out(source, JobOptions(catalog, NAMES, tmp_path / name))
    shard = JobOptions(catalog, NAMES, tmp_path / "one.parquet", shard=Shard(1, 2))
    with pytest.raises(UsageError, match="--shard"):
        check_out(source, shard)


# ---- stopped and resumed


@pytest.mark.parametrize("name", ["out", "out.parquet", "out.csv"])
@pytest.mark.parametrize("rows", [0, 15, 16, 40, 69])
def test_stopped_and_resumed_equals_uninterrupted(
    tiny: Bundle, catalog: Path, tmp_path: Path, name: str, rows: int
) -> None:
    (tmp_path / "whole").mkdir()
    run(job(tiny, catalog, tmp_path / "whole" / name))
    (tmp_path / "stopped").mkdir()
    interrupt(job(tiny, catalog, tmp_path / "stopped" / name), rows)
    assert not (tmp_path / "stopped" / name).is_file()
    assert not (tmp_path / "stopped" / name / SUCCESS).exists()
    result = run(job(tiny, catalog, tmp_path / "stopped" / name))
    assert result.finished
    assert result.summary.num_rows == NUM_ROWS
    assert files(tmp_path / "stopped") == files(tmp_path / "whole")


def test_finished_parts_are_not_done_again(tiny: Bundle, catalog: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    interrupt(job(tiny, catalog, out), 40)
    before = {part: part.stat().st_ino for part in out.glob("part-*")}
    assert len(before) == 2
    result = run(job(tiny, catalog, out))
    assert result.stages.computed_rows == NUM_ROWS - 32
    assert {part: part.stat().st_ino for part in before} == before


@pytest.mark.parametrize("name", ["out", "out.parquet"])
def test_finished_run_is_left_alone(tiny: Bundle, catalog: Path, tmp_path: Path, name: str) -> None:
    first = run(job(tiny, catalog, tmp_path / name))
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    second = run(job(tiny, catalog, tmp_path / name))
    assert second.was_done
    assert second.finished
    assert second.stages.computed_rows == 0
    assert second.summary == first.summary
    after = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    assert {p: t for p, t in after.items() if p.is_file()} == {
        p: t for p, t in before.items() if p.is_file()
    }


@pytest.mark.parametrize("last_act", ["published", "renamed"])
def test_kill_at_the_very_end_leaves_nothing_to_redo_and_nothing_behind(
    tiny: Bundle, catalog: Path, tmp_path: Path, last_act: str
) -> None:
    out, store = tmp_path / "out.parquet", tmp_path / ".out.parquet.tagger"
    interrupt(job(tiny, catalog, out), 69)
    shutil.copytree(store, tmp_path / "copy")
    run(job(tiny, catalog, out))
    before = out.read_bytes()
    name = store.name if last_act == "published" else f"{store.name}.removed"
    shutil.move(tmp_path / "copy", tmp_path / name)
    result = run(job(tiny, catalog, out))
    assert result.finished
    assert out.read_bytes() == before
    assert result.stages.computed_rows <= NUM_ROWS % PART_ROWS
    assert not list(tmp_path.glob(".out*"))


def test_leftovers_of_a_killed_writer_disturb_nobody(
    tiny: Bundle, catalog: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    interrupt(job(tiny, catalog, out), 20)
    (out / ".part-00001.parquet.1-of-1.partial").write_bytes(b"half")
    assert ds.dataset(out).to_table().num_rows == PART_ROWS
    run(job(tiny, catalog, out))
    assert sorted(files(out)) == sorted(
        [*(f"part-{k:05d}.parquet" for k in range(5)), MANIFEST, SUCCESS]
    )


LEFTOVERS = (f".{MANIFEST}", f".{SUCCESS}", ".previous", ".part-00004.parquet")


def leave(out: Path, *shares: str) -> set[str]:
    """What a kill at the worst moments leaves of these shares in the directory; its names."""
    names = {f"{name}.{share}.partial" for name in LEFTOVERS for share in shares}
    for name in names:
        (out / name).write_bytes(b"half")
    return names


@pytest.mark.parametrize("stopped_after", [20, None])
def test_leftovers_of_killed_runs_are_gone_when_the_run_finishes(
    tiny: Bundle, catalog: Path, tmp_path: Path, stopped_after: int | None
) -> None:
    out = tmp_path / "out"
    if stopped_after is None:
        run(job(tiny, catalog, out))
        (out / SUCCESS).unlink()
    else:
        interrupt(job(tiny, catalog, out), stopped_after)
    leave(out, "1-of-1", "2-of-3")
    (out / f".{MANIFEST}.4711.partial").write_bytes(b"half")
    (out / ".shard-2-of-3.lock").touch()
    assert run(job(tiny, catalog, out)).finished
    parts = [f"part-{k:05d}.parquet" for k in range(5)]
    assert sorted(files(out)) == sorted([*parts, MANIFEST, SUCCESS])


def test_shard_deletes_its_own_leftovers_and_nobody_elses(
    tiny: Bundle, catalog: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(job(tiny, catalog, out, shard=Shard(1, 2)))
    leave(out, "2-of-2")
    theirs = leave(out, "1-of-2", "12-of-2")
    assert run(job(tiny, catalog, out, shard=Shard(2, 2))).finished
    assert {name for name in files(out) if name.endswith(".partial")} == theirs


# ---- another run in the same place

OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("tasks was color,pattern, is color", {"tasks": ["color"]}),
    ("top-k was not given, is 2", {"top_k": 2}),
    ("limit was not given, is 20", {"limit": 20}),
    ("batch size was 64, is 3", {"batch_size": 3}),
    ("title column was title, is id", {"columns": Columns(title="id")}),
    ("image root was ", {"image_root": Path("/")}),
    ("paths outside it was refused, is allowed", {"confined": False}),
]


@pytest.mark.parametrize(("difference", "options"), OTHERS, ids=[name for name, _ in OTHERS])
@pytest.mark.parametrize("stopped", [True, False])
@pytest.mark.parametrize("name", ["out", "out.parquet"])
def test_another_run_is_refused_by_what_differs(
    tiny: Bundle,
    catalog: Path,
    tmp_path: Path,
    difference: str,
    options: dict[str, Any],
    stopped: bool,
    name: str,
) -> None:
    first = job(tiny, catalog, tmp_path / name)
    if stopped:
        interrupt(first, 20)
    else:
        run(first)
    before = files(tmp_path)
    with pytest.raises(OtherRunError, match=difference) as caught:
        run(job(tiny, catalog, tmp_path / name, **options))
    assert "--overwrite" in caught.value.hint
    assert {k: v for k, v in files(tmp_path).items() if not k.endswith(".lock")} == {
        k: v for k, v in before.items() if not k.endswith(".lock")
    }


def test_changed_catalog_is_another_run(
    tiny: Bundle, make_catalog: MakeCatalog, tmp_path: Path
) -> None:
    run(job(tiny, make_catalog([{"title": "red"}]), tmp_path / "out.parquet"))
    with pytest.raises(OtherRunError, match="catalog was "):
        run(job(tiny, make_catalog([{"title": "blue"}]), tmp_path / "out.parquet"))


@pytest.mark.parametrize("name", ["out", "out.parquet"])
@pytest.mark.parametrize("stopped", [True, False])
def test_overwrite_replaces_another_run_and_leaves_no_stale_part(
    tiny: Bundle, catalog: Path, tmp_path: Path, name: str, stopped: bool
) -> None:
    first = job(tiny, catalog, tmp_path / name)
    if stopped:
        interrupt(first, 60)
    else:
        run(first)
    run(job(tiny, catalog, tmp_path / name, limit=20, overwrite=True))
    (tmp_path / "fresh").mkdir()
    run(job(tiny, catalog, tmp_path / "fresh" / name, limit=20))
    out, fresh = tmp_path / name, tmp_path / "fresh" / name
    if out.is_dir():
        assert files(out) == files(fresh)
    else:
        assert out.read_bytes() == fresh.read_bytes()
    assert not list(tmp_path.glob(".out*"))


def test_overwriting_run_that_is_stopped_goes_on(
    tiny: Bundle, catalog: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.parquet"
    run(job(tiny, catalog, out, limit=5))
    interrupt(job(tiny, catalog, out, overwrite=True), 40)
    assert pq.read_table(out).num_rows == 5, "readers keep the old output until the new is whole"
    result = run(job(tiny, catalog, out, overwrite=True))
    assert result.stages.computed_rows == NUM_ROWS - 32
    assert pq.read_table(out).num_rows == NUM_ROWS


@pytest.mark.parametrize("name", ["out.parquet", "out.csv"])
def test_file_that_is_there_already_is_kept_unless_overwriting_is_asked(
    tiny: Bundle, catalog: Path, tmp_path: Path, name: str
) -> None:
    out = tmp_path / name
    out.write_bytes(b"mine")
    with pytest.raises(OtherRunError, match="is there already: nothing in it says"):
        run(job(tiny, catalog, out))
    assert out.read_bytes() == b"mine"
    assert run(job(tiny, catalog, out, overwrite=True)).finished
    assert Catalog(out).num_rows == NUM_ROWS


def test_folder_of_other_files_is_never_touched(
    tiny: Bundle, catalog: Path, tmp_path: Path
) -> None:
    out = tmp_path / "photos"
    out.mkdir()
    (out / "part-00000.parquet").write_bytes(b"mine")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="not empty"):
            run(job(tiny, catalog, out, overwrite=overwrite))
    assert files(out) == {"part-00000.parquet": b"mine"}


def test_hidden_files_and_those_with_an_underscore_are_no_other_files(
    tiny: Bundle, catalog: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in ("_logs", ".DS_Store"):
        (out / name).write_bytes(b"mine")
    assert run(job(tiny, catalog, out)).finished
    assert (out / "_logs").read_bytes() == (out / ".DS_Store").read_bytes() == b"mine"


def test_manifest_of_another_format_is_refused(tiny: Bundle, catalog: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(job(tiny, catalog, out, limit=3))
    manifest = json.loads((out / MANIFEST).read_text())
    (out / MANIFEST).write_text(json.dumps({**manifest, "format_version": 99}))
    before = files(out)
    with pytest.raises(OutputError, match="format_version 99"):
        run(job(tiny, catalog, out, limit=3))
    assert files(out) == before


def test_finished_run_is_unfinished_before_its_parts_go(tmp_path: Path) -> None:
    old = RunDirectory(tmp_path / "out").open({"a": "1"}, overwrite=False)
    old.part(0).mkdir()  # which cannot be deleted as a file is
    old.finish(lambda part: 1, 1)
    assert old.finished
    old.close()
    with pytest.raises(OutputError):
        RunDirectory(tmp_path / "out").open({"a": "2"}, overwrite=True)
    assert not RunDirectory(tmp_path / "out").finished


def test_folder_beside_the_output_is_never_touched(
    tiny: Bundle, catalog: Path, tmp_path: Path
) -> None:
    beside = tmp_path / "out.removed"
    beside.mkdir()
    (beside / "mine").write_bytes(b"mine")
    run(job(tiny, catalog, tmp_path / "out"))
    assert files(beside) == {"mine": b"mine"}


@pytest.mark.parametrize("name", ["out", "out.parquet"])
def test_two_runs_on_one_output_do_not_mix(
    tiny: Bundle, catalog: Path, tmp_path: Path, name: str
) -> None:
    second = job(tiny, catalog, tmp_path / name)

    def progress(rows: int) -> None:
        with pytest.raises(LockedError, match="another run"):
            run(second)

    assert run(job(tiny, catalog, tmp_path / name), progress).finished


def test_output_that_another_run_publishes_meanwhile_is_kept(
    tiny: Bundle, catalog: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.parquet"

    class Late(Bundle):
        """Another run is quicker than it is to open its cache."""

        def answerer(self, cache: Path | None = None) -> AbstractContextManager[Encoder]:
            run(job(tiny, catalog, out, top_k=2))
            return super().answerer(cache)

    late = Late(**{field.name: getattr(tiny, field.name) for field in fields(tiny)})
    with pytest.raises(OtherRunError, match="top-k"):
        run(job(late, catalog, out))
    assert read_fingerprint(out)["top-k"] == "2"


def test_catalog_written_to_during_the_run_stops_it(
    tiny: Bundle, catalog: Path, tmp_path: Path
) -> None:
    copy = shutil.copy(catalog, tmp_path / "copy.parquet")
    out = tmp_path / "out"

    def progress(rows: int) -> None:
        if (out / "part-00000.parquet").exists():
            os.utime(catalog, ns=(1, 1))

    with pytest.raises(CatalogChangedError, match="changed while it was read"):
        run(job(tiny, catalog, out), progress)
    assert [p.name for p in out.glob("part-*")] == ["part-00000.parquet"]
    assert run(job(tiny, copy, out, image_root=tmp_path)).finished, "same bytes: it goes on"


def test_catalog_written_to_when_all_parts_are_there_is_not_published(
    tiny: Bundle, catalog: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(job(tiny, catalog, out))
    (out / SUCCESS).unlink()
    with pytest.raises(CatalogChangedError, match="changed while it was read"):
        run(job(tiny, catalog, out), lambda rows: os.utime(catalog, ns=(1, 1)))
    assert not (out / SUCCESS).exists()


# ---- shards


@pytest.mark.parametrize("count", [2, 3, 7])
def test_union_of_the_shards_is_the_full_run(
    tiny: Bundle, catalog: Path, tmp_path: Path, count: int
) -> None:
    run(job(tiny, catalog, tmp_path / "full"))
    rows = 0
    for number in range(count, 0, -1):
        result = run(job(tiny, catalog, tmp_path / "out", shard=Shard(number, count)))
        rows += result.stages.computed_rows
        assert result.finished == (number == 1)
        assert (tmp_path / "out" / SUCCESS).exists() == (number == 1)
    assert rows == NUM_ROWS
    assert files(tmp_path / "out") == files(tmp_path / "full")


def test_shards_work_at_the_same_time_but_no_share_twice(
    tiny: Bundle, catalog: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done: list[Result] = []

    def progress(rows: int) -> None:
        if not done:
            done.append(run(job(tiny, catalog, out, shard=Shard(2, 2))))
            with pytest.raises(LockedError):
                run(job(tiny, catalog, out, shard=Shard(1, 2)))

    result = run(job(tiny, catalog, out, shard=Shard(1, 2)), progress)
    assert done[0].stages.computed_rows + result.stages.computed_rows == NUM_ROWS
    assert result.finished
    assert not done[0].finished
    assert done[0].missing > 0


@pytest.mark.parametrize("count", [3, 7])
def test_shares_that_overwrite_leave_what_the_others_have_done(
    tiny: Bundle, catalog: Path, tmp_path: Path, count: int
) -> None:
    run(job(tiny, catalog, tmp_path / "out", top_k=2))
    run(job(tiny, catalog, tmp_path / "full"))
    for number in range(1, count + 1):
        run(job(tiny, catalog, tmp_path / "out", shard=Shard(number, count), overwrite=True))
    assert files(tmp_path / "out") == files(tmp_path / "full")


def test_share_does_not_overwrite_its_own_run_once_that_has_finished(
    tiny: Bundle, catalog: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(job(tiny, catalog, out))
    before = files(out)
    again = job(tiny, catalog, out, shard=Shard(2, 3), overwrite=True)
    for do in (run, dry_run):
        with pytest.raises(OtherRunError, match="share 2/3 does not overwrite parts") as caught:
            do(again)
        assert f"rm -r {out}" in caught.value.hint
    assert files(out) == before


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "a/b", "-1/2", "1/2/3", "1/0"])
def test_shard_that_is_none_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="--shard"):
        Shard.parse(text)


@pytest.mark.parametrize("starts", [[0], [3, 9], [10, 20, 29], [29]])
@pytest.mark.parametrize("size", [1, 4, 30, 100])
def test_reader_finds_rows_by_number(starts: Sequence[int], size: int) -> None:
    table = pa.table({"n": range(30)})
    reader = RowReader(iter(table.to_batches(max_chunksize=size)), 0)
    for start in starts:
        end = min(start + 5, 30)
        rows = [n for batch in reader.rows(start, end) for n in batch["n"].to_pylist()]
        assert rows == list(range(start, end))
    with pytest.raises(CatalogError, match="ends after"):
        list(reader.rows(28, 31))


@pytest.mark.parametrize(("size", "count"), [(10, 5000), (COPY_BYTES // 10, 50)])
def test_finished_rows_are_read_in_batches_of_bounded_rows_and_bytes(
    tmp_path: Path, size: int, count: int
) -> None:
    cells = [str(n).encode().ljust(size) for n in range(count)]
    pq.write_table(pa.table({"image": cells}), tmp_path / "part.parquet", row_group_size=count // 2)
    batches = list(part_rows(tmp_path / "part.parquet"))
    assert [cell for batch in batches for cell in batch["image"].to_pylist()] == cells
    assert max(batch.num_rows for batch in batches) == min(COPY_ROWS, COPY_BYTES // size - 1)
    assert max(batch.nbytes for batch in batches) <= COPY_BYTES


# ---- failures


@pytest.mark.parametrize("name", ["out", "out.parquet"])
def test_retry_failed_does_the_failed_rows_again_and_no_other(
    tiny: Bundle, make_catalog: MakeCatalog, tmp_path: Path, name: str
) -> None:
    titles = [{"id": str(n), "image": f"images/{n}.jpg", "title": "red"} for n in range(40)]
    for n in range(40):
        if n not in (3, 20, 21):
            save_picture(tmp_path / f"images/{n}.jpg", n)
    path = make_catalog(titles)
    run(job(tiny, path, tmp_path / name))
    before = pq.read_table(tmp_path / name)
    save_picture(tmp_path / "images/3.jpg", 3)
    save_picture(tmp_path / "images/20.jpg", 20)
    result = run(job(tiny, path, tmp_path / name, retry_failed=True))
    assert result.finished
    assert result.stages.computed_rows == 3
    after = pq.read_table(tmp_path / name)
    statuses = after["image_status"].to_pylist()
    assert [n for n in range(40) if statuses[n] != "ok"] == [21]
    same = pa.array([n for n in range(40) if n not in (3, 20, 21)])
    assert after.take(same).equals(before.take(same))
    run(job(tiny, path, tmp_path / f"fresh.{name}.parquet"))
    same_answers(after, pq.read_table(tmp_path / f"fresh.{name}.parquet"))


def test_retry_failed_of_a_stopped_run_also_finishes_it(
    tiny: Bundle, catalog: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.parquet"
    interrupt(job(tiny, catalog, out), 40)
    result = run(job(tiny, catalog, out, retry_failed=True))
    assert result.finished
    run(job(tiny, catalog, tmp_path / "fresh.parquet"))
    same_answers(pq.read_table(out), pq.read_table(tmp_path / "fresh.parquet"))


def test_stopped_retry_loses_nothing(tiny: Bundle, catalog: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    run(job(tiny, catalog, out))
    before = pq.read_table(out)
    interrupt(job(tiny, catalog, out, retry_failed=True), 30)
    assert pq.read_table(out).equals(before)
    run(job(tiny, catalog, out))
    same_answers(pq.read_table(out), before)
    assert not list(tmp_path.glob(".out*"))


@pytest.mark.parametrize(("limit", "fails"), [("13", True), ("200", False), ("1%", True)])
def test_too_many_failures_publish_nothing(
    tiny: Bundle, catalog: Path, tmp_path: Path, limit: str, fails: bool
) -> None:
    out = tmp_path / "out.parquet"
    strict = job(tiny, catalog, out, max_failures=MaxFailures.parse(limit))
    if fails:
        with pytest.raises(TooManyFailuresError, match="not_found") as caught:
            run(strict)
        assert "--retry-failed" in caught.value.hint
        assert not out.exists()
        result = run(job(tiny, catalog, out))
        assert result.finished, "what was done is kept"
        assert result.stages.computed_rows < NUM_ROWS
    else:
        assert run(strict).finished


def test_failures_are_counted_over_finished_parts_too(
    tiny: Bundle, catalog: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.parquet"
    interrupt(job(tiny, catalog, out), 69)
    with pytest.raises(TooManyFailuresError):
        run(job(tiny, catalog, out, max_failures=MaxFailures(count=0)))


def test_share_with_too_many_failures_is_not_published_by_the_others(
    tiny: Bundle, make_catalog: MakeCatalog, tmp_path: Path
) -> None:
    rows = [{"title": "red", "image": "gone.jpg" if n < 3 else None} for n in range(32)]
    catalog, out = make_catalog(rows), tmp_path / "out"

    def share(number: int, limit: str) -> Result:
        most = MaxFailures.parse(limit)
        return run(job(tiny, catalog, out, shard=Shard(number, 2), max_failures=most))

    with pytest.raises(TooManyFailuresError, match="3 of 16"):
        share(1, "2")
    with pytest.raises(TooManyFailuresError, match="3 of 32"):
        share(2, "2")
    assert not (out / SUCCESS).exists()
    assert share(2, "3").finished


def test_bad_products_without_an_id_go_by_their_row_in_the_catalog(
    tiny: Bundle, tmp_path: Path
) -> None:
    titles = [b"red"] * 32
    titles[19] = titles[30] = b"\xff"
    feed = tmp_path / "feed.parquet"
    pq.write_table(pa.table({"title": pa.array(titles).cast(pa.string(), safe=False)}), feed)
    second = job(tiny, feed, tmp_path / "out", shard=Shard(2, 2))
    summary = run(second).summary
    assert summary.title_examples == {"unreadable": ["row 20", "row 31"]}
    assert summary.reasons == "2 titles unreadable (row 20, row 31)"
    assert summary.image_examples == {"missing": ["row 17", "row 18", "row 19"]}
    assert run(second).summary == summary, "told the same of parts that were there"


def test_product_without_picture_and_title_failed_and_one_without_picture_did_not(
    tiny: Bundle, make_catalog: MakeCatalog, tmp_path: Path
) -> None:
    rows = [{"title": "red"}, {"title": None}, {"title": "blue"}]
    result = run(job(tiny, make_catalog(rows), tmp_path / "out"))
    assert result.summary.num_failed == 1


@pytest.mark.parametrize("text", ["", "x", "-1", "101%", "%", "1.5", "nan%"])
def test_limit_of_failures_that_is_none_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="--max-failures"):
        MaxFailures.parse(text)


# ---- carried over


def test_only_new_and_changed_products_are_labelled(
    tiny: Bundle, make_catalog: MakeCatalog, tmp_path: Path
) -> None:
    rows = mixed_rows(tmp_path, 60)
    run(job(tiny, make_catalog(rows, "monday.parquet"), tmp_path / "mon.parquet"))
    rows[5]["title"] = "a new title"
    rows[7]["price"] = 99.0
    save_picture(tmp_path / "images/10.jpg", 4711)
    rows = [{"id": "new", "image": None, "title": "new product", "price": 1.0}, *rows[::-1]]
    path = make_catalog(rows, "tuesday.parquet")
    monday = tmp_path / "mon.parquet"
    result = run(job(tiny, path, tmp_path / "tue.parquet", incremental=monday))
    assert result.stages.computed_rows == 3
    run(job(tiny, path, tmp_path / "fresh.parquet"))
    table = pq.read_table(tmp_path / "tue.parquet")
    same_answers(table, pq.read_table(tmp_path / "fresh.parquet"))
    assert table["price"].to_pylist() == [row["price"] for row in rows]


def test_carried_answers_are_the_same_bits(tiny: Bundle, catalog: Path, tmp_path: Path) -> None:
    run(job(tiny, catalog, tmp_path / "a"))
    result = run(job(tiny, catalog, tmp_path / "b", incremental=tmp_path / "a", part_rows=9))
    assert result.stages.computed_rows == 0
    assert ds.dataset(tmp_path / "b").to_table().equals(ds.dataset(tmp_path / "a").to_table())


@pytest.mark.parametrize("options", [{"top_k": 2}, {"tasks": ["color"], "top_k": 1}])
def test_nothing_is_carried_over_from_a_run_with_other_options(
    tiny: Bundle, catalog: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    run(job(tiny, catalog, tmp_path / "a", tasks=["color"]))
    result = run(job(tiny, catalog, tmp_path / "b", incremental=tmp_path / "a", **options))
    assert result.stages.computed_rows == NUM_ROWS
    assert "nothing was carried over" in result.remark


@pytest.mark.parametrize(
    "name",
    [
        "model",
        "top-k",
        "minimum precision",
        "mapping",
        "device",
        "computed in",
        "tagger",
        "pillow",
        "torch",
        "open_clip_torch",
    ],
)
def test_nothing_is_carried_over_from_an_output_made_otherwise(
    tiny: Bundle, make_catalog: MakeCatalog, tmp_path: Path, name: str
) -> None:
    catalog, earlier = make_catalog([{"title": "red"}] * 3), tmp_path / "a.parquet"
    run(job(tiny, catalog, earlier))
    table = pq.read_table(earlier)
    made = {**read_fingerprint(earlier), name: "another"}
    metadata = {**table.schema.metadata, FINGERPRINT: json.dumps(made).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), earlier)
    result = run(job(tiny, catalog, tmp_path / "b.parquet", incremental=earlier))
    assert result.stages.computed_rows == 3
    assert f"nothing was carried over from {earlier}, which differs in: {name}" in result.remark


def test_stopped_incremental_run_goes_on(tiny: Bundle, catalog: Path, tmp_path: Path) -> None:
    run(job(tiny, catalog, tmp_path / "a"))
    options: dict[str, Any] = {"incremental": tmp_path / "a"}
    interrupt(job(tiny, catalog, tmp_path / "b.parquet", **options), 33)
    run(job(tiny, catalog, tmp_path / "b.parquet", **options))
    assert pq.read_table(tmp_path / "b.parquet").equals(ds.dataset(tmp_path / "a").to_table())


# ---- columns that are there


def test_own_columns_are_replaced_if_asked_and_the_users_never(
    tiny: Bundle, catalog: Path, tmp_path: Path
) -> None:
    run(job(tiny, catalog, tmp_path / "a.parquet", top_k=3))
    with pytest.raises(CatalogError, match="already") as caught:
        job(tiny, tmp_path / "a.parquet", tmp_path / "b.parquet")
    assert "--overwrite-own-columns" in caught.value.hint
    again = job(tiny, tmp_path / "a.parquet", tmp_path / "b.parquet", overwrite_own_columns=True)
    run(again)
    run(job(tiny, catalog, tmp_path / "c.parquet"))
    assert pq.read_table(tmp_path / "b.parquet").equals(pq.read_table(tmp_path / "c.parquet"))
    mine = pq.read_table(catalog).append_column("color_label", pa.array(["mine"] * NUM_ROWS))
    pq.write_table(mine, tmp_path / "mine.parquet")
    with pytest.raises(CatalogError, match="column 'color_label' already") as caught:
        job(tiny, tmp_path / "mine.parquet", tmp_path / "d.parquet", overwrite_own_columns=True)
    assert "--overwrite-own-columns" not in caught.value.hint, "it was given, and does not help"


def test_pictures_in_the_catalog_are_as_good_as_files(
    tiny: Bundle, catalog: Path, tmp_path: Path
) -> None:
    table = pq.read_table(catalog)
    run(job(tiny, catalog, tmp_path / "files.parquet"))
    paths = table["image"].to_pylist()
    known = [p if p and (tmp_path / p).exists() else None for p in paths]
    data = [(tmp_path / p).read_bytes() if p else None for p in known]
    pairs = [
        {"bytes": d if n % 2 else None, "path": p}
        for n, (d, p) in enumerate(zip(data, known, strict=True))
    ]
    kinds = {
        "binary": pa.array(data, pa.binary()),
        "large": pa.array(data, pa.large_binary()),
        "struct": pa.array(pairs, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
    }
    for name, column in kinds.items():
        path = tmp_path / f"{name}.parquet"
        pq.write_table(table.set_column(1, "image", column), path)
        run(job(tiny, path, tmp_path / f"{name}.out.parquet"))
        answers = pq.read_table(tmp_path / f"{name}.out.parquet")
        expected = pq.read_table(tmp_path / "files.parquet")
        rows = pa.array([n for n in range(NUM_ROWS) if known[n] or not paths[n]])
        same_answers(
            answers.drop_columns(["image"]).take(rows), expected.drop_columns(["image"]).take(rows)
        )


def test_picture_outside_the_root_is_used_only_if_allowed(
    tiny: Bundle, make_catalog: MakeCatalog, tmp_path: Path
) -> None:
    save_picture(tmp_path / "outside.jpg", 1)
    path = make_catalog(
        [{"image": "../outside.jpg"}, {"image": str(tmp_path / "outside.jpg")}], "in/feed.parquet"
    )
    for allowed, status in ((False, "outside_root"), (True, "ok")):
        out = tmp_path / f"{allowed}.parquet"
        run(job(tiny, path, out, confined=not allowed))
        assert pq.read_table(out)["image_status"].to_pylist() == [status] * 2


def test_title_that_is_not_utf8_is_a_status(tiny: Bundle, tmp_path: Path) -> None:
    raw = pa.array([b"red", b"gr\xf6n", None, b"caf\xc3\xa9"], pa.binary())
    titles = pa.Array.from_buffers(pa.string(), 4, raw.buffers())
    pq.write_table(pa.table({"title": titles}), tmp_path / "feed.parquet")
    run(job(tiny, tmp_path / "feed.parquet", tmp_path / "out.parquet"))
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["title_status"].to_pylist() == ["ok", "unreadable", "missing", "ok"]
    assert table["color_status"].to_pylist() == ["ok", "error", "error", "ok"]
    assert table["title"].cast(pa.binary()).to_pylist() == raw.to_pylist()


def test_title_that_is_not_utf8_does_not_spoil_a_csv(tiny: Bundle, tmp_path: Path) -> None:
    raw = pa.array([b"red", b"gr\xf6n", b"caf\xc3\xa9"], pa.binary())
    titles = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    pq.write_table(pa.table({"title": titles}), tmp_path / "feed.parquet")
    run(job(tiny, tmp_path / "feed.parquet", tmp_path / "out.csv"))
    labelled = Catalog(tmp_path / "out.csv").read(["title", "title_status"]).to_pylist()
    assert [row["title"] for row in labelled] == ["red", "gr\ufffdn", "caf\u00e9"]
    assert [row["title_status"] for row in labelled] == ["ok", "unreadable", "ok"]


def test_categories_do_not_make_the_output_grow(tiny: Bundle, tmp_path: Path) -> None:
    dice = random.Random(0)  # what repeats itself would be compressed
    brands = [f"{dice.getrandbits(800):x}" for _ in range(400)]
    plain = pa.table({"title": ["red"] * 400, "brand": brands})
    coded = plain.set_column(1, "brand", plain["brand"].dictionary_encode())
    sizes = []
    for number, table in enumerate((plain, coded)):
        feed, out = tmp_path / f"{number}.parquet", tmp_path / f"{number}.parts"
        pq.write_table(table, feed)
        run(job(tiny, feed, out, part_rows=100))
        parts = Catalog(out)
        assert parts.read(["brand"])["brand"].to_pylist() == brands
        assert parts.schema.field("brand").type == table.schema.field("brand").type
        sizes.append(sum(len(content) for content in files(out).values()))
    assert sizes[1] < 1.5 * sizes[0]


@pytest.mark.parametrize("name", ["out:v2.parquet", "out:v2.csv", "out:v2"])
def test_output_with_a_colon_in_its_name_is_a_file(
    tiny: Bundle, catalog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(job(tiny, catalog, Path(name), limit=5)).finished
    assert Catalog(Path(name)).num_rows == 5


def test_a_few_categories_keep_their_order_and_those_that_no_product_has(
    tiny: Bundle, tmp_path: Path
) -> None:
    sizes = pd.Categorical(["L", "S"] * 100 + ["M"] * 100, categories=["S", "M", "L", "XL"])
    feed = pd.DataFrame({"title": ["red"] * 300, "size": sizes})
    feed.to_parquet(tmp_path / "feed.parquet")
    run(job(tiny, tmp_path / "feed.parquet", tmp_path / "out.parquet"))
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "out.parquet")[list(feed)], feed)


def test_categories_that_a_small_code_cannot_number_together_are_kept(
    tiny: Bundle, tmp_path: Path
) -> None:
    (tmp_path / "feed").mkdir()
    for part in range(2):
        brands = pa.array([f"brand {part} {k}" for k in range(100)])
        codes = brands.dictionary_encode().cast(pa.dictionary(pa.int8(), pa.string()))
        table = pa.table({"title": ["red"] * 100, "brand": codes})
        pq.write_table(table, tmp_path / "feed" / f"{part}.parquet")
    run(job(tiny, tmp_path / "feed", tmp_path / "out.parquet", part_rows=4096))
    read = [
        row["brand"]
        for batch in Catalog(tmp_path / "out.parquet").batches(50)
        for row in batch.to_pylist()
    ]
    assert read == [f"brand {part} {k}" for part in range(2) for k in range(100)]


@pytest.mark.parametrize(
    "kind", [pa.string_view(), pa.binary_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_retry_failed_takes_columns_of_any_type(
    tiny: Bundle, tmp_path: Path, kind: pa.DataType
) -> None:
    values = [None if n % 4 == 0 else f"v{n}".encode() for n in range(9)]
    text = [v and v.decode() for v in values]
    note = pa.array(values if kind == pa.binary_view() else text, kind)
    images = [f"{n}.jpg" for n in range(9)]
    table = pa.table({"image": images, "title": ["red"] * 9, "note": note})
    try:
        pq.write_table(table, tmp_path / "feed.parquet")
    except pa.ArrowNotImplementedError:
        pytest.skip("this pyarrow writes no such columns")
    for n in (1, 4, 8):
        save_picture(tmp_path / images[n], n)
    run(job(tiny, tmp_path / "feed.parquet", tmp_path / "out.parquet"))
    save_picture(tmp_path / images[3], 3)
    run(job(tiny, tmp_path / "feed.parquet", tmp_path / "out.parquet", retry_failed=True))
    after = pq.read_table(tmp_path / "out.parquet")
    assert after["note"].to_pylist() == note.to_pylist()
    fine = [n for n, status in enumerate(after["image_status"].to_pylist()) if status == "ok"]
    assert fine == [1, 3, 4, 8]


# ---- asked beforehand, told afterwards


def test_dry_run_writes_nothing_and_knows_the_rows(
    tiny: Bundle, catalog: Path, tmp_path: Path
) -> None:
    before = files(tmp_path)
    estimate = dry_run(job(tiny, catalog, tmp_path / "out.parquet"))
    assert files(tmp_path) == before
    assert estimate.num_rows == NUM_ROWS
    assert estimate.sample.num_rows > 0
    assert estimate.seconds > 0
    assert estimate.num_bytes > 1000


@pytest.mark.parametrize("limit", [1, 3, 20, NUM_ROWS])
def test_dry_run_tries_no_row_twice_and_none_beyond_the_limit(
    tiny: Bundle, catalog: Path, tmp_path: Path, limit: int
) -> None:
    estimate = dry_run(job(tiny, catalog, tmp_path / "out.parquet", limit=limit))
    assert estimate.num_rows == estimate.sample.num_rows == limit


def test_dry_run_of_a_share_is_of_that_share(tiny: Bundle, catalog: Path, tmp_path: Path) -> None:
    last = job(tiny, catalog, tmp_path / "out", shard=Shard(5, 5))
    assert dry_run(last).num_rows == NUM_ROWS - 4 * PART_ROWS


def test_estimate_is_of_all_rows_and_not_of_the_sample(
    tiny: Bundle, make_catalog: MakeCatalog, tmp_path: Path
) -> None:
    path = make_catalog([{"title": title} for title in random_titles(5120)])
    part = dry_run(job(tiny, path, tmp_path / "out.parquet", limit=256))
    started = time.monotonic()
    whole = dry_run(job(tiny, path, tmp_path / "out.parquet"))
    took = time.monotonic() - started
    assert whole.sample.num_rows == part.sample.num_rows == 256
    assert whole.num_bytes == pytest.approx(20 * part.num_bytes, rel=0.3)
    assert whole.seconds > took


def test_dry_run_refuses_a_folder_that_cannot_be_written(tiny: Bundle, catalog: Path) -> None:
    with pytest.raises(OutputError, match="cannot write /proc"):
        dry_run(job(tiny, catalog, Path("/proc/labelled.parquet")))


def test_dry_run_refuses_what_the_run_would_refuse(
    tiny: Bundle, catalog: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(job(tiny, catalog, out))
    before = files(out)
    with pytest.raises(OtherRunError, match="top-k"):
        dry_run(job(tiny, catalog, out, top_k=2))
    dry_run(job(tiny, catalog, out, top_k=2, overwrite=True))
    dry_run(job(tiny, catalog, out))
    assert files(out) == before


def test_dry_run_refuses_a_cache_that_cannot_be_written_and_more_failures_than_are_allowed(
    tiny: Bundle, catalog: Path, tmp_path: Path
) -> None:
    out, file = tmp_path / "out", tmp_path / "file"
    file.write_text("")
    before = files(tmp_path)
    with pytest.raises(OutputError, match="file"):
        dry_run(job(tiny, catalog, out, cache=file))
    with pytest.raises(TooManyFailuresError, match="nothing is published"):
        dry_run(job(tiny, catalog, out, max_failures=MaxFailures(count=0)))
    dry_run(job(tiny, catalog, out, cache=tmp_path / "cache", max_failures=MaxFailures(share=0.9)))
    assert files(tmp_path) == before
    assert not (tmp_path / "cache").exists()


def test_cache_in_the_directory_of_the_output_is_refused_before_it_is_made(
    tiny: Bundle, catalog: Path, tmp_path: Path
) -> None:
    for cache in (tmp_path / "out", tmp_path / "out" / "cache"):
        with pytest.raises(UsageError, match="holds --cache"):
            job(tiny, catalog, tmp_path / "out", cache=cache)
    assert run(job(tiny, catalog, tmp_path / "out", cache=tmp_path / "cache")).finished


def test_report_tells_rows_statuses_and_stages(tiny: Bundle, catalog: Path, tmp_path: Path) -> None:
    this = job(tiny, catalog, tmp_path / "out")
    report = run(this).report(this)
    assert report.rows == report.computed_rows == NUM_ROWS
    assert sum(report.image_status.values()) == NUM_ROWS
    assert set(report.seconds_by_stage) == {"read", "decode", "model", "write"}
    assert report.bottleneck in report.seconds_by_stage
    assert report.fingerprint == this.fingerprint
    assert report.finished


def test_lock_is_given_back_when_the_run_ends(tmp_path: Path) -> None:
    first = RunDirectory(tmp_path / "out").open({"a": "1"}, overwrite=False)
    with pytest.raises(LockedError):
        RunDirectory(tmp_path / "out").open({"a": "1"}, overwrite=False)
    first.close()
    RunDirectory(tmp_path / "out").open({"a": "1"}, overwrite=False).close()


def test_share_waits_a_little_for_one_that_has_the_directory_to_itself(tmp_path: Path) -> None:
    alone = RunDirectory(tmp_path / "out").open({"a": "1"}, overwrite=False)
    Timer(0.2, alone.close).start()
    RunDirectory(tmp_path / "out", Shard(1, 2)).open({"a": "1"}, overwrite=False).close()


def test_csv_cannot_say_what_made_it_and_is_not_blamed_for_another_model(
    tiny: Bundle, catalog: Path, tmp_path: Path
) -> None:
    run(job(tiny, catalog, tmp_path / "a.csv"))
    result = run(job(tiny, catalog, tmp_path / "b.parquet", incremental=tmp_path / "a.csv"))
    assert "does not say what made it" in result.remark


def test_retry_with_too_many_failures_leaves_a_finished_directory_finished(
    tiny: Bundle, catalog: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(job(tiny, catalog, out))
    before = files(out)
    none = MaxFailures(count=0)
    with pytest.raises(TooManyFailuresError, match="published before"):
        run(job(tiny, catalog, out, retry_failed=True, max_failures=none))
    assert files(out) == before
    shard = Shard(1, 2)
    with pytest.raises(TooManyFailuresError, match="published before"):
        run(job(tiny, catalog, out, retry_failed=True, max_failures=none, shard=shard))
    assert files(out) == before


def test_file_of_somebody_else_that_came_after_a_kill_is_not_overwritten(
    tiny: Bundle, catalog: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.csv"
    interrupt(job(tiny, catalog, out), 40)
    out.write_text("a,b\n1,2\n")
    with pytest.raises(OtherRunError):
        run(job(tiny, catalog, out))
    assert out.read_text() == "a,b\n1,2\n"
    out.unlink()
    assert run(job(tiny, catalog, out)).finished


def test_finished_run_stays_finished_while_another_one_that_is_to_replace_it_is_not(
    tiny: Bundle, catalog: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.parquet"
    run(job(tiny, catalog, out))
    interrupt(job(tiny, catalog, out, top_k=2, overwrite=True), 40)
    before = files(tmp_path)
    assert run(job(tiny, catalog, out)).was_done
    assert files(tmp_path) == before
    assert run(job(tiny, catalog, out, top_k=2, overwrite=True)).finished
    assert not list(tmp_path.glob(".*"))


def test_finished_directory_is_only_read(tiny: Bundle, catalog: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = run(job(tiny, catalog, out))
    before = out.stat().st_mtime_ns
    again = run(job(tiny, catalog, out))
    assert again.was_done
    assert again.summary == first.summary
    half = run(job(tiny, catalog, out, shard=Shard(1, 2)))
    assert half.was_done
    assert half.summary.num_rows == NUM_ROWS - 2 * PART_ROWS
    assert out.stat().st_mtime_ns == before, "no lock and no other file was made in it"


def test_too_many_failures_of_a_finished_run_are_said_as_often_as_it_is_run(
    tiny: Bundle, catalog: Path, tmp_path: Path
) -> None:
    for out in (tmp_path / "out.parquet", tmp_path / "out"):
        run(job(tiny, catalog, out))
        with pytest.raises(TooManyFailuresError, match="it was published before"):
            run(job(tiny, catalog, out, max_failures=MaxFailures(count=0)))


@pytest.mark.parametrize("content", [b"", b"PAR1 half of it"])
def test_damaged_part_is_named(tiny: Bundle, catalog: Path, tmp_path: Path, content: bytes) -> None:
    run(job(tiny, catalog, tmp_path / "out"))
    part = tmp_path / "out" / "part-00001.parquet"
    whole = files(tmp_path / "out")
    part.write_bytes(content)
    with pytest.raises(OutputError, match=r"part-00001\.parquet is damaged") as caught:
        run(job(tiny, catalog, tmp_path / "out"))
    assert "delete it" in caught.value.hint
    part.unlink()
    result = run(job(tiny, catalog, tmp_path / "out"))
    assert not result.was_done
    assert files(tmp_path / "out") == whole


def test_what_the_machine_cannot_read_is_not_called_damaged(
    tiny: Bundle, catalog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    run(job(tiny, catalog, tmp_path / "out"))
    again = job(tiny, catalog, tmp_path / "out")
    monkeypatch.setattr(pq, "ParquetFile", busy)
    with pytest.raises(OutputError, match=r"part-00000\.parquet cannot be read") as caught:
        run(again)
    assert "delete" not in caught.value.hint


def test_run_that_has_done_nothing_is_in_nobodys_way(
    tiny: Bundle, catalog: Path, tmp_path: Path, make_catalog: MakeCatalog
) -> None:
    for out in (tmp_path / "out", tmp_path / "out.parquet", tmp_path / "out.csv"):
        interrupt(job(tiny, catalog, out), 0)
        other = make_catalog([{"title": "red"}], "other.csv")
        assert run(job(tiny, other, out)).finished
    stranger = tmp_path / "stranger.csv"
    interrupt(job(tiny, catalog, stranger), 0)
    stranger.write_text("a,b\n")
    with pytest.raises(OtherRunError):
        run(job(tiny, catalog, stranger))
    assert stranger.read_text() == "a,b\n"


def test_column_that_cannot_be_a_title_is_refused_before_anything_is_written(
    tiny: Bundle, tmp_path: Path
) -> None:
    path = tmp_path / "catalog.parquet"
    pq.write_table(pa.table({"title": [["red"], ["blue"]]}), path)
    with pytest.raises(CatalogError, match="'title' holds list"):
        job(tiny, path, tmp_path / "out")


@pytest.mark.parametrize("name", ["out.parquet", "out"])
def test_output_behind_a_link_is_written_where_it_leads(
    tiny: Bundle, catalog: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / name).symlink_to(tmp_path / "elsewhere" / name)
    run(job(tiny, catalog, tmp_path / name))
    assert (tmp_path / name).is_symlink()
    assert Catalog(tmp_path / "elsewhere" / name).num_rows == NUM_ROWS
    assert not list(tmp_path.glob(f".{name}*"))


def test_link_with_another_ending_than_its_target_is_refused(
    tiny: Bundle, catalog: Path, tmp_path: Path
) -> None:
    (tmp_path / "latest.parquet").symlink_to(tmp_path / "blob")
    with pytest.raises(UsageError, match="another ending"):
        job(tiny, catalog, tmp_path / "latest.parquet")


def test_output_whose_name_is_not_utf8_is_refused(
    tiny: Bundle, catalog: Path, tmp_path: Path
) -> None:
    with pytest.raises(OutputError, match="not UTF-8"):
        job(tiny, catalog, tmp_path / "x\udcff.parquet")


def test_folders_of_two_days_have_two_outputs(tmp_path: Path) -> None:
    for name in ("feed.2026-11-26", "feed.2026-11-27", "feed.parquet"):
        (tmp_path / name).mkdir()
    outs = {default_out(path).name for path in tmp_path.iterdir()}
    assert outs == {
        "feed.2026-11-26.labeled.parquet", "feed.2026-11-27.labeled.parquet",
        "feed.labeled.parquet",
    }  # fmt: skip


def test_incremental_that_is_not_there_is_named(
    tiny: Bundle, catalog: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="--incremental: there is no"):
        job(tiny, catalog, tmp_path / "out", incremental=tmp_path / "nowhere")
