"""What a person should look at: abstained and doubtful products, those that teach most first."""

from __future__ import annotations

import csv
import heapq
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from tagger.arrow_types import has_text_form, valid_text
from tagger.catalog import Catalog, strings
from tagger.columns import Labelling
from tagger.errors import UsageError
from tagger.output import write_json, write_text
from tagger.previous import HASH_COLUMN
from tagger.tasks import Task

DOUBTFUL = 0.5
"""Below this confidence an answer is doubtful even where the model did not abstain."""
MOST_ROWS = 10_000
"""More than this nobody looks through; it also bounds the memory."""


@dataclass(frozen=True)
class Candidate:
    """What the model would say of one task of a product, and how sure it is."""

    label: str
    confidence: float


@dataclass(frozen=True)
class Doubt:
    """A product to look at. `value` is what its labels would teach: the sum of 1 - confidence over
    the tasks in doubt (least-confidence sampling, Lewis and Gale 1994)."""

    row: int
    input_hash: str
    id: str | None
    image: str | None
    title: str | None
    candidates: Mapping[str, Candidate]

    @property
    def value(self) -> float:
        """0 to the number of tasks."""
        return sum(1 - candidate.confidence for candidate in self.candidates.values())


def check_review(path: Path) -> None:
    """Raises:
    UsageError: the file is neither .csv nor .json.
    """
    if path.suffix not in (".csv", ".json"):
        raise UsageError(
            f"--review {path}: it ends neither in .csv nor in .json",
            "name a .csv for a spreadsheet, a .json for Label Studio",
        )


def write_review(out: Path, how: Labelling, path: Path, model: str) -> int:
    """Write the products of the output `out`, labelled as `how`, that are worth a look to `path`;
    returns how many.

    Of products with the same picture and title only the first stands there. JSON is Label Studio's
    import format with predictions: one task per product, a `choices` result per task
    of tagger, whose `from_name` is the task and whose `to_name` is `image`. In the CSV, text that a
    spreadsheet would take for a formula begins with an apostrophe.

    Raises:
        OutputError: `path` cannot be written.
    """
    doubts = _best(_doubts(out, how))
    if path.suffix == ".csv":
        write_text(path, _csv(doubts, [task.name for task in how.tasks]))
    else:
        write_json(path, _label_studio(doubts, model))
    return len(doubts)


def _best(doubts: Iterable[Doubt]) -> list[Doubt]:
    """The MOST_ROWS that teach most, the first of each picture with title; the best first.

    Never more than twice as many are held: what is let go by then never comes back.
    """
    held: dict[str, Doubt] = {}
    for doubt in doubts:
        held.setdefault(doubt.input_hash, doubt)
        if len(held) == 2 * MOST_ROWS:
            held = {kept.input_hash: kept for kept in _ranked(held.values())}
    return _ranked(held.values())


def _ranked(doubts: Iterable[Doubt]) -> list[Doubt]:
    # Rounded: the same product may differ in the last digits in two batches.
    return heapq.nlargest(MOST_ROWS, doubts, key=lambda d: (round(d.value, 5), -d.row))


def _doubts(out: Path, how: Labelling) -> Iterator[Doubt]:
    row = 0
    catalog = Catalog(out)
    shown, answers = _needed(catalog.schema, how)
    labels = {
        task.name: dict(zip(task.labels, how.mapping.get(task.name, task.labels), strict=False))
        for task in how.tasks
    }
    for batch in catalog.batches(1024, columns=[*shown, *answers]):
        texts = {name: _texts(batch, name, out) for name in shown}
        for place, product in enumerate(batch.select(answers).to_pylist()):
            row += 1
            candidates = dict(_candidates(product, how.tasks, labels))
            if candidates:
                given = {name: column[place] for name, column in texts.items()}
                yield Doubt(
                    row,
                    product[HASH_COLUMN],
                    given.get(how.columns.id),
                    given.get(how.columns.image),
                    given.get(how.columns.title),
                    candidates,
                )


def _texts(batch: pa.RecordBatch, column: str, out: Path) -> list[str | None]:
    """A column as text that any file can hold."""
    return [text and valid_text(text) for text in strings(batch, column, out)]


def _needed(schema: pa.Schema, how: Labelling) -> tuple[list[str], list[str]]:
    """The columns of an output that the list shows, and those that it hangs on; pictures in it are
    neither."""
    kinds = dict(zip(schema.names, schema.types, strict=True))
    shown = [
        name
        for name in dict.fromkeys((how.columns.id, how.columns.image, how.columns.title))
        if name in kinds and has_text_form(kinds[name])
    ]
    ends = ("label", "path", "confidence", "status", "top_k")
    answers = [f"{task.name}_{end}" for task in how.tasks for end in ends]
    return shown, [HASH_COLUMN, *(name for name in answers if name in kinds)]


def _candidates(
    product: Mapping[str, Any],
    tasks: Sequence[Task],
    labels: Mapping[str, Mapping[str, str | None]],
) -> Iterator[tuple[str, Candidate]]:
    """`labels`: per task what stands in the output for each of the model's."""
    for task in tasks:
        name = task.name
        status, confidence = product[f"{name}_status"], product[f"{name}_confidence"]
        if status in ("error", "not_applicable"):
            continue
        # Of a flat task, a column of that name is the catalog's own.
        label = product[f"{name}_path" if task.is_tree else f"{name}_label"]
        if status == "abstain":
            ranked = product[f"{name}_top_k"]
            # A CSV output holds the ranking as JSON.
            ranked = msgspec.json.decode(ranked) if isinstance(ranked, str) else ranked
            label = labels[name][ranked[0]["label"]]
        if status == "abstain" or float(confidence) < DOUBTFUL:
            yield name, Candidate(str(label), float(confidence))


def _csv(doubts: Sequence[Doubt], tasks: Sequence[str]) -> str:
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    header = [f"{task}_{end}" for task in tasks for end in ("candidate", "confidence")]
    writer.writerow(["row", "id", "image", "title", "value", *header])
    for doubt in doubts:
        cells: list[object] = []
        for task in tasks:
            candidate = doubt.candidates.get(task)
            cells += (
                [_no_formula(candidate.label), f"{candidate.confidence:.4f}"]
                if candidate
                else ["", ""]
            )
        given = map(_no_formula, (doubt.id, doubt.image, doubt.title))
        writer.writerow([doubt.row, *given, f"{doubt.value:.4f}", *cells])
    return sink.getvalue()


def _label_studio(doubts: Sequence[Doubt], model: str) -> list[dict[str, object]]:
    return [
        {
            "data": {"row": d.row, "id": d.id, "image": d.image, "title": d.title},
            "predictions": [
                {
                    "model_version": model,
                    "score": min(c.confidence for c in d.candidates.values()),
                    "result": [
                        {
                            "id": task,
                            "from_name": task,
                            "to_name": "image",
                            "type": "choices",
                            "value": {"choices": [candidate.label]},
                            "score": candidate.confidence,
                        }
                        for task, candidate in d.candidates.items()
                    ],
                }
            ],
        }
        for d in doubts
    ]


def _no_formula(text: str | None) -> str | None:
    """A catalog is somebody else's text, and a spreadsheet runs what begins like a formula."""
    return f"'{text}" if text and text[0] in "=+-@\t\r" else text
