"""Products whose given label is probably wrong: confident learning (Northcutt et al. 2021)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tagger.answers import collect_answers, softmax
from tagger.bundle import Bundle
from tagger.catalog import Columns, folder_of
from tagger.output import ParquetOutput
from tagger.products import Products, read_products
from tagger.tasks import Task

SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("id", pa.string()),
        ("title", pa.string()),
        ("task", pa.string()),
        ("given_label", pa.string()),
        ("suggested_label", pa.string()),
        ("given_probability", pa.float32()),
        ("suggested_probability", pa.float32()),
        ("margin", pa.float32()),
    ]
)
"""The columns of the output; `row` counts from 1, `margin` is the given minus the largest other
probability, -1..1: the lower, the surer the model is that the label is wrong."""


@dataclass(frozen=True)
class Suspicion:
    """(m,) each: products whose label is probably wrong, the surest first."""

    rows: NDArray[np.int64]
    suggested: NDArray[np.int64]
    margin: NDArray[np.float64]


def suspect(probabilities: NDArray[np.float64], given: NDArray[np.int64]) -> Suspicion:
    """The off-diagonal of the confident joint, ranked by the margin (sections 3.1 and 3.2).

    A product counts as of label j if its probability of j is at least the mean probability of j
    over the products that are given j; of several such labels, the likeliest. It is suspect if
    that is not the label it was given.

    Args:
        probabilities: (n, labels), of a model that did not learn from these products.
        given: (n,) label ids; products with a negative one are not judged.
    """
    known = given >= 0
    usual = np.full(probabilities.shape[1], np.inf)
    for label in np.unique(given[known]):
        usual[label] = probabilities[given == label, label].mean()
    confident = np.where(probabilities >= usual, probabilities, -1.0)
    counted = np.where(confident.max(1) >= 0, confident.argmax(1), given)
    rows = np.flatnonzero(known & (counted != given))
    others = probabilities[rows].copy()
    own = others[np.arange(len(rows)), given[rows]]
    others[np.arange(len(rows)), given[rows]] = -1.0
    margin = own - others.max(1)
    order = np.argsort(margin, kind="stable")
    return Suspicion(rows[order], counted[rows][order], margin[order])


def find_label_issues(
    bundle: Bundle,
    catalog: Path,
    tasks: Sequence[str],
    out: Path,
    columns: Columns = Columns(),
    image_root: Path | None = None,
    limit: int | None = None,
    progress: Callable[[int, int], None] = lambda rows, total: None,
) -> dict[str, int]:
    """Write the suspects of all tasks to the Parquet file `out`, the surest first.

    Returns:
        How many there are, by task.

    Raises:
        ModelError: a task that the model does not know.
        CatalogError: a task that the catalog has no labels of, or see `Catalog`.
        OutputError: `out` cannot be written.
    """
    known = [bundle.task(name) for name in tasks]
    products = read_products(catalog, columns, tasks, limit)
    root = image_root or folder_of(catalog)
    answers = collect_answers(bundle, products, root, tasks, progress)
    counts: dict[str, int] = {}
    found: list[dict[str, object]] = []
    for task in known:
        probabilities = softmax(answers.logits[task.name], bundle.temperature(task.name))
        given = np.array(task.label_ids(products.labels[task.name]))
        suspicion = suspect(probabilities, np.where(answers.answered, given, -1))
        counts[task.name] = len(suspicion.rows)
        found += _rows(task, products, probabilities, given, suspicion)
    found.sort(key=lambda row: float(str(row["margin"])))
    with ParquetOutput(out, SCHEMA) as output:
        output.write(pa.RecordBatch.from_pylist(found, SCHEMA))
    return counts


def _rows(
    task: Task,
    products: Products,
    probabilities: NDArray[np.float64],
    given: NDArray[np.int64],
    suspicion: Suspicion,
) -> list[dict[str, object]]:
    return [
        {
            "row": int(row) + 1,
            "id": products.ids[row],
            "title": products.titles[row],
            "task": task.name,
            "given_label": task.labels[given[row]],
            "suggested_label": task.labels[suggested],
            "given_probability": float(probabilities[row, given[row]]),
            "suggested_probability": float(probabilities[row, suggested]),
            "margin": float(margin),
        }
        for row, suggested, margin in zip(
            suspicion.rows, suspicion.suggested, suspicion.margin, strict=True
        )
    ]
