"""Every figure of one task in one view of the products."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
from numpy.typing import NDArray

from tagger.config import Frozen
from tagger.metrics import (
    accuracy,
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
    """One label, carried by `support` products; its precision is null if it was never predicted."""

    precision: float | None
    recall: float | None
    support: int


class Confusion(Frozen, frozen=True):
    """`count` products of label `truth` were taken for `predicted`."""

    truth: str
    predicted: str
    count: int


class Score(Frozen, frozen=True):
    """One task in one view. Rates are in 0..1 and null where no product has a label.

    `num_products` carry a label; `unknown_labels` counts those that the model does not know (they
    are wrong in every rate). A product that the view leaves nothing to answer from is wrong too,
    and never published. Intervals hold 95% of bootstrap resamples of the products.
    `calibration_error` is the expected calibration error in 15 bins, `brier` the mean squared
    distance between the probabilities and the truth (0..2). `image_weight` is the mean weight of
    the picture. `labels` are those that products carry; `confusions` the most frequent ones.
    """

    num_products: int
    accuracy: float | None = None
    accuracy_interval: Interval | None = None
    macro_f1: float | None = None
    recall_at_precision: float | None = None
    recall_interval: Interval | None = None
    coverage_at_precision: float | None = None
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


def score(
    task: Task, labels: Sequence[str | None], predictions: Predictions, precision: float
) -> Score:
    """All figures of `predictions` against `labels` (n,), None for an unlabelled product."""
    truth = np.array(task.label_ids(labels))
    known = truth != UNLABELED
    if not known.any():
        return Score(num_products=0)
    truth = truth[known]
    predicted, confidence, squared, weights = (
        np.concatenate(column)[known]
        for column in (
            predictions.label_ids,
            predictions.confidences,
            predictions.squared_errors,
            predictions.image_weights,
        )
    )
    named = np.array([label for label in labels if label is not None])
    guessed = np.array([task.labels[i] if i >= 0 else "" for i in predicted])
    correct = truth == predicted
    unknown = Counter(n for n, i in zip(named.tolist(), truth, strict=True) if i < 0)
    answered = predicted >= 0
    return Score(
        num_products=len(truth),
        accuracy=accuracy(truth, predicted),
        accuracy_interval=accuracy_interval(correct),
        macro_f1=macro_f1(named, guessed),
        recall_at_precision=recall_at_precision(correct, confidence, precision),
        recall_interval=recall_interval(correct, confidence, precision),
        coverage_at_precision=coverage_at_precision(correct, confidence, precision),
        calibration_error=calibration_error(correct, confidence),
        brier=float(squared.mean()),
        image_weight=float(weights[answered].mean()) if answered.any() else None,
        labels={
            label: LabelScore(precision=p, recall=r, support=s)
            for label, (p, r, s) in per_label(named, guessed).items()
        },
        confusions=_confusions(named[~correct & answered], guessed[~correct & answered]),
        unknown_labels=dict(unknown.most_common()),
    )


def _confusions(truth: NDArray[np.str_], guessed: NDArray[np.str_]) -> tuple[Confusion, ...]:
    pairs = Counter(zip(truth.tolist(), guessed.tolist(), strict=True))
    return tuple(
        Confusion(truth=t, predicted=p, count=count)
        for (t, p), count in pairs.most_common(NUM_CONFUSIONS)
    )
