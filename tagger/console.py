"""The terminal: progress, messages, empty tables, errors in two lines."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Never

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from tqdm import tqdm

from tagger.arrow_types import valid_text
from tagger.errors import StoppedError, TaggerError


class _Console(Console):
    """A console whose reader went away stops the command, as a signal would."""

    def on_broken_pipe(self) -> None:
        # What is still in the buffer must not fail a second time when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())
        raise StoppedError(signal.SIGPIPE)


LONGEST_STAGE = 24
"""Characters beside a progress bar."""

# Ids such as a:100:b are no emoji.
console = _Console(stderr=True, highlight=False, emoji=False)
results = _Console(highlight=False, emoji=False)
"""Standard output: what a command was asked for, never progress or messages."""


@dataclass
class _Style:
    """How messages look: nothing but errors if `quiet`, JSON lines if `json`."""

    quiet: bool = False
    json: bool = False


_style = _Style()


def set_style(quiet: bool, json: bool) -> None:
    """Choose how messages look from here on; JSON lines also replace the progress bar."""
    _style.quiet, _style.json = quiet, json


def say(text: str) -> None:
    """One line of plain text; nothing in it is read as markup."""
    if _style.quiet:
        return
    if _style.json:
        _log("info", message=text)
        return
    with tqdm.external_write_mode():
        console.print(escape(text), soft_wrap=True)


def _log(level: str, **fields: object) -> None:
    stamp = datetime.now(UTC).isoformat(timespec="milliseconds")
    # A file's name may hold bytes that are not UTF-8.
    texts = {k: valid_text(v) if isinstance(v, str) else v for k, v in fields.items()}
    line = msgspec.json.encode({"time": stamp, "level": level, **texts}).decode()
    console.print(line, markup=False, soft_wrap=True)


def show_stopped(stopped: StoppedError) -> None:
    """Which signal ended the command, and how to go on."""
    if stopped.exit_code != 128 + signal.SIGPIPE:
        show_error(TaggerError(stopped.message, stopped.hint), stopped.exit_code)


def show_error(error: TaggerError, exit_code: int | None = None) -> None:
    """What went wrong, and the next thing to do: two lines."""
    if _style.json:
        code = error.exit_code if exit_code is None else exit_code
        _log("error", message=error.message, hint=error.hint, exit_code=code)
        return
    console.print(f"[bold red]error:[/] {escape(_one_line(error.message))}", soft_wrap=True)
    if error.hint:
        console.print(f"[bold]hint:[/] {escape(_one_line(error.hint))}", soft_wrap=True)


def plain(text: str) -> str:
    """`text` for the cell of a table: no markup, no control characters."""
    return escape(_one_line(text))


def _one_line(text: str) -> str:
    """`text` with the control characters of file names and labels spelled out."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class Bar:
    """A progress bar with rate and ETA on a terminal; nothing where nobody looks (cron, pipes)."""

    def __init__(self, unit: str, total: int | None = None) -> None:
        self._unit, self._total, self._stage = unit, total, ""
        self._drawn: tqdm[Never] | None = None
        self._started = time.time()

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._drawn is not None:
            self._drawn.close()

    def advance(self, count: int) -> None:
        """`count` more are done."""
        self._draw(self._total).update(count)

    def move(self, done: int, total: int, text: str = "") -> None:
        """`done` of `total` are done."""
        bar = self._draw(total)
        bar.total = total
        bar.set_description_str(text, refresh=False)
        bar.update(done - bar.n)

    def move_in(self, done: int, total: int, stage: str) -> None:
        """`done` of `total` are done in the `stage`, each of which has a clock of its own."""
        if stage != self._stage and self._drawn is not None:
            self._drawn.leave = False
            self._drawn.close()
            self._drawn = None
        self._stage = stage
        self.move(done, total, _shortened(stage))
        self._started = time.time()

    def _draw(self, total: int | None) -> tqdm[Never]:
        """The bar, which is not there before something is done: an error before is no progress."""
        if self._drawn is None:
            # FORCE_COLOR makes any file a terminal to rich, but nobody looks at a bar in it.
            seen = console.is_terminal and console.file.isatty()
            hidden = not seen or _style.quiet or _style.json
            self._drawn = tqdm(total=total, unit=f" {self._unit}", disable=hidden, smoothing=0.1)
            self._drawn.start_t = self._drawn.last_print_t = self._started
        return self._drawn


def _shortened(stage: str) -> str:
    """Beside a longer one there is no room for a bar; of names the ends differ most often."""
    return stage if len(stage) <= LONGEST_STAGE else f"{stage[:7]}…{stage[8 - LONGEST_STAGE :]}"


def percent(value: float | None) -> str:
    """0.9132 -> '91.3', None and NaN -> '-'."""
    return "-" if value is None or value != value else f"{100 * value:.1f}"


def table(title: str, *headers: str) -> Table:
    """An empty table: the first column left, the others right aligned."""
    made = Table(title=title, title_justify="left", header_style="bold", title_style="bold")
    for position, header in enumerate(headers):
        add_column(made, header, "left" if position == 0 else "right")
    return made


def add_column(made: Table, header: str, justify: Literal["left", "right"] = "left") -> None:
    """One more. On a narrow terminal a name or an interval goes on in the next line: cut, it
    would be another one."""
    made.add_column(header, justify=justify, overflow="fold")


def say_bad(
    what: str, statuses: Mapping[Any, int], examples: Mapping[str, Sequence[str]] | None = None
) -> None:
    """How many of `what` have which status but "ok", and a few of each in `examples`."""
    bad = [
        f"{count:,} {status}" + _such_as(examples, status, count)
        for status, count in Counter(statuses).most_common()
        if status != "ok"
    ]
    if bad:
        say(f"{what} that could not be used: {', '.join(bad)}")


def _such_as(examples: Mapping[str, Sequence[str]] | None, status: str, count: int) -> str:
    if not examples:
        return ""
    names = examples[status]
    return f" ({', '.join(names)}{', ...' if count > len(names) else ''})"
