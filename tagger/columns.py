"""The columns that prediction adds: what is asked for, their schema, and their values."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from tagger.arrow_types import RANKING
from tagger.calibration import Target
from tagger.catalog import Columns
from tagger.decision import Bools, Decision, Floats, Ids, applies, decide
from tagger.errors import CatalogError, UsageError
from tagger.modalities import IMAGE, TEXT
from tagger.previous import HASH_COLUMN
from tagger.runtime import BatchAnswers, Model
from tagger.tasks import Task
from tagger.tree import NO_NODE, split_path


@dataclass(frozen=True)
class Labelling:
    """What products are labelled with, and how their rows are read.

    tasks: those of the model, in the order of the output columns. confined: whether image paths
    must stay below `root`. batch_size: products that the network sees at once, None for as many as
    is usual. precision: abstain where the calibration of the model does not promise it. mapping:
    per task, for each of its nodes the path of the node in another tree that is put out in its
    stead, or None for none.
    """

    tasks: Sequence[Task]
    root: Path
    columns: Columns = field(default_factory=Columns)
    top_k: int | None = None
    confined: bool = True
    batch_size: int | None = None
    precision: Target | None = None
    mapping: Mapping[str, Sequence[str | None]] = field(default_factory=dict)

    @property
    def num_ranked(self) -> int | None:
        """Labels in the top-k column, None without it; an abstaining model names its candidate."""
        return 1 if self.top_k is None and self.precision is not None else self.top_k

    @property
    def schema(self) -> pa.Schema:
        """The columns that labelling adds, in order."""
        return output_schema(self.tasks, self.num_ranked)


def task_columns(
    task: Task, answers: BatchAnswers, answered: Bools, how: Labelling, bundle: Model
) -> list[pa.Array]:
    """The columns of `task_fields` for n products, of which `answered` (n,) had a picture or title.

    A product that is not `answered`, or that the task does not apply to, gets nulls; one that not
    even the top of its path is sure enough for gets no label. A weight that is no number is null.
    """
    index = [known.name for known in bundle.config.tasks].index(task.name)
    weights = answers.modality_weights[:, index].astype(np.float64)
    answered = answered & (weights != 0).any(1)  # not from a modality that the model does not read
    decision = decide(task, answers.logits[task.name], bundle.temperature(task.name))
    node, confidence = decision.leaves, decision.confidence
    if how.precision is not None and bundle.calibration is not None:
        threshold = bundle.calibration.threshold(task.name, how.precision)
        node, confidence = decision.deepest(threshold.needed(decision.top_labels))
    targets = how.mapping.get(task.name)
    if targets is not None:
        node = np.where([targets[i] is None for i in node.tolist()], NO_NODE, node)
    fitting = applies(bundle, task.name, answers)
    silent = ~answered | ~fitting

    def floats(values: Floats) -> pa.Array:
        return pa.array(values.astype(np.float32), pa.float32(), mask=silent | np.isnan(values))

    return [
        *_label_columns(task, np.where(silent, NO_NODE, node), targets),
        floats(confidence),
        floats(weights[:, IMAGE]),
        floats(weights[:, TEXT]),
        pa.array(
            np.select(
                [~answered, ~fitting, node == NO_NODE], ["error", "not_applicable", "abstain"], "ok"
            ),
            pa.string(),
        ),
        *([] if how.num_ranked is None else [_ranked(decision, how.num_ranked, silent)]),
    ]


def _label_columns(task: Task, node: Ids, targets: Sequence[str | None] | None) -> list[pa.Array]:
    """The label of each node (n,), null at NO_NODE; of a tree also its path and depth. `targets`
    are the nodes of another tree that stand for those of the task."""
    labels = targets or task.nodes
    paths = [None if i == NO_NODE else labels[i] for i in node.tolist()]
    if not task.is_tree:
        return [pa.array(paths, pa.string())]
    names = [None if path is None else split_path(path, task.separator) for path in paths]
    return [
        pa.array([one and one[-1] for one in names], pa.string()),
        pa.array(paths, pa.string()),
        pa.array([one and len(one) for one in names], pa.int32()),
    ]


def _ranked(decision: Decision, k: int, silent: Bools) -> pa.Array:
    """The k likeliest labels of each product, null where `silent` (n,)."""
    labels, probabilities = decision.task.labels, decision.probabilities
    k = min(k, len(labels))
    # One after the other: even a partial sort of 10,000 labels takes 10 times as long for k = 5.
    rest, row = probabilities.copy(), np.arange(len(probabilities))
    best = np.empty((len(rest), k), dtype=np.int64)
    for place in range(k):
        best[:, place] = rest.argmax(1)
        rest[row, best[:, place]] = -1.0
    values = np.take_along_axis(probabilities, best, axis=1)
    ranked = [
        [{"label": labels[i], "confidence": float(p)} for i, p in zip(ids, row, strict=True)]
        if there
        else None
        for ids, row, there in zip(best, values, ~silent, strict=True)
    ]
    return pa.array(ranked, RANKING)


def task_fields(task: Task, top_k: int | None) -> list[tuple[str, pa.DataType]]:
    """Names and types of the columns of one task, in order."""
    columns = [
        ("label", pa.string()),
        *([("path", pa.string()), ("depth", pa.int32())] if task.is_tree else []),
        ("confidence", pa.float32()),
        ("image_weight", pa.float32()),
        ("text_weight", pa.float32()),
        ("status", pa.string()),
        *([("top_k", RANKING)] if top_k is not None else []),
    ]
    return [(f"{task.name}_{column}", kind) for column, kind in columns]


def output_schema(tasks: Sequence[Task], top_k: int | None) -> pa.Schema:
    """The columns that prediction adds, in order."""
    fields = [("image_status", pa.string()), ("title_status", pa.string())]
    for task in tasks:
        fields += task_fields(task, top_k)
    return pa.schema([*fields, (HASH_COLUMN, pa.string())])


def check_precision(bundle: Model, how: Labelling) -> None:
    """Raises:
    UsageError: a precision is asked for that the model has no threshold for.
    """
    if how.precision is None:
        return
    if bundle.calibration is None:
        names = ",".join(task.name for task in how.tasks)
        named = shlex.join(["--tasks", names, "--model", str(bundle.path)])
        raise UsageError(
            f"{bundle.path.name} is not calibrated, so no precision can be promised",
            "calibrate the model that it was made from, then export that again"
            if bundle.is_export
            else f"calibrate it: tagger eval LABELLED {named} --calibrate",
        )
    for task in how.tasks:
        bundle.calibration.threshold(task.name, how.precision)


def refuse_overwriting(
    existing: Sequence[str], new: pa.Schema, where: str, own: Sequence[str] = ()
) -> None:
    """`own` are the columns that --overwrite-own-columns would replace.

    Raises:
        CatalogError: a column that prediction would add is there already.
    """
    there = next((name for name in new.names if name in existing), None)
    if there is not None:
        raise CatalogError(
            f"{where} has a column {there!r} already",
            "it is an output of tagger: label the original catalog, or add --overwrite-own-columns"
            if there in own
            else "rename or drop the column; if tagger added it, label the original instead",
        )
