"""The command line: exit codes, two lines on stderr, nothing where nobody looks."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import tagger
from tagger import cli
from tagger.catalog import Catalog
from tagger.config import DEFAULT_MODEL
from tagger.errors import (
    CatalogChangedError,
    CatalogError,
    DiskFullError,
    DriftError,
    ExportError,
    LockedError,
    ModelError,
    NotExportableError,
    OtherRunError,
    OutputError,
    TaggerError,
    TaxonomyError,
    TooManyFailuresError,
    TrainingError,
    UsageError,
    WeightsError,
)
from tagger.version import __version__

from .conftest import MakeCatalog, mixed_rows, random_titles, save_tiny, tiny_config


@dataclass(frozen=True)
class Result:
    """How a command ended and what it printed."""

    code: int
    stdout: str
    stderr: str


Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`tagger` with these arguments, in this process."""

    def call(*arguments: str | Path) -> Result:
        monkeypatch.setattr(sys, "argv", ["tagger", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        printed = capsys.readouterr()
        return Result(code, printed.out, printed.err)

    return call


@pytest.fixture
def catalog(make_catalog: MakeCatalog, tmp_path: Path) -> Path:
    """Ten products."""
    return make_catalog(mixed_rows(tmp_path, 10), "catalog.csv")


def test_every_error_class_has_its_exit_code() -> None:
    codes = {
        UsageError: 2,
        CatalogError: 3,
        ModelError: 4,
        TrainingError: 5,
        OutputError: 6,
        WeightsError: 7,
        DiskFullError: 8,
        LockedError: 9,
        CatalogChangedError: 10,
        TooManyFailuresError: 11,
        OtherRunError: 12,
        DriftError: 13,
        ExportError: 14,
        NotExportableError: 15,
        TaxonomyError: 16,
    }
    assert set(TaggerError.__subclasses__()) == set(codes)
    for kind, code in codes.items():
        assert kind("message").exit_code == code


def check_error(result: Result, code: int, *words: str) -> None:
    """Two lines on stderr: the error with all of `words`, and a hint."""
    assert result.code == code, result.stderr
    assert result.stdout == ""
    error, hint = result.stderr.splitlines()
    assert error.startswith("error: ")
    assert hint.startswith("hint: ")
    assert len(hint) > len("hint: ")
    for word in words:
        assert word in error


def test_usage_errors_exit_with_2(run: Run, catalog: Path, model_dir: Path) -> None:
    given = ("predict", catalog, "--model", model_dir)
    check_error(run(*given, "--tasks", ","), 2, "no task")
    check_error(run(*given, "--tasks", "color,color"), 2, "'color'")
    check_error(run(*given, "--tasks", "color", "--shard", "3/2"), 2, "3/2")
    check_error(run(*given, "--tasks", "color", "--device", "quantum"), 2, "'quantum'")
    check_error(run(*given, "--tasks", "color", "--device", "meta"), 2, "'meta'")
    assert run(*given).code == 2
    assert run(*given, "--tasks", "color", "--colour").code == 2
    assert run(*given, "--tasks", "color", "--top-k", "0").code == 2
    assert run("label").code == 2


@pytest.mark.parametrize(
    "options",
    [
        ("--drift", "--calibrate"),
        ("--drift", "--json", "figures.json"),
        ("--calibrate", "--label-issues", "issues.parquet"),
        ("--delta", "0.05"),
        ("--per-label",),
    ],
)
def test_options_of_eval_that_do_not_go_together_are_refused(
    run: Run, catalog: Path, model_dir: Path, options: tuple[str, ...]
) -> None:
    given = ("eval", catalog, "--model", model_dir, "--tasks", "color")
    check_error(run(*given, *options), 2, options[0])


def test_eval_overwrites_neither_the_catalog_nor_its_own_files(
    run: Run, make_catalog: MakeCatalog, model_dir: Path, tmp_path: Path
) -> None:
    path = make_catalog([{"title": "red shirt", "color": "Red"}])
    before = path.read_bytes()
    given = ("eval", path, "--model", model_dir, "--tasks", "color")
    for option in ("--report", "--json", "--label-issues"):
        check_error(run(*given, option, path), 2, path.name, "already")
        check_error(run(*given, option, tmp_path), 2, "a folder")
    twice = tmp_path / "a.html"
    check_error(run(*given, "--report", twice, "--json", twice), 2, "already")
    assert path.read_bytes() == before
    assert not twice.exists()


def test_predict_overwrites_neither_the_catalog_nor_the_output_with_its_reports(
    run: Run, make_catalog: MakeCatalog, model_dir: Path, tmp_path: Path
) -> None:
    path = make_catalog([{"title": "red shirt"}]).rename(tmp_path / "feed.csv")
    path.write_text("title\nred shirt\n")
    out = tmp_path / "out.csv"
    given = ("predict", path, "--model", model_dir, "--tasks", "color", "--out", out)
    for option in ("--review", "--report"):
        check_error(run(*given, option, path), 2, "feed.csv", "already")
        check_error(run(*given, option, out), 2, "out.csv", "already")
    assert path.read_text() == "title\nred shirt\n"
    assert not out.exists(), "refused before the work"
    through = tmp_path / "through.json"
    through.symlink_to(tmp_path / "elsewhere.json")
    (tmp_path / "elsewhere.json").write_text("")
    assert run(*given, "--report", through).code == 0
    assert through.is_symlink()
    assert json.loads(through.read_text())["rows"] == 1


def long_name(folder: Path) -> Path:
    return folder / ("x" * 300 + ".parquet")


def circle_of_links(folder: Path) -> Path:
    path = folder / "circle.parquet"
    path.symlink_to(path)
    return path


def folder_without_rights(folder: Path) -> Path:
    closed = folder / "closed"
    closed.mkdir(mode=0)
    return closed / "x.parquet"


@pytest.mark.parametrize(
    "lost",
    [
        long_name,
        circle_of_links,
        pytest.param(
            folder_without_rights,
            marks=pytest.mark.skipif(os.getuid() == 0, reason="root may look anywhere"),
        ),
    ],
)
def test_paths_that_the_system_cannot_look_up_are_errors_of_what_they_were_given_for(
    run: Run, catalog: Path, model_dir: Path, tmp_path: Path, lost: Callable[[Path], Path]
) -> None:
    path = lost(tmp_path)
    tasks = ("--tasks", "color")
    given = ("predict", catalog, *tasks, "--model", model_dir)
    for option, code in {
        "--out": 6,
        "--report": 6,
        "--incremental": 2,
        "--image-root": 2,
    }.items():
        check_error(run(*given, option, path), code, path.name, "cannot be looked up")
    check_error(run("predict", catalog, *tasks, "--model", path), 4, path.name)
    check_error(run("predict", path, *tasks, "--model", model_dir), 3, path.name)
    check_error(run("eval", path, *tasks, "--model", model_dir), 3, path.name)
    train = ("train", catalog, *tasks, "--model", model_dir)
    check_error(run(*train, "--out", path), 6, path.name)
    check_error(run(*train, "--out", tmp_path / "new", "--pretrained", path), 7, path.name)
    check_error(run("export", model_dir, "--format", "onnx", "--out", path), 6, path.name)


@pytest.mark.skipif(os.getuid() == 0, reason="root may read anything")
def test_catalog_that_may_not_be_read_exits_with_3(
    run: Run, make_catalog: MakeCatalog, model_dir: Path
) -> None:
    for name in ("closed.csv", "closed.parquet", "parts/closed.parquet"):
        path = make_catalog([{"title": "red shirt"}], name)
        path.chmod(0)
        given = ("--tasks", "color", "--model", model_dir)
        check_error(run("predict", path, *given), 3, name, "Permission denied")
        check_error(run("eval", path, *given), 3, name, "Permission denied")
    folder = path.parent
    folder.chmod(0)
    check_error(run("predict", folder, *given), 3, "parts", "Permission denied")
    folder.chmod(0o700)  # so that it can be deleted


def test_output_whose_name_leaves_no_room_for_that_of_its_parts_is_refused_before_the_work(
    run: Run, catalog: Path, model_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / ("x" * 234 + ".parquet")
    given = ("predict", catalog, "--model", model_dir, "--tasks", "color", "--out", out)
    check_error(run(*given, "--dry-run"), 6, "too long")
    check_error(run(*given), 6, "too long")
    check_error(run(*given[:-2], "--report", out.with_suffix(".json")), 6, "too long")
    check_error(run("eval", *given[1:-2], "--json", out.with_suffix(".json")), 6, "too long")
    assert not list(tmp_path.glob("*xxx*"))


def test_pipes_are_refused_where_a_file_is_read_twice_or_replaced(
    run: Run, catalog: Path, model_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "parts").mkdir()
    file, part = tmp_path / "pipe.parquet", tmp_path / "parts" / "pipe.parquet"
    for pipe in (file, part):
        os.mkfifo(pipe)
    given = ("--model", model_dir, "--tasks", "color")
    check_error(run("predict", catalog, *given, "--out", file), 6, "is a pipe")
    check_error(run("predict", catalog, *given, "--incremental", file), 3, "is a pipe")
    check_error(run("predict", file, *given), 3, "is a pipe")
    check_error(run("predict", part.parent, *given), 3, "is a pipe")


def test_folder_with_the_name_of_the_default_model_is_taken_only_where_it_is_named(
    run: Run,
    make_catalog: MakeCatalog,
    model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = make_catalog([{"title": "red shirt", "color": "Red"}])
    monkeypatch.chdir(tmp_path)
    shutil.copytree(model_dir, DEFAULT_MODEL)
    digests = [tagger.load().bundle.sha256, tagger.load(DEFAULT_MODEL).bundle.sha256]
    assert digests[0] != digests[1]
    for digest, options in zip(digests, ((), ("--model", DEFAULT_MODEL)), strict=True):
        given = (path, "--tasks", "color", *options)
        assert run("predict", *given, "--overwrite").code == 0
        (out,) = tmp_path.glob("*.labeled.parquet")
        assert pq.read_schema(out).metadata[b"tagger_model_sha256"].decode() == digest
        assert run("eval", *given, "--json", "eval.json").code == 0
        assert digest in Path("eval.json").read_text()


def test_model_that_came_with_tagger_is_not_calibrated_by_name(run: Run, catalog: Path) -> None:
    result = run("eval", catalog, "--tasks", "color", "--calibrate")
    assert result.code == 2
    assert "came with tagger" in result.stderr
    assert "cp -r" in result.stderr


def test_eval_says_which_pictures_it_could_not_use(
    run: Run, make_catalog: MakeCatalog, model_dir: Path
) -> None:
    rows = [{"image": "nowhere.jpg", "title": "red shirt", "color": "Red"}] * 3
    given = ("eval", make_catalog(rows), "--model", model_dir, "--tasks", "color")
    assert "pictures that could not be used: 3 not_found" in run(*given).stderr


def test_eval_says_where_pictures_were_looked_for_if_none_is_found(
    run: Run, make_catalog: MakeCatalog, calibrated_dir: Path, onnx_dir: Path, tmp_path: Path
) -> None:
    rows = [{"image": f"{n}.jpg", "title": "red shirt", "color": "Red"} for n in range(40)]
    given = ("eval", make_catalog(rows), "--model", calibrated_dir, "--tasks", "color")
    advice = f"their paths start at {tmp_path}; name that with --image-root"
    assert advice in run(*given).stderr
    assert advice in run(*given, "--drift").stderr
    assert advice in run(*given, "--model", onnx_dir).stderr
    titles = make_catalog([{**row, "image": None} for row in rows], "titles.csv")
    assert "--image-root" not in run("eval", titles, *given[2:]).stderr


@pytest.mark.parametrize("name", ["FORCE_COLOR", "TTY_COMPATIBLE"])
def test_no_progress_bar_goes_into_a_pipe_that_colors_may_go_into(
    run: Run, catalog: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "1")
    done = run("predict", catalog, "--tasks", "color", "--model", model_dir)
    assert done.code == 0
    assert "10 rows" in done.stderr
    assert "products/s" not in done.stderr
    assert "\r" not in done.stderr


def test_control_characters_of_labels_do_not_reach_the_terminal(
    run: Run, make_catalog: MakeCatalog, model_dir: Path
) -> None:
    rows = [{"title": "red shirt", "color": "\x1b[31mRED\u202e"}] * 3
    result = run("eval", make_catalog(rows), "--model", model_dir, "--tasks", "color")
    assert result.code == 0
    assert "RED" in result.stdout
    assert "\x1b" not in result.stdout + result.stderr
    assert "\u202e" not in result.stdout + result.stderr


def test_catalog_errors_exit_with_3(run: Run, catalog: Path, model_dir: Path) -> None:
    options = ("--tasks", "color", "--model", model_dir)
    check_error(run("predict", catalog.with_name("no.csv"), *options), 3, "no.csv")
    check_error(run("predict", catalog, "--title-column", "name", *options), 3, "'name'", "'price'")
    check_error(run("eval", catalog, *options), 3, "no label column 'color'", "'price'")


def test_model_errors_exit_with_4_and_name_what_is_known(
    run: Run, catalog: Path, model_dir: Path
) -> None:
    known = ("'color', 'pattern'", "'shape'")
    for command in ("predict", "eval"):
        given = (command, catalog, "--tasks")
        check_error(run(*given, "color,shape", "--model", model_dir), 4, *known)
        check_error(run(*given, "color", "--model", "no-such"), 4, "no-such", "on the shelf: ")
        check_error(run(*given, "color", "--model", catalog.parent), 4, "has no config.json")


def test_output_errors_exit_with_6(run: Run, catalog: Path, model_dir: Path) -> None:
    out = catalog.parent / "nowhere" / "a.parquet"
    options = ("--tasks", "color", "--model", model_dir, "--out", out)
    check_error(run("predict", catalog, *options), 6, str(out))


def test_error_is_printed_as_it_is_and_in_one_line(
    run: Run, model_dir: Path, make_catalog: MakeCatalog
) -> None:
    path = make_catalog([{"[bold]x[/bold]": "a"}], f"{'long name ' * 15}[red].csv")
    result = run("predict", path, "--tasks", "color", "--model", model_dir)
    check_error(result, 3, "'[bold]x[/bold]'", path.name)


def test_error_about_a_name_with_a_newline_is_still_two_lines(run: Run, tmp_path: Path) -> None:
    check_error(run("predict", tmp_path / "a\nb.csv", "--tasks", "color"), 3, "no such catalog")


def test_bug_keeps_its_traceback(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Catalog, "__init__", broken)
    with pytest.raises(ZeroDivisionError):
        run("predict", tmp_path / "a.csv", "--tasks", "color")


def test_predict_writes_beside_the_catalog_and_says_so(
    run: Run, catalog: Path, model_dir: Path
) -> None:
    result = run("predict", catalog, "--tasks", "pattern,color", "--model", model_dir, "--top-k", 2)
    out = catalog.parent / "catalog.labeled.parquet"
    assert result.code == 0
    assert pq.read_table(out).num_rows == 10
    names = pq.read_schema(out).names
    assert names.index("pattern_label") < names.index("color_label")
    assert str(out) in result.stderr
    assert "10 rows" in result.stderr
    assert "could not be used" in result.stderr


def test_nothing_moves_in_the_mail_of_a_cron_job(run: Run, catalog: Path, model_dir: Path) -> None:
    result = run("predict", catalog, "--tasks", "color", "--model", model_dir)
    assert result.stdout == ""
    assert not set("\r\x1b%") & set(result.stderr)


def test_quiet_says_nothing_but_errors(run: Run, catalog: Path, model_dir: Path) -> None:
    options = ("predict", catalog, "--tasks", "color", "--model", model_dir, "--quiet")
    assert run(*options) == Result(0, "", "")
    check_error(run(*options, "--top-k", 2), 12, "top-k was not given, is 2")


def test_messages_for_programs_are_one_json_document_a_line(
    run: Run, catalog: Path, model_dir: Path
) -> None:
    options = ("--tasks", "color", "--model", model_dir, "--log-format", "json")
    done = run("predict", catalog, *options)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.code == 0
    assert len(lines) >= 2
    assert all(line["level"] == "info" and line["time"] and line["message"] for line in lines)
    failed = run("predict", catalog, *options, "--limit", 3)
    (line,) = [json.loads(line) for line in failed.stderr.splitlines()]
    assert line["level"] == "error"
    assert line["exit_code"] == failed.code == 12
    assert "--overwrite" in line["hint"]


def test_dry_run_and_report(run: Run, catalog: Path, model_dir: Path, tmp_path: Path) -> None:
    options = ("predict", catalog, "--tasks", "color", "--model", model_dir)
    before = sorted(tmp_path.rglob("*"))
    dry = run(*options, "--dry-run")
    assert dry.code == 0
    assert "10 rows" in dry.stderr
    assert "nothing was written" in dry.stderr
    assert sorted(tmp_path.rglob("*")) == before
    assert run(*options, "--report", tmp_path / "run.json").code == 0
    report = json.loads((tmp_path / "run.json").read_text())
    assert report["rows"] == 10
    assert report["finished"]
    assert sum(report["title_status"].values()) == 10


@pytest.mark.parametrize("name", ["out.xlsx", "out.TSV", "out.CSV", "out.csv.gz", "out.pq"])
def test_an_output_called_as_a_file_of_another_kind_becomes_no_directory(
    run: Run, catalog: Path, model_dir: Path, name: str
) -> None:
    given = ("predict", catalog, "--tasks", "color", "--model", model_dir, "--out")
    check_error(run(*given, catalog.parent / name), 2, name)
    assert not (catalog.parent / name).exists()
    for folder in ("parts", "parts.2026-11-27"):
        assert run(*given, catalog.parent / folder).code == 0
        assert (catalog.parent / folder / "_SUCCESS").exists()


def test_shares_say_what_is_missing(run: Run, catalog: Path, model_dir: Path) -> None:
    options = ("predict", catalog, "--tasks", "color", "--model", model_dir, "--out", "parts")
    out = catalog.parent / "parts"
    first = run(*options[:-1], out, "--shard", "2/2")
    assert first.code == 0
    assert "missing: 1 part of other shares" in first.stderr
    assert run(*options[:-1], out, "--shard", "1/2").code == 0
    assert (out / "_SUCCESS").exists()


def test_eval_writes_its_figures(run: Run, make_catalog: MakeCatalog, model_dir: Path) -> None:
    rows = [{"title": "red shirt", "color": color} for color in ("Red", "Blue", None, "Mauve")]
    path = make_catalog(rows, "labelled.csv")
    figures = path.parent / "metrics.json"
    result = run("eval", path, "--tasks", "color", "--model", model_dir, "--json", figures)
    assert result.code == 0
    assert '"unknown_labels": {\n' in figures.read_text()
    assert "'Mauve'" in result.stderr


def test_eval_says_which_task_has_no_label_at_all(
    run: Run, make_catalog: MakeCatalog, model_dir: Path
) -> None:
    path = make_catalog([{"title": "red", "color": "Red", "pattern": None}] * 3)
    given = ("eval", path, "--model", model_dir, "--tasks")
    result = run(*given, "color,pattern")
    assert result.code == 0
    assert "pattern: no product has a label" in result.stderr
    assert "color: no product" not in result.stderr
    check_error(run(*given, "pattern"), 3, "empty columns: 'pattern'")


@pytest.fixture
def second_dir(tmp_path: Path) -> Path:
    """A model whose directory has the name of that of `model_dir`."""
    return save_tiny(tmp_path / "second" / "tiny", tiny_config(), 2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--drift",), ("--drift", "several models")),
        (("--calibrate",), ("--calibrate", "several models")),
        (("--label-issues", "issues.parquet"), ("--label-issues", "several models")),
        (("--delta", "0.05"), ("--delta",)),
    ],
)
def test_options_for_one_model_are_refused_for_several(
    run: Run,
    catalog: Path,
    model_dir: Path,
    second_dir: Path,
    options: tuple[str, ...],
    words: tuple[str, ...],
) -> None:
    given = ("eval", catalog, "--tasks", "color", "--model", model_dir, "--model", second_dir)
    check_error(run(*given, *options), 2, *words)


def test_a_model_named_twice_is_refused_by_whatever_path(
    run: Run, catalog: Path, model_dir: Path
) -> None:
    again = model_dir / ".." / model_dir.name
    given = ("eval", catalog, "--tasks", "color", "--model", model_dir, "--model", again)
    check_error(run(*given), 2, "the same model", str(model_dir))


def test_tfidf_is_refused_without_a_model(run: Run, catalog: Path) -> None:
    check_error(run("eval", catalog, "--tasks", "color", "--tfidf", catalog), 2, "--tfidf")
    beside = ("--model", "fashion", "--tfidf", catalog, "--drift")
    check_error(run("eval", catalog, "--tasks", "color", *beside), 2, "--tfidf and --drift")


def test_a_comparison_says_in_words_and_in_json_what_sets_models_apart(
    run: Run,
    make_catalog: MakeCatalog,
    model_dir: Path,
    second_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tagger.console.results.width", 120)
    titles = random_titles(60)
    rows = [{"title": t, "color": ("Red", "Blue", "Mauve")[len(t) % 3]} for t in titles]
    path, figures, page = make_catalog(rows), tmp_path / "c.json", tmp_path / "c.html"
    models = ("--model", model_dir, "--model", second_dir)
    curves = tmp_path / "new" / "c.png"
    outputs = ("--json", figures, "--report", page, "--robustness", curves)
    result = run("eval", path, "--tasks", "color", *models, "--tfidf", path, *outputs)
    assert result.code == 0, result.stderr
    assert curves.read_bytes().startswith(b"\x89PNG")
    assert base64.b64encode(curves.read_bytes()).decode() in page.read_text()
    document = json.loads(figures.read_text())
    first, second, tfidf = document["models"]
    assert (first["name"], tfidf["name"]) == (f"{model_dir.parent.name}/tiny", "tfidf")
    assert second["name"] == "second/tiny"
    assert second["path"] == str(second_dir)
    assert (tfidf["sha256"], tfidf["flops_per_product"]) == (None, None)
    learned = [row for row in rows if row["color"] != "Mauve"]  # a label that no model knows
    assert tfidf["trained_on"] == document["trained_on"] == len(learned)
    for model in (second, tfidf):
        found = model["differences"]["both"]["mean"]["accuracy"]
        low, high = (f"{100 * end:+.1f}".replace("+0.0", "0.0") for end in found["interval"])
        assert f"{low} to {high}" in " ".join(result.stdout.split())
        noise = found["interval"][0] <= 0 <= found["interval"][1]
        assert not noise or f"{100 * found['difference']:+.1f} (noise)" in result.stdout
    some = len(learned)
    assert f"{some} of these 60 products were trained on (tfidf from {some})" in result.stderr
    assert "'Mauve'" in result.stderr
    assert "second/tiny" in page.read_text()


def test_what_a_command_reads_is_never_its_report(
    run: Run, make_catalog: MakeCatalog, model_dir: Path, tmp_path: Path
) -> None:
    feed = make_catalog([{"title": title, "color": "Red"} for title in random_titles(8)])
    other = tmp_path / "other.csv"
    other.write_text("title,color\nred,Red\nblue,Blue\n")
    before = other.read_bytes()
    given = ("--tasks", "color", "--model", model_dir)
    check_error(run("eval", feed, *given, "--tfidf", other, "--json", other), 2, "other.csv is")
    check_error(run("predict", feed, *given, "--incremental", other, "--report", other), 2, "other")
    (tmp_path / "feed").mkdir()
    shutil.copy(feed, tmp_path / "feed" / "a.parquet")
    within = ("eval", tmp_path / "feed", *given)
    for name in ("a.parquet", "b.pq"):
        check_error(run(*within, "--json", tmp_path / "feed" / name), 2, name)
    for _ in range(2):  # what is no part may lie beside them
        assert run(*within, "--json", tmp_path / "feed" / "eval.json").code == 0
    assert other.read_bytes() == before


def test_one_model_and_the_default_are_evaluated_as_ever(
    run: Run, make_catalog: MakeCatalog, model_dir: Path
) -> None:
    path = make_catalog([{"title": "red shirt", "color": "Red"}] * 3)
    alone = run("eval", path, "--tasks", "color", "--model", model_dir)
    assert "expected calibration error" in alone.stdout
    assert "difference" not in alone.stdout
    assert "expected calibration error" in run("eval", path, "--tasks", "color").stdout


def test_version_is_printed(run: Run) -> None:
    assert run("--version").stdout.strip() == f"tagger {__version__}"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["predict", "--help"],
        ["export", "--help"],
        ["predict", "no.csv", "--tasks", "a"],
    ],
    ids=" ".join,
)
def test_help_and_early_errors_do_not_wait_for_torch(arguments: list[str]) -> None:
    code = (
        "import sys, atexit\n"
        "atexit.register(lambda: print('LOADED', sorted({'torch', 'pandas', 'open_clip',"
        " 'matplotlib', 'sklearn', 'onnx', 'onnxruntime'} & set(sys.modules))))\n"
        "from tagger.cli import main\n"
        f"sys.argv = ['tagger', *{arguments!r}]\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert "LOADED []" in done.stdout


def test_module_runs_as_a_command(catalog: Path) -> None:
    command = [sys.executable, "-m", "tagger.cli", "predict", str(catalog), "--tasks", ","]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 2


def test_calibrated_model_abstains_in_predict_and_knows_its_own_feed(
    run: Run, model_dir: Path, make_catalog: MakeCatalog, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(model_dir, tmp_path / "model"))
    titles = [f"{title} {n % 7}" for n, title in enumerate(random_titles(400))]
    unlabelled = make_catalog([{"title": title} for title in titles], "unlabelled.parquet")
    options = ("--tasks", "color", "--model", model)
    assert run("predict", unlabelled, *options, "--out", tmp_path / "said.parquet").code == 0
    labels = pq.read_table(tmp_path / "said.parquet").column("color_label").to_pylist()
    right = [{"title": t, "color": c} for t, c in zip(titles, labels, strict=True)]
    labelled = make_catalog(right, "labelled.parquet")
    done = run("eval", labelled, *options, "--calibrate", "--precision", "0.8", "--delta", "0.05")
    assert done.code == 0, done.stderr
    assert "promised for each task with certainty 95.0%" in done.stdout
    sure = ("--out", tmp_path / "sure.parquet", "--min-precision", "default")
    assert "coverage" not in run("predict", unlabelled, *options, *sure).stderr
    assert run("eval", unlabelled, *options, "--drift").code == 0
    alike = make_catalog([{"title": "red shirt"}] * 300, "other.parquet")
    check_drifted = run("eval", alike, *options, "--drift")
    assert check_drifted.code == 13
    assert "has drifted" in check_drifted.stderr


def test_where_no_picture_is_found_it_says_where_they_were_looked_for(
    run: Run, make_catalog: MakeCatalog, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--tasks", "color", "--model", model_dir)
    lost = make_catalog([{"image": f"{n}.jpg", "title": "red"} for n in range(3)], "lost.csv")
    said = run("predict", lost, *options).stderr
    assert f"their paths start at {lost.parent}; name that with --image-root" in said
    assert "--allow-outside-root" not in said
    monkeypatch.chdir(lost.parent)  # "." would tell nothing
    said = run("predict", lost.name, *options, "--dry-run").stderr
    assert f"their paths start at {lost.parent};" in said
    outside = make_catalog([{"image": "../a.jpg", "title": "red"}], "outside.csv")
    assert "--allow-outside-root" in run("predict", outside, *options, "--dry-run").stderr
    titles = make_catalog([{"image": "", "title": "red"}], "titles.csv")
    assert "--image-root" not in run("predict", titles, *options).stderr


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("https://shop.example/1.jpg", "'https://shop.example/1.jpg' is an address"),
        ("s3://shop/1.jpg", "downloads nothing"),
        ("images\\1.jpg", "write / as in 'images/1.jpg'"),
    ],
)
def test_where_paths_are_none_of_this_machine_it_says_so(
    run: Run, make_catalog: MakeCatalog, model_dir: Path, path: str, words: str
) -> None:
    rows = [{"image": image, "title": "red", "color": "Red"} for image in (None, path)]
    options = (make_catalog(rows), "--tasks", "color", "--model", model_dir)
    for command in ("predict", "eval"):
        said = run(command, *options).stderr
        assert words in said
        assert "--image-root" not in said, "that helps nobody here"


def test_ids_and_names_are_printed_as_they_are(
    run: Run, make_catalog: MakeCatalog, model_dir: Path
) -> None:
    path = make_catalog([{"id": "a:100:b", "image": "no.jpg", "title": "red"}], "x:ok:.csv")
    done = run("predict", path, "--tasks", "color", "--model", model_dir)
    assert "(a:100:b)" in done.stderr
    assert "x:ok:.labeled.parquet: 1 row\n" in done.stderr


def test_report_of_an_older_run_is_not_taken_for_that_of_one_that_failed(
    run: Run, make_catalog: MakeCatalog, model_dir: Path, tmp_path: Path
) -> None:
    path = make_catalog([{"image": "no.jpg", "title": "red"}])
    options = ("--tasks", "color", "--model", model_dir, "--report", tmp_path / "run.json")
    assert run("predict", path, *options).code == 0
    assert (tmp_path / "run.json").is_file()
    again = ("--out", tmp_path / "b.parquet", "--max-failures", "0")
    assert run("predict", path, *options, *again).code == 11
    failed = json.loads((tmp_path / "run.json").read_text())
    assert failed["finished"] is False
    assert failed["exit_code"] == 11
    assert "1 of 1 products failed" in failed["error"]
    assert "--retry-failed" in failed["hint"]
    assert run("predict", tmp_path / "lost.csv", *options).code == 3
    assert "lost.csv" in json.loads((tmp_path / "run.json").read_text())["error"]
    (tmp_path / "run.json").write_text("old")
    (tmp_path / "run.json").chmod(0o400)  # is replaced, not written into
    assert run("predict", path, *options, "--overwrite").code == 0
    assert (tmp_path / "run.json").read_text().startswith("{")


def test_report_of_a_failed_run_does_not_stand_in_the_way_of_its_output(
    run: Run, make_catalog: MakeCatalog, model_dir: Path, tmp_path: Path
) -> None:
    path, out = tmp_path / "feed.parquet", tmp_path / "out"
    out.mkdir()
    options = ("--tasks", "color", "--model", model_dir, "--out", out, "--report", out / "run.json")
    assert run("predict", path, *options).code == 3
    make_catalog([{"title": "red", "image": "no.jpg"}], path.name)
    assert run("predict", path, *options, "--max-failures", "0").code == 11
    assert run("predict", path, *options).code == 0
    assert json.loads((out / "run.json").read_text())["finished"]


def test_files_of_an_older_run_are_not_taken_for_those_of_one_that_failed(
    run: Run, make_catalog: MakeCatalog, model_dir: Path, tmp_path: Path
) -> None:
    path = make_catalog([{"title": "red", "image": "no.jpg", "color": "Red"}])
    options = ("--tasks", "color", "--model", model_dir)
    old = {
        option: tmp_path / f"{option}.csv"
        for option in ("--review", "--json", "--label-issues", "--report", "--robustness")
    }
    for file in old.values():
        file.write_text("old")

    def files(*names: str) -> list[str | Path]:
        return [part for name in names for part in (name, old[name])]

    review = files("--review")
    assert run("predict", path, *options, *review, "--dry-run").code == 0
    assert run("predict", path, *options, *review, "--batch-size", "0").code == 2
    assert old["--review"].read_text() == "old", "nothing has begun"
    assert run("predict", path, *options, *review, "--max-failures", "0").code == 11
    lost = tmp_path / "lost.parquet"
    evaluated = files("--json", "--label-issues", "--report")
    assert run("eval", lost, *options, *evaluated).code == 3
    assert run("eval", lost, *options, *files("--robustness")).code == 3
    assert [file.read_text() for file in old.values()] == [""] * 5


@pytest.mark.parametrize("end", [0, 7])
def test_program_ends_with_the_code_of_the_command_whatever_threads_do(end: int) -> None:
    # A thread that is at work when the interpreter shuts down, as pyarrow's reader may be.
    code = (
        "import sys, threading, time\n"
        "from tagger import cli\n"
        "def main():\n"
        "    threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "    print('said')\n"
        f"    sys.exit({end})\n"
        "cli.main = main\n"
        "cli.program()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.stdout, done.returncode) == ("said\n", end)


def test_precision_that_is_none_is_named(run: Run, catalog: Path, model_dir: Path) -> None:
    options = ("--tasks", "color", "--model", model_dir)
    check_error(run("predict", catalog, *options, "--min-precision", "95"), 2, "between 0 and 1")


@pytest.mark.parametrize("command", ["train", "predict", "eval"])
def test_folder_that_was_deleted_is_said_in_two_lines(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    result = run(command, str(tmp_path / "feed.parquet"), "--tasks", "color")
    assert result.code == UsageError.exit_code
    error, hint = result.stderr.splitlines()
    assert "the folder that tagger runs in is gone" in error
    assert hint.endswith("cd")
