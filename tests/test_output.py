"""Files that appear under their name only when they are whole."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tagger.errors import CatalogError, DiskFullError, OutputError
from tagger.output import (
    RESUME,
    ROW_GROUP_ROWS,
    ParquetOutput,
    cannot_write,
    new_directory,
    write_json,
)

from .conftest import largest_file


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def numbers(count: int) -> Iterator[pa.RecordBatch]:
    return (pa.record_batch({"n": pa.array([n])}) for n in range(count))


SCHEMA = pa.schema([("n", pa.int64())])


@pytest.mark.parametrize("count", [0, 1, 10])
def test_output_is_whole_under_its_name_and_leaves_nothing_else(tmp_path: Path, count: int) -> None:
    out = tmp_path / "out.parquet"
    with ParquetOutput(out, SCHEMA) as output:
        for batch in numbers(count):
            output.write(batch)
            assert not out.exists()
    assert pq.read_table(out)["n"].to_pylist() == list(range(count))
    assert listing(tmp_path) == ["out.parquet"]


def write_and_fail(out: Path, rows: pa.RecordBatch, error: type[BaseException]) -> None:
    with ParquetOutput(out, SCHEMA) as output:
        output.write(rows)
        raise error("in the middle")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, CatalogError])
@pytest.mark.parametrize("num_rows", [1, ROW_GROUP_ROWS + 1])
def test_error_in_the_middle_keeps_the_older_output_and_leaves_no_temporary(
    tmp_path: Path, error: type[BaseException], num_rows: int
) -> None:
    out = tmp_path / "out.parquet"
    out.write_text("of the last run")
    rows = pa.record_batch({"n": pa.array(range(num_rows))})
    with pytest.raises(error):
        write_and_fail(out, rows, error)
    assert out.read_text() == "of the last run"
    assert listing(tmp_path) == ["out.parquet"]


def test_file_is_on_the_disk_before_it_gets_its_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int | str] = []
    replace = os.replace

    def renamed(old: Path, new: Path) -> None:
        calls.append("renamed")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", lambda descriptor: calls.append(os.fstat(descriptor).st_ino))
    monkeypatch.setattr(os, "replace", renamed)
    with ParquetOutput(tmp_path / "out.parquet", SCHEMA):
        pass
    file, folder = ((tmp_path / name).stat().st_ino for name in ("out.parquet", ""))
    assert calls == [file, "renamed", folder]


def test_row_groups_end_where_they_are_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tagger.output.ROW_GROUP_BYTES", 1 << 16)
    batch = pa.record_batch({"image": [bytes(1 << 15)]})
    with ParquetOutput(tmp_path / "out.parquet", batch.schema) as out:
        for _ in range(5):
            out.write(batch)
    written = pq.read_metadata(tmp_path / "out.parquet")
    assert [written.row_group(n).num_rows for n in range(written.num_row_groups)] == [2, 2, 1]


def test_output_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write") as caught:
        ParquetOutput(tmp_path / "file" / "a.parquet", SCHEMA)
    assert "--out" in caught.value.hint
    assert listing(tmp_path) == ["file"]


def test_full_disk_is_told_from_other_trouble_in_the_words_of_any_library() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    said = RuntimeError("I/O error: No space left on device (os error 28)")
    for error in (full, said):
        assert isinstance(cannot_write(Path("x"), error), DiskFullError)
    assert "--resume" in cannot_write(Path("x"), full, RESUME).hint
    for other in (PermissionError(errno.EACCES, "x"), RuntimeError("denied (os error 13)")):
        assert type(cannot_write(Path("x"), other)) is OutputError


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_disk_quota_and_limit_that_are_reached_are_full_disks(number: int) -> None:
    assert isinstance(cannot_write(Path("x"), OSError(number, "x")), DiskFullError)


def test_directory_that_found_no_room_does_not_promise_to_go_on(tmp_path: Path) -> None:
    def fill() -> None:
        with new_directory(tmp_path / "export") as folder:
            (folder / "weights").write_bytes(bytes(1 << 16))

    with largest_file(1 << 12), pytest.raises(DiskFullError) as caught:
        fill()
    assert "nothing is left of it; make room" in caught.value.hint
    assert listing(tmp_path) == []


def test_two_that_make_one_directory_do_not_touch_what_the_other_has(tmp_path: Path) -> None:
    def fill_second(path: Path) -> None:
        with new_directory(path) as folder:
            (folder / "b").write_text("second")
            path.mkdir()  # by a third one, which was first
            (path / "c").write_text("third")

    with new_directory(tmp_path / "model") as mine:
        (mine / "a").write_text("first")
        with pytest.raises(OutputError):
            fill_second(tmp_path / "model")
        assert (mine / "a").exists()
        (tmp_path / "model" / "c").unlink()
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "a"]


def test_folders_of_an_output_are_made(tmp_path: Path) -> None:
    write_json(tmp_path / "a" / "b" / "figures.json", {"accuracy": 1})
    with ParquetOutput(tmp_path / "c" / "d" / "out.parquet", SCHEMA):
        pass
    assert (tmp_path / "a" / "b" / "figures.json").read_text() == '{\n  "accuracy": 1\n}\n'
    assert (tmp_path / "c" / "d" / "out.parquet").exists()


def test_json_that_cannot_be_written_keeps_the_older_file_and_leaves_no_temporary(
    tmp_path: Path,
) -> None:
    path = tmp_path / "figures.json"
    path.write_text("older")
    with pytest.raises(TypeError):
        write_json(path, object())
    with pytest.raises(OutputError, match="cannot write"):
        write_json(path / "below", {})
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="cannot write"):
        write_json(tmp_path / "folder", {})
    assert path.read_text() == "older"
    write_json(path, {"name": "漢"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"name": "漢"}
    assert listing(tmp_path) == ["figures.json", "folder"]


def test_json_goes_through_pipes_and_links(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    write_json(Path(f"/dev/fd/{writer}"), {"a": 1})
    os.close(writer)
    with open(reader) as pipe:
        assert json.load(pipe) == {"a": 1}
    (tmp_path / "file.json").touch()
    (tmp_path / "link.json").symlink_to("file.json")
    write_json(tmp_path / "link.json", [2])
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "file.json").read_text()) == [2]
