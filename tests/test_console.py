"""The terminal: what progress and tables look like."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from tqdm import tqdm
from typer.testing import CliRunner

from tagger import console
from tagger.cli import app
from tagger.console import LONGEST_STAGE, Bar, table


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What progress bars write to a terminal of 80 columns."""
    sink = io.StringIO()

    def draw(**options: object) -> tqdm:
        return tqdm(**{**options, "disable": False, "file": sink, "ncols": 80, "mininterval": 0})

    monkeypatch.setattr(console, "tqdm", draw)
    return sink


def test_no_bar_is_drawn_before_something_is_done(terminal: io.StringIO) -> None:
    with pytest.raises(ValueError, match="early"), Bar("products"):
        raise ValueError("early")
    assert terminal.getvalue() == ""
    with Bar("products", 4) as bar:
        bar.advance(2)
    assert "2/4" in terminal.getvalue()


def test_each_stage_has_a_clock_and_a_rate_of_its_own(
    terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.time", lambda: clock[0])
    monkeypatch.setattr("tqdm.std.time", lambda: clock[0])
    with Bar("products") as bar:
        for stage, seconds in (("slow", 100), ("quick", 1)):
            for done in (50, 100):
                clock[0] += seconds
                bar.move_in(done, 100, stage)
    assert "100/100 [03:20<" in terminal.getvalue()
    last = terminal.getvalue().rsplit("\r", 1)[-1]
    assert "quick: 100%" in last
    assert "100/100 [00:02<00:00, 50.00 products/s]" in last


def test_a_bar_stands_beside_the_longest_name(terminal: io.StringIO) -> None:
    names = ["a model that somebody gave a name of many words, " + end for end in ("1", "2, worse")]
    with Bar("products") as bar:
        for name in names:
            bar.move_in(5, 10, name)
            shown = terminal.getvalue().rsplit("\r", 1)[-1]
            assert " 50%|" in shown
            assert shown.split(":")[0].endswith(name[-10:])
            assert len(shown.split(":")[0]) == LONGEST_STAGE


@pytest.mark.parametrize("width", [30, 60, 80])
def test_no_name_in_a_table_is_cut(width: int) -> None:
    names = ["Kleidersackhülle", "a label of several words", "supercalifragilistic" * 3]
    made = table("labels", "task", "products", "of which are right, and how sure that is")
    for name in names:
        made.add_row(name, "1,234", name)
    sink = io.StringIO()
    Console(file=sink, width=width).print(made)
    shown = sink.getvalue()
    assert "…" not in shown
    for column in (1, 3):
        rows = [line.split("│")[column] for line in shown.splitlines() if "│" in line]
        joined = "".join("".join(rows).split())
        assert joined == "".join("".join(names).split())


@pytest.mark.parametrize(
    ("command", "whole"),
    [
        ("train", "'kind=dept>category'"),
        ("eval", "'kind=dept>category'"),
        ("export", "open_clip, the"),
    ],
)
def test_help_shows_examples_and_choices_whole_at_80_columns(command: str, whole: str) -> None:
    env = {"COLUMNS": "80", "TERM": "dumb", "TERMINAL_WIDTH": "80"}
    shown = CliRunner(env=env).invoke(app, [command, "--help"]).output
    assert "…" not in shown
    assert whole in shown
