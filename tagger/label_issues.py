"""Products whose given label may be wrong: confident learning (Northcutt et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tagger.answers import Answers
from tagger.arrow_types import valid_text
from tagger.calibration import in_blocks
from tagger.output import open_output
from tagger.products import Products
from tagger.runtime import Logits, Model, softmax

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
probability, -1..0: the lower, the surer the model is that the label is wrong."""

LEAST_PRODUCTS = 5
"""Of a label whose own mean probability is believed; of fewer, a single wrong one decides it."""


@dataclass(frozen=True)
class Suspicion:
    """(m,) each: products whose label may be wrong, the surest first; the label ids that they
    were given and that the model suggests, with their probabilities, and the margin; of
    `num_judged` products."""

    rows: NDArray[np.int64]
    given: NDArray[np.int64]
    suggested: NDArray[np.int64]
    given_probability: NDArray[np.float64]
    suggested_probability: NDArray[np.float64]
    margin: NDArray[np.float64]
    num_judged: int


def suspect(logits: Logits, temperature: float, given: NDArray[np.int64]) -> Suspicion:
    """The off-diagonal of the confident joint, ranked by the margin (sections 3.1 and 3.2).

    A product counts as of label j if its probability of j is at least the mean probability of j
    over the products that are given j, or, of fewer than LEAST_PRODUCTS, the mean probability that
    all products have of their own labels; of several such labels, the likeliest. It is suspect if
    that is not the label it was given, and the model does not find the given one the likeliest
    after all. The suggestion is the label that the model finds likeliest.

    Args:
        logits: (n, labels), of a model that did not learn from these products.
        temperature: that of their softmax.
        given: (n,) label ids; products with a negative one are not judged.
    """
    known = np.flatnonzero(given >= 0)
    own, most = np.zeros((2, len(given)))
    likeliest = np.zeros(len(given), np.int64)
    for rows in in_blocks(known):
        probabilities = softmax(logits[rows], temperature)
        own[rows] = probabilities[np.arange(len(rows)), given[rows]]
        most[rows], likeliest[rows] = probabilities.max(1), probabilities.argmax(1)
    usual = np.full(logits.shape[1], own[known].mean() if len(known) else np.inf)
    for label in np.flatnonzero(np.bincount(given[known]) >= LEAST_PRODUCTS):
        usual[label] = own[given == label].mean()
    found = []
    for rows in in_blocks(known[likeliest[known] != given[known]]):
        probabilities = softmax(logits[rows], temperature)
        confident = np.where(probabilities >= usual, probabilities, -1.0)
        counted = np.where(confident.max(1) >= 0, confident.argmax(1), given[rows])
        found.append(rows[counted != given[rows]])
    rows = np.concatenate(found)
    margin = own[rows] - most[rows]
    order = np.argsort(margin, kind="stable")
    rows = rows[order]
    return Suspicion(
        rows, given[rows], likeliest[rows], own[rows], most[rows], margin[order], len(known)
    )


def find_label_issues(
    bundle: Model,
    products: Products,
    answers: Answers,
    tasks: Sequence[str],
    trained_on: NDArray[np.bool_],
) -> dict[str, Suspicion]:
    """The suspects of each task among `products`, to which the model gave `answers`.

    Those that it was `trained_on` (n,) are not judged: it has learned their labels, wrong ones too.
    Nor are labels that are inner nodes of a tree: too little of them can be wrong.
    """
    fair = answers.answered & ~trained_on
    found = {}
    for name in tasks:
        task = bundle.task(name)
        given = task.label_ids(products.labels[name])
        given = np.where(fair & (given < task.tree.num_leaves), given, -1)
        found[name] = suspect(answers.logits[name], bundle.temperature(name), given)
    return found


def write_label_issues(
    found: Mapping[str, Suspicion], bundle: Model, products: Products, path: Path
) -> None:
    """The suspects of all tasks as Parquet, or as CSV if `path` ends so, by SCHEMA, the surest
    first.

    Raises:
        OutputError: `path` cannot be written.
    """
    rows = [row for name in found for row in _rows(name, found[name], bundle, products)]
    rows.sort(key=lambda row: float(str(row["margin"])))
    with open_output(path, SCHEMA) as output:
        output.write(pa.RecordBatch.from_pylist(rows, SCHEMA))


def _rows(
    name: str, suspicion: Suspicion, bundle: Model, products: Products
) -> list[dict[str, object]]:
    labels = bundle.task(name).labels
    return [
        {
            "row": int(row) + 1,
            "id": (key := products.ids[row]) and valid_text(key),
            "title": (title := products.titles[row]) and valid_text(title),
            "task": name,
            "given_label": labels[suspicion.given[k]],
            "suggested_label": labels[suspicion.suggested[k]],
            "given_probability": float(suspicion.given_probability[k]),
            "suggested_probability": float(suspicion.suggested_probability[k]),
            "margin": float(suspicion.margin[k]),
        }
        for k, row in enumerate(suspicion.rows)
    ]
