"""What a run did: products by status, seconds by stage; run.json."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec
import pyarrow as pa

from tagger.arrow_types import has_text_form, valid_text
from tagger.catalog import strings
from tagger.errors import StoppedError, TaggerError
from tagger.output import write_json

NUM_EXAMPLES = 3
"""Ids that the summary names per status."""

Stage = Literal["read", "decode", "model", "write"]
"""What the run waited for: catalog rows, pictures being read and decoded, the network, the disk."""


@dataclass
class Summary:
    """Rows, products by status, and a few ids of each status that is not ok."""

    tasks: Sequence[str]
    id_column: str = "id"
    num_rows: int = 0
    num_failed: int = 0
    image_status: Counter[str] = field(default_factory=Counter)
    title_status: Counter[str] = field(default_factory=Counter)
    task_status: dict[str, Counter[str]] = field(default_factory=dict)
    image_examples: dict[str, list[str]] = field(default_factory=dict)
    title_examples: dict[str, list[str]] = field(default_factory=dict)

    @property
    def reasons(self) -> str:
        """'3 pictures not_found (a, b, c), 1 titles unreadable (d)': of products that failed."""
        named = [
            f"{count:,} {what} {status} ({', '.join(examples[status])})"
            for what, statuses, examples in (
                ("pictures", self.image_status, self.image_examples),
                ("titles", self.title_status, self.title_examples),
            )
            for status, count in statuses.most_common()
            if status not in ("ok", "missing")
        ]
        return ", ".join(named) or "neither picture nor title"

    @property
    def columns(self) -> list[str]:
        """The columns of an output that `add` reads; the id column may be absent."""
        statuses = ["image_status", "title_status", *(f"{task}_status" for task in self.tasks)]
        return [*statuses, self.id_column]

    def add(self, rows: pa.Table | pa.RecordBatch, first_row: int) -> None:
        """Count rows of an output, which in the whole of it begin with `first_row`, from 0; a
        product without id goes by its row number there, from 1."""
        schema = rows.schema
        ids: list[str | None] = [None] * rows.num_rows
        if self.id_column in schema.names and has_text_form(schema.field(self.id_column).type):
            ids = strings(rows, self.id_column, Path("output"))
        names = [valid_text(i) if i else f"row {n}" for n, i in enumerate(ids, first_row + 1)]
        images = rows.column("image_status").to_pylist()
        titles = rows.column("title_status").to_pylist()
        _add_examples(self.image_examples, names, images)
        _add_examples(self.title_examples, names, titles)
        self.num_rows += rows.num_rows
        self.num_failed += sum(failed(rows, self.tasks))
        self.image_status.update(images)
        self.title_status.update(titles)
        for task in self.tasks:
            counts = self.task_status.setdefault(task, Counter())
            counts.update(rows.column(f"{task}_status").to_pylist())


def _add_examples(
    examples: dict[str, list[str]], names: Sequence[str], statuses: Sequence[str]
) -> None:
    """The first few of `names` for each status that is not ok."""
    for name, status in zip(names, statuses, strict=True):
        if status != "ok" and len(examples.setdefault(status, [])) < NUM_EXAMPLES:
            examples[status].append(name)


def failed(rows: pa.Table | pa.RecordBatch, tasks: Sequence[str]) -> list[bool]:
    """The rows whose picture or title is there but could not be used, or that got no answer."""
    absent = {"ok", "missing"}
    columns = [[s in absent for s in rows.column(f"{m}_status").to_pylist()] for m in _MODALITIES]
    columns += [[s != "error" for s in rows.column(f"{t}_status").to_pylist()] for t in tasks]
    return [not all(fine) for fine in zip(*columns, strict=True)]


_MODALITIES = ("image", "title")


@dataclass
class Stages:
    """Seconds that the run waited for each stage.

    `computed_rows` are those that the network saw, neither finished earlier nor carried over.
    """

    seconds: dict[Stage, float] = field(default_factory=dict)
    computed_rows: int = 0

    @contextmanager
    def time(self, stage: Stage) -> Iterator[None]:
        """Add the time until the block ends to `stage`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - started
            self.seconds[stage] = self.seconds.get(stage, 0.0) + spent

    @property
    def bottleneck(self) -> Stage | None:
        """The stage that the run waited for longest; None for a run that did nothing."""
        return max(self.seconds, key=lambda stage: self.seconds[stage], default=None)


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """run.json. `rows` are those of this run's share, `computed_rows` what it labelled of them
    itself; the rest was finished earlier. `encoded_images` and `encoded_titles` passed a tower,
    others were equal to one of these, or `found_in_cache`; damaged ones count as absent. Rates are
    per second of the whole run."""

    out: str
    finished: bool
    missing_parts: int
    rows: int
    computed_rows: int
    failed_rows: int
    image_status: dict[str, int]
    title_status: dict[str, int]
    task_status: dict[str, dict[str, int]]
    encoded_images: int
    encoded_titles: int
    found_in_cache: int
    damaged_in_cache: int
    seconds: float
    seconds_by_stage: dict[str, float]
    rows_per_second: float
    bottleneck: str | None
    fingerprint: dict[str, str]
    versions: dict[str, str]


class Failure(msgspec.Struct, frozen=True):
    """run.json of a run that failed or was stopped."""

    error: str
    hint: str
    exit_code: int
    finished: bool = False


@contextmanager
def failures_into(path: Path | None) -> Iterator[None]:
    """What ends the block early is written to `path`, where a report of an older run may stand."""
    try:
        yield
    except (TaggerError, StoppedError) as error:
        if path is not None:
            failure = Failure(valid_text(error.message), valid_text(error.hint), error.exit_code)
            with suppress(TaggerError):  # the disk that failed may be that of the report
                write_json(path, failure)
        raise


def write_report(report: Report, path: Path) -> None:
    """Raises:
    OutputError: `path` cannot be written.
    """
    write_json(path, report)
