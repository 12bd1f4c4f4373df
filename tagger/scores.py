"""Every figure of one task in one view of the products."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
from numpy.typing import NDArray

from tagger.calibration import Outcomes, Threshold
from tagger.config import Frozen
from tagger.decision import Bools, Decision, Floats, Ids, outcomes_of
from tagger.metrics import (
    accuracy_interval,
    calibration_error,
    coverage_at_precision,
    macro_f1,
    per_label,
    recall_at_precision,
    recall_interval,
    squared_error,
)
from tagger.modalities import IMAGE
from tagger.tasks import UNKNOWN_LABEL, Task
from tagger.tree import NO_NODE, common_path, split_path

NUM_CONFUSIONS = 10
Interval = tuple[float, float]


class LabelScore(Frozen, frozen=True):
    """One label, carried by `support` products; its precision is null if it was never predicted.
    `image_weight` is the mean weight of the picture in these; null if none was answered."""

    precision: float | None
    recall: float | None
    support: int
    image_weight: float | None


class Confusion(Frozen, frozen=True):
    """`count` products of label `truth` were taken for `predicted`."""

    truth: str
    predicted: str
    count: int


class Published(Frozen, frozen=True):
    """What `predict --min-precision` would publish of these products: the share of them, and how
    much of it is right (null if nothing is). The `threshold` is that of the calibration (null: none
    can be promised); labels have their own if `by_label`. Of a tree `by_depth` is the share of
    published nodes at each depth, from the top; products labelled with an inner node are not
    counted, because nobody knows whether a node below it is right."""

    threshold: float | None
    by_label: bool
    coverage: float
    precision: float | None
    by_depth: tuple[float, ...]


class TreeScore(Frozen, frozen=True):
    """Figures of a task whose labels are paths; rates are in 0..1.

    `precision`, `recall` and `f1` count ancestors, too (Kiritchenko et al. 2006): of the nodes on
    the predicted paths, the share that is on the true ones, and the reverse. `accuracy_by_depth`
    has for each depth the share of products labelled that deep whose node there is right.
    `error_distance` is the mean number of edges between a wrong node and the right one (null if
    there is no error). `rollup_coverage` is the most that can be published at the target precision
    if products may go to an ancestor, chosen on these products, of those that are labelled with a
    leaf. A product labelled with an inner node is judged no deeper than that.
    """

    precision: float
    recall: float
    f1: float
    accuracy_by_depth: tuple[float, ...]
    error_distance: float | None
    rollup_coverage: float


class ApplicabilityScore(Frozen, frozen=True):
    """How well a model knows which products the task does not apply to.

    Of `filled` products, which have a label, it withheld the answer from `withheld`, wrongly. It
    does not apply, in truth, to products without a label whose true node is one that it does not
    apply to; `precision` and `recall` are those of the status `not_applicable` for these, null
    without labels of the task that decides, or where there is nothing to divide by. Products of an
    inner node that has leaves with the task and others without count for neither.
    """

    filled: int
    withheld: int
    precision: float | None
    recall: float | None


class Score(Frozen, frozen=True):
    """One task in one view. Rates are in 0..1 and null where no product has a label.

    `num_products` carry a label; `unknown_labels` counts those that the model does not know (they
    are wrong in every rate, but where an ancestor may be published: one that is known is right). A
    product that the view leaves nothing to answer from is wrong too, and never published. Intervals
    are of 95%: Wilson's of the accuracy, a bootstrap over products of the recall.
    `calibration_error` is the expected calibration error of the answers in 15 bins, `brier` the
    mean squared distance between the probabilities and the truth (0..2). `published` is null where
    the model is not calibrated for the precision, and in the views that withhold something.
    `image_weight` is the mean weight of the picture, null where the system cannot tell. `tree` is
    null for a flat task, `applicability` where the task applies to everything, and in the views
    that withhold something. `labels` are those that products carry; `confusions` the most frequent
    ones. A product that is told that the task does not apply has no answer, which is wrong.
    """

    num_products: int
    accuracy: float | None = None
    accuracy_interval: Interval | None = None
    macro_f1: float | None = None
    recall_at_precision: float | None = None
    recall_interval: Interval | None = None
    coverage_at_precision: float | None = None
    published: Published | None = None
    calibration_error: float | None = None
    brier: float | None = None
    image_weight: float | None = None
    tree: TreeScore | None = None
    applicability: ApplicabilityScore | None = None
    labels: dict[str, LabelScore] = msgspec.field(default_factory=dict)
    confusions: tuple[Confusion, ...] = ()
    unknown_labels: dict[str, int] = msgspec.field(default_factory=dict)


@dataclass
class Predictions:
    """Of one task in one view, collected over batches; (n,) each once joined, chains and
    confidences (n, depth) as in `Decision`. `given` is whether there is an answer."""

    given: list[Bools] = field(default_factory=list)
    chains: list[Ids] = field(default_factory=list)
    confidences: list[Floats] = field(default_factory=list)
    squared_errors: list[Floats] = field(default_factory=list)
    image_weights: list[Floats] = field(default_factory=list)

    def add(self, decision: Decision, given: Bools, truth: Ids, weights: Floats) -> None:
        """The next n products: what was decided, whether it is `given` as an answer, the true
        label_id, and the weights (n, 2) of picture and title."""
        self.given.append(given)
        self.chains.append(decision.chain)
        self.confidences.append(decision.confidences * given[:, None])
        # Of an inner node there is no squared error; `score` leaves it out.
        leaf = np.where(truth < decision.task.tree.num_leaves, truth, UNKNOWN_LABEL)
        held = decision.probabilities * given[:, None]
        self.squared_errors.append(squared_error(held, leaf))
        self.image_weights.append(weights[:, IMAGE])


MOST_CHARACTERS = 200
"""Of a label that the model does not know, what figures call it by."""


@dataclass(frozen=True)
class Judged:
    """(m,) each: the rows that carry a label, the label, its id (negative if unknown), what was
    predicted ("" for no answer), the confidence 0..1, whether it is right, the squared distance of
    the probabilities to the truth, and the weight of the picture 0..1.

    Of a tree, what was predicted is the node at the depth of the label. whole (m,): whether the
    label is no inner node, so that nodes at any depth can be judged. outcomes: what a threshold
    chooses from.
    """

    task: Task
    rows: Ids
    labels: NDArray[np.str_]
    truth: Ids
    predicted: NDArray[np.str_]
    confidence: Floats
    correct: Bools
    squared_error: Floats
    image_weight: Floats
    whole: Bools
    outcomes: Outcomes

    @property
    def answered(self) -> Bools:
        """(m,) whether the view left anything to answer from, and the task was said to apply."""
        given: Bools = self.predicted != ""
        return given


def judge(task: Task, labels: Sequence[str | None], predictions: Predictions) -> Judged:
    """`predictions` beside the `labels` (n,) of the products, None for an unlabelled one."""
    rows = np.flatnonzero([label is not None for label in labels])
    true = [label for label in labels if label is not None]
    truth, tree = task.label_ids(true), task.tree
    given = np.concatenate(predictions.given)[rows]
    chain = np.concatenate(predictions.chains)[rows]
    confidences = np.concatenate(predictions.confidences)[rows]
    level = judged_level(task, truth, chain)
    node = chain[np.arange(len(rows)), level]
    return Judged(
        task=task,
        rows=rows,
        labels=np.array(
            # numpy makes all as long as the longest, and a description is no label.
            [
                task.nodes[i] if i >= 0 else label[:MOST_CHARACTERS]
                for i, label in zip(truth, true, strict=True)
            ],
            dtype=np.str_,
        ),
        truth=truth,
        predicted=np.array(
            [task.nodes[i] if there else "" for i, there in zip(node, given, strict=True)],
            dtype=np.str_,
        ),
        confidence=confidences[np.arange(len(rows)), level],
        correct=given & (truth == node),
        squared_error=np.concatenate(predictions.squared_errors)[rows],
        image_weight=np.concatenate(predictions.image_weights)[rows],
        whole=truth < tree.num_leaves,
        outcomes=outcomes_of(task, true, chain, confidences),
    )


def judged_level(task: Task, truth: Ids, chain: Ids) -> Ids:
    """(n,) where in `chain` (n, depth) stands what is compared with the label_id `truth` (n,): at
    its depth, or at the end of a chain that is shorter or of a label that the model does not know.
    """
    deepest = (chain != NO_NODE).sum(1)
    level: Ids = np.minimum(np.where(truth >= 0, task.tree.depths[truth], task.tree.depth), deepest)
    return level - 1


def score(judged: Judged, precision: float) -> Score:
    """The figures of one task in one view, but for those of publishing and applicability."""
    if not len(judged.rows):
        return Score(num_products=0)
    correct, confidence, answered = judged.correct, judged.confidence, judged.answered
    unknown = Counter(judged.labels[judged.truth < 0].tolist())
    wrong = ~correct & answered
    weights = _weights_by_label(judged)
    return Score(
        num_products=len(correct),
        accuracy=float(correct.mean()),
        accuracy_interval=accuracy_interval(correct),
        macro_f1=macro_f1(judged.labels, judged.predicted),
        recall_at_precision=recall_at_precision(correct, confidence, precision),
        recall_interval=recall_interval(correct, confidence, precision),
        coverage_at_precision=coverage_at_precision(correct, confidence, precision),
        calibration_error=_known(calibration_error(correct[answered], confidence[answered])),
        brier=float(judged.squared_error[judged.whole].mean()) if judged.whole.any() else None,
        image_weight=_known(judged.image_weight[answered].mean()) if answered.any() else None,
        tree=tree_score(judged, precision) if judged.task.is_tree else None,
        labels={
            label: LabelScore(precision=p, recall=r, support=s, image_weight=weights.get(label))
            for label, (p, r, s) in per_label(judged.labels, judged.predicted).items()
        },
        confusions=_confusions(judged.labels[wrong], judged.predicted[wrong]),
        unknown_labels=dict(unknown.most_common()),
    )


def published(judged: Judged, threshold: Threshold) -> Published:
    """How the stored threshold fares on these products."""
    outcomes = judged.outcomes.where(judged.whole & judged.answered)
    level, right = outcomes.published(threshold.needed(outcomes.predicted))
    num_published, num_products = int((level >= 0).sum()), int(judged.whole.sum())
    by_depth = np.bincount(level[level >= 0], minlength=judged.task.tree.depth)
    return Published(
        threshold=threshold.threshold,
        by_label=bool(threshold.by_label),
        coverage=num_published / max(1, num_products),
        precision=float(right.sum()) / num_published if num_published else None,
        by_depth=tuple((by_depth / max(1, num_published)).tolist()),
    )


def tree_score(judged: Judged, precision: float) -> TreeScore:
    """The figures of `judged`, whose task is a tree."""
    task, answered = judged.task, judged.answered
    said = [split_path(text, task.separator) if text else () for text in judged.predicted.tolist()]
    true = [split_path(text, task.separator) for text in judged.labels.tolist()]
    common = np.array([len(common_path([a, b])) for a, b in zip(said, true, strict=True)])
    num_said, num_true = (np.array([len(names) for names in paths]) for paths in (said, true))
    steps = (num_said + num_true - 2 * common)[answered & ~judged.correct]
    shared = common.sum()
    return TreeScore(
        precision=float(shared / max(1, num_said.sum())),
        recall=float(shared / max(1, num_true.sum())),
        f1=float(2 * shared / max(1, num_said.sum() + num_true.sum())),
        accuracy_by_depth=tuple(
            float((common[num_true >= depth] >= depth).mean())
            for depth in range(1, num_true.max() + 1)
        ),
        error_distance=float(steps.mean()) if len(steps) else None,
        rollup_coverage=rollup_coverage(judged.outcomes.where(judged.whole), precision),
    )


def rollup_coverage(outcomes: Outcomes, precision: float) -> float:
    """The largest share of products that one confidence of GRID publishes, at any depth, with at
    least `precision` of them right; chosen on the same products."""
    num_published, right = outcomes.counts
    allowed = right >= precision * num_published - 1e-9 * num_published
    return float(num_published[allowed].max(initial=0)) / max(1, len(outcomes))


def applicability_score(withheld: Bools, filled: Bools, excluded: Floats) -> ApplicabilityScore:
    """How well the status `not_applicable` does.

    Args:
        withheld: (n,) whether a product has it.
        filled: (n,) whether it carries a label of the task.
        excluded: (n,) whether its true node is one that the task does not apply to, 1 or 0; NaN for
            a product of which nobody knows, which counts for `filled` and `withheld` alone.
    """
    truth = (excluded == 1) & ~filled
    silent = withheld & ~np.isnan(excluded)
    hits = float((silent & truth).sum())
    precision = hits / float(silent.sum()) if silent.any() else None
    recall = hits / float(truth.sum()) if truth.any() else None
    return ApplicabilityScore(
        filled=int(filled.sum()),
        withheld=int((withheld & filled).sum()),
        precision=precision,
        recall=recall,
    )


def _known(mean: float) -> float | None:
    """None for the mean of nothing, or of the weights of a system that cannot tell."""
    return None if np.isnan(mean) else float(mean)


def _weights_by_label(judged: Judged) -> dict[str, float | None]:
    """Mean weight of the picture over the answered products of each label."""
    answered = judged.answered
    names, index = np.unique(judged.labels[answered], return_inverse=True)
    sums = np.bincount(index, weights=judged.image_weight[answered], minlength=len(names))
    means = sums / np.bincount(index, minlength=len(names))
    return dict(zip(names.tolist(), map(_known, means), strict=True))


def _confusions(truth: NDArray[np.str_], guessed: NDArray[np.str_]) -> tuple[Confusion, ...]:
    pairs = Counter(zip(truth.tolist(), guessed.tolist(), strict=True))
    return tuple(
        Confusion(truth=t, predicted=p, count=count)
        for (t, p), count in pairs.most_common(NUM_CONFUSIONS)
    )
