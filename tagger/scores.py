"""Every figure of one task in one view of the products."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
from numpy.typing import NDArray

from tagger.calibration import Threshold
from tagger.config import Frozen
from tagger.metrics import (
    accuracy_interval,
    calibration_error,
    coverage_at_precision,
    macro_f1,
    per_label,
    recall_at_precision,
    recall_interval,
)
from tagger.tasks import UNLABELED, Task

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
    can be promised); labels have their own if `by_label`."""

    threshold: float | None
    by_label: bool
    coverage: float
    precision: float | None


class Score(Frozen, frozen=True):
    """One task in one view. Rates are in 0..1 and null where no product has a label.

    `num_products` carry a label; `unknown_labels` counts those that the model does not know (they
    are wrong in every rate). A product that the view leaves nothing to answer from is wrong too,
    and never published. Intervals hold 95% of bootstrap resamples of the products.
    `calibration_error` is the expected calibration error in 15 bins, `brier` the mean squared
    distance between the probabilities and the truth (0..2). `published` is null where the model is
    not calibrated for the precision, and in the views that withhold something. `image_weight` is
    the mean weight of the picture. `labels` are those that products carry; `confusions` the most
    frequent ones.
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
    labels: dict[str, LabelScore] = msgspec.field(default_factory=dict)
    confusions: tuple[Confusion, ...] = ()
    unknown_labels: dict[str, int] = msgspec.field(default_factory=dict)


@dataclass
class Predictions:
    """Of one task in one view, collected over batches; (n,) each once joined."""

    label_ids: list[NDArray[np.int64]] = field(default_factory=list)
    confidences: list[NDArray[np.float64]] = field(default_factory=list)
    squared_errors: list[NDArray[np.float64]] = field(default_factory=list)
    image_weights: list[NDArray[np.float64]] = field(default_factory=list)


@dataclass(frozen=True)
class Judged:
    """(m,) each: the rows that carry a label, the label, its id (negative if unknown), what was
    predicted ("" for no answer), the confidence 0..1, whether it is right, the squared distance of
    the probabilities to the truth, and the weight of the picture 0..1."""

    rows: NDArray[np.int64]
    labels: NDArray[np.str_]
    truth: NDArray[np.int64]
    predicted: NDArray[np.str_]
    confidence: NDArray[np.float64]
    correct: NDArray[np.bool_]
    squared_error: NDArray[np.float64]
    image_weight: NDArray[np.float64]

    @property
    def answered(self) -> NDArray[np.bool_]:
        """(m,) whether the view left anything to answer from."""
        given: NDArray[np.bool_] = self.predicted != ""
        return given


def judge(task: Task, labels: Sequence[str | None], predictions: Predictions) -> Judged:
    """`predictions` beside the `labels` (n,) of the products, None for an unlabelled one."""
    truth = np.array(task.label_ids(labels))
    rows = np.flatnonzero(truth != UNLABELED)
    guesses = np.concatenate(predictions.label_ids)[rows]
    return Judged(
        rows=rows,
        labels=np.array([label for label in labels if label is not None], dtype=np.str_),
        truth=truth[rows],
        predicted=np.array([task.labels[i] if i >= 0 else "" for i in guesses], dtype=np.str_),
        confidence=np.concatenate(predictions.confidences)[rows],
        correct=truth[rows] == guesses,
        squared_error=np.concatenate(predictions.squared_errors)[rows],
        image_weight=np.concatenate(predictions.image_weights)[rows],
    )


def score(judged: Judged, precision: float, threshold: Threshold | None = None) -> Score:
    """All figures of one task in one view; those of publishing need its `threshold`."""
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
        published=None if threshold is None else published(judged, threshold),
        calibration_error=calibration_error(correct, confidence),
        brier=float(judged.squared_error.mean()),
        image_weight=float(judged.image_weight[answered].mean()) if answered.any() else None,
        labels={
            label: LabelScore(precision=p, recall=r, support=s, image_weight=weights.get(label))
            for label, (p, r, s) in per_label(judged.labels, judged.predicted).items()
        },
        confusions=_confusions(judged.labels[wrong], judged.predicted[wrong]),
        unknown_labels=dict(unknown.most_common()),
    )


def published(judged: Judged, threshold: Threshold) -> Published:
    """How the stored threshold fares on these products."""
    passed = threshold.passes(judged.predicted, judged.confidence) & judged.answered
    return Published(
        threshold=threshold.threshold,
        by_label=bool(threshold.by_label),
        coverage=float(passed.mean()),
        precision=float(judged.correct[passed].mean()) if passed.any() else None,
    )


def _weights_by_label(judged: Judged) -> dict[str, float]:
    """Mean weight of the picture over the answered products of each label."""
    answered = judged.answered
    names, index = np.unique(judged.labels[answered], return_inverse=True)
    sums = np.bincount(index, weights=judged.image_weight[answered], minlength=len(names))
    means = sums / np.bincount(index, minlength=len(names))
    return dict(zip(names.tolist(), means.tolist(), strict=True))


def _confusions(truth: NDArray[np.str_], guessed: NDArray[np.str_]) -> tuple[Confusion, ...]:
    pairs = Counter(zip(truth.tolist(), guessed.tolist(), strict=True))
    return tuple(
        Confusion(truth=t, predicted=p, count=count)
        for (t, p), count in pairs.most_common(NUM_CONFUSIONS)
    )
