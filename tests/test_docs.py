"""The README cannot lie: its tables and commands are those of the program."""

from __future__ import annotations

import re
import shlex
import signal
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tagger import errors
from tagger.cli import app
from tagger.columns import output_schema
from tagger.config import DEFAULT_DEFINITION, DEFAULT_MODEL
from tagger.images import IMAGE_STATUSES
from tagger.shelf import shelf
from tagger.tasks import Task
from tagger.titles import TITLE_STATUSES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.split("#")[0].strip() for line in README.splitlines() if re.match(r"tagger \w+ ", line)
]


def table_rows(heading: str) -> list[list[str]]:
    """Cells of the first table below `heading`, without its two header lines."""
    section = README.split(f"{heading}\n", 1)[1]
    lines = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)
    assert lines is not None
    return [[c.strip() for c in line.split("|")[1:-1]] for line in lines[0].splitlines()[2:]]


def test_exit_codes_are_those_of_the_exception_tree() -> None:
    documented = {int(code) for code, _ in table_rows("### Exit codes")}
    classes = {errors.TaggerError, *errors.TaggerError.__subclasses__()}
    signals = {128 + number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)}
    assert documented == {0} | signals | {kind.exit_code for kind in classes}
    codes = [kind.exit_code for kind in classes]
    assert len(codes) == len(set(codes))


def test_columns_are_those_of_the_output() -> None:
    names = [name for cell, *_ in table_rows("### predict") for name in re.findall("`(.+?)`", cell)]
    schema = output_schema([Task("<task>", ("a > b", "a > c"), " > ")], top_k=3)
    assert names == schema.names


def test_statuses_are_all_documented() -> None:
    rows = {cell: text for cell, _, text in table_rows("### predict")}
    for column, statuses in (
        ("`image_status`", IMAGE_STATUSES),
        ("`title_status`", TITLE_STATUSES),
    ):
        assert set(statuses) <= set(re.findall("`(.+?)`", rows[column]))


IN_TEXT = re.findall(r"`(tagger (?:train|predict|eval|export) [^`]+)`", README)
"""Commands in the middle of a paragraph."""


@pytest.mark.parametrize("command", [*COMMANDS, *IN_TEXT])
def test_every_option_of_a_shown_command_exists(command: str) -> None:
    _, name, *words = shlex.split(command)
    shown = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(app, [name, "--help"])
    assert shown.exit_code == 0
    for word in words:
        if word.startswith("--"):
            assert word in shown.output


@pytest.mark.parametrize("command", [*COMMANDS, *IN_TEXT])
def test_every_shown_command_names_the_tasks_that_it_needs(command: str) -> None:
    _, name, *words = shlex.split(command)
    assert "--tasks" in words or name == "export" or words[0] == "..."


def test_the_examples_show_train_commands() -> None:
    assert any("tagger train" in command for command in COMMANDS)


def test_models_on_the_shelf_are_named() -> None:
    names = {path.parent.name for path in shelf().glob("*/config.json")}
    assert {DEFAULT_MODEL, DEFAULT_DEFINITION} < names
    for path in shelf().glob("*/config.json"):
        assert f"`{path.parent.name}`" in README


@pytest.mark.parametrize(
    "words", ["tagger predict examples/catalog.csv --tasks category", "python -m pytest"]
)
def test_ci_runs_the_one_line_of_the_readme(words: str) -> None:
    lines = [line for line in README.splitlines() if words in line]
    assert len(lines) == 1
    assert lines[0].startswith("python3 -m venv .venv && ")
    assert f"readme_line '{words}'" in (ROOT / ".ci/run").read_text()
