"""The columns that prediction adds: what is asked for, their schema, and their values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tagger.catalog import Columns
from tagger.config import BATCH_SIZE
from tagger.errors import CatalogError, UsageError
from tagger.modalities import IMAGE, TEXT
from tagger.previous import HASH_COLUMN
from tagger.runtime import Logits, Model, softmax
from tagger.tasks import Task

_TOP_K = pa.list_(pa.struct([("label", pa.string()), ("confidence", pa.float32())]))


@dataclass(frozen=True)
class Labelling:
    """What products are labelled with, and how their rows are read.

    tasks: those of the model, in the order of the output columns. confined: whether image paths
    must stay below `root`. batch_size: products that the network sees at once. precision: abstain
    where the calibration of the model does not promise it.
    """

    tasks: Sequence[Task]
    root: Path
    columns: Columns = field(default_factory=Columns)
    top_k: int | None = None
    confined: bool = True
    batch_size: int = BATCH_SIZE
    precision: float | None = None

    @property
    def num_ranked(self) -> int | None:
        """Labels in the top-k column, None without it; an abstaining model names its candidate."""
        return 1 if self.top_k is None and self.precision is not None else self.top_k

    @property
    def schema(self) -> pa.Schema:
        """The columns that labelling adds, in order."""
        return output_schema(self.tasks, self.num_ranked)


def task_columns(
    task: Task,
    logits: Logits,
    weights: NDArray[np.float32],
    answerable: NDArray[np.bool_],
    how: Labelling,
    bundle: Model,
) -> list[pa.Array]:
    """label, confidence, image weight, text weight, status and, if asked for, the top k.

    logits (n, labels), weights (n, 2) in the order image, text; a product that is not `answerable`
    (n,) gets nulls, one below the threshold of its label gets no label.
    """
    top_k = how.num_ranked
    k = min(top_k or 1, len(task.labels))
    label_ids = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    probabilities = softmax(logits, bundle.temperature(task.name))
    confidences = np.take_along_axis(probabilities, label_ids, axis=1).astype(np.float32)
    absent = ~answerable
    labels = [task.labels[i] for i in label_ids[:, 0]]
    unsure = np.zeros(len(labels), dtype=bool)
    if how.precision is not None and bundle.calibration is not None:
        threshold = bundle.calibration.threshold(task.name, how.precision)
        unsure = confidences[:, 0] < np.array([threshold.of(label) for label in labels])

    def floats(values: NDArray[np.float32]) -> pa.Array:
        return pa.array(values, pa.float32(), mask=absent)

    columns = [
        pa.array(labels, pa.string(), mask=absent | unsure),
        floats(confidences[:, 0]),
        floats(weights[:, IMAGE]),
        floats(weights[:, TEXT]),
        pa.array(np.where(absent, "error", np.where(unsure, "abstain", "ok")), pa.string()),
    ]
    if top_k is not None:
        ranked = [
            [
                {"label": task.labels[i], "confidence": float(c)}
                for i, c in zip(row_ids, row, strict=True)
            ]
            if there
            else None
            for row_ids, row, there in zip(label_ids, confidences, answerable, strict=True)
        ]
        columns.append(pa.array(ranked, _TOP_K))
    return columns


def output_schema(tasks: Sequence[Task], top_k: int | None) -> pa.Schema:
    """The columns that prediction adds, in order."""
    fields = [("image_status", pa.string()), ("title_status", pa.string())]
    for task in tasks:
        fields += [
            (f"{task.name}_label", pa.string()),
            (f"{task.name}_confidence", pa.float32()),
            (f"{task.name}_image_weight", pa.float32()),
            (f"{task.name}_text_weight", pa.float32()),
            (f"{task.name}_status", pa.string()),
        ]
        if top_k is not None:
            fields.append((f"{task.name}_top_k", _TOP_K))
    return pa.schema([*fields, (HASH_COLUMN, pa.string())])


def check_precision(bundle: Model, how: Labelling) -> None:
    """Raises:
    UsageError: a precision is asked for that the model has no threshold for.
    """
    if how.precision is None:
        return
    if bundle.calibration is None:
        names = ",".join(task.name for task in how.tasks)
        command = f"tagger eval LABELLED --tasks {names} --model {bundle.path} --calibrate"
        raise UsageError(
            f"{bundle.path.name} is not calibrated, so no precision can be promised",
            "calibrate the model that it was made from, then export that again"
            if bundle.is_export
            else f"calibrate it: {command}",
        )
    for task in how.tasks:
        bundle.calibration.threshold(task.name, how.precision)


def refuse_overwriting(existing: Sequence[str], new: pa.Schema, where: str) -> None:
    """Raises:
    CatalogError: a column that prediction would add is there already.
    """
    there = [name for name in new.names if name in existing]
    if there:
        raise CatalogError(
            f"{where} has a column {there[0]!r} already",
            "is it an output of tagger? label the original catalog, add --overwrite-own-columns, "
            "or rename the column",
        )
