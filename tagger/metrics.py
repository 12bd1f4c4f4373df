"""Macro-F1, recall at precision, calibration error: pure functions on numpy arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]
Confidences = NDArray[np.float64]
Correct = NDArray[np.bool_]
Interval = tuple[float, float]

RESAMPLES = 500
"""Bootstrap resamples of up to 20,000 products; fewer of more, so that the time stays bounded."""


def macro_f1(truth: NDArray[Any], predicted: NDArray[Any]) -> float:
    """Mean F1 over the labels that occur in `truth`; NaN for no product.

    A label that the model does not know has F1 0.
    """
    if not len(truth):
        return float("nan")
    from sklearn.metrics import f1_score

    present = np.unique(truth)
    return float(f1_score(truth, predicted, labels=present, average="macro", zero_division=0.0))


def per_label(
    truth: NDArray[Any], predicted: NDArray[Any]
) -> dict[str, tuple[float | None, float | None, int]]:
    """Precision, recall and support of each label that occurs in `truth`.

    The precision of a label that was never predicted is None.
    """
    from sklearn.metrics import precision_recall_fscore_support

    if not len(truth):
        return {}
    labels = np.unique(truth)
    precision, recall, _, support = precision_recall_fscore_support(
        truth, predicted, labels=labels, zero_division=np.nan
    )
    return {
        str(label): (None if np.isnan(p) else float(p), float(r), int(n))
        for label, p, r, n in zip(labels, precision, recall, support, strict=True)
    }


def calibration_error(correct: Correct, confidence: Confidences, num_bins: int = 15) -> float:
    """Expected calibration error (Naeini et al. 2015, as in Guo et al. 2017, equation 5).

    The mean over products of |share right - mean confidence| of their bin, of `num_bins` bins of
    equal width; NaN for no product.
    """
    if not len(correct):
        return float("nan")
    bins = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
    gaps = np.bincount(bins, weights=confidence - correct, minlength=num_bins)
    return float(np.abs(gaps).sum() / len(correct))


def squared_error(probabilities: Confidences, truth: Labels) -> Confidences:
    """(n,) squared distance between the probabilities (n, labels) and the truth, 0..2.

    Their mean is the multi-class Brier score (Brier 1950). A label that the model does not know is
    one more class, of probability 0.
    """
    known = np.flatnonzero(truth >= 0)
    right = np.zeros(len(truth))
    right[known] = probabilities[known, truth[known]]
    errors: Confidences = (probabilities**2).sum(1) - 2 * right + 1
    return errors


def recall_at_precision(correct: Correct, confidence: Confidences, precision: float = 0.9) -> float:
    """Share of all products that can be published rightly if a `precision` of them must be right.

    Products are published from the surest down to a threshold; products of equal confidence go
    together. Over all thresholds at which at least `precision` of the published are right, the
    most right ones divided by all products with a known label, published or not. The threshold is
    chosen on the same products: for a promise about others see the calibration.

    Args:
        correct: (n,) whether each product's label is right.
        confidence: (n,) in 0..1.
        precision: target in 0..1.
    """
    if not len(correct):
        return float("nan")
    curve = _Curve.of(correct, confidence)
    right, _ = curve.best(np.ones(len(correct)), precision)
    return right / len(correct)


def coverage_at_precision(
    correct: Correct, confidence: Confidences, precision: float = 0.9
) -> float:
    """Share of products that are published at the threshold of `recall_at_precision`."""
    if not len(correct):
        return float("nan")
    _, published = _Curve.of(correct, confidence).best(np.ones(len(correct)), precision)
    return published / len(correct)


def precision_curve(correct: Correct, confidence: Confidences) -> tuple[Confidences, Confidences]:
    """Coverage and precision at each distinct confidence, from the surest product down."""
    curve = _Curve.of(correct, confidence)
    counts = np.arange(1, len(correct) + 1)
    precision = np.cumsum(curve.correct) / counts
    return (counts / max(1, len(correct)))[curve.ends_tie], precision[curve.ends_tie]


def reliability(
    correct: Correct, confidence: Confidences, num_bins: int = 10
) -> tuple[Confidences, Confidences, NDArray[np.int64]]:
    """Of `num_bins` bins of equal width: mean confidence, share right (NaN if empty), products."""
    bins = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
    counts = np.bincount(bins, minlength=num_bins)
    with np.errstate(invalid="ignore"):
        means, right = (
            np.bincount(bins, weights=values, minlength=num_bins) / counts
            for values in (confidence, correct)
        )
    return means, right, counts


def accuracy_interval(correct: Correct, level: float = 0.95) -> Interval:
    """Percentile bootstrap over products (Efron 1979) of the accuracy.

    The number of right products in a resample is binomial, so its quantiles need no drawing.
    """
    from scipy.stats import binom

    if not len(correct):
        return float("nan"), float("nan")
    ends = ((1 - level) / 2, (1 + level) / 2)
    low, high = (float(binom.ppf(e, len(correct), correct.mean())) / len(correct) for e in ends)
    return low, high


def recall_interval(
    correct: Correct, confidence: Confidences, precision: float = 0.9, level: float = 0.95
) -> Interval:
    """Percentile bootstrap over products of `recall_at_precision`.

    The threshold is chosen anew in each of RESAMPLES resamples, drawn with a fixed seed. Where few
    products are that sure, the recall itself is biased upwards, and the interval with it.
    """
    size = len(correct)
    if not size:
        return float("nan"), float("nan")
    rng = np.random.default_rng(0)
    curve = _Curve.of(correct, confidence)
    recalls = []
    for _ in range(max(50, min(RESAMPLES, RESAMPLES * 20_000 // size))):
        drawn = np.bincount(rng.integers(0, size, size), minlength=size).astype(np.float64)
        recalls.append(curve.best(drawn, precision)[0] / size)
    low, high = np.quantile(recalls, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class _Curve:
    """Products from the surest down; `ends_tie` where the next one is less sure."""

    correct: Correct
    ends_tie: Correct

    @classmethod
    def of(cls, correct: Correct, confidence: Confidences) -> _Curve:
        order = np.argsort(-confidence, kind="stable")
        ranked = confidence[order]
        return cls(correct[order], np.append(ranked[1:] != ranked[:-1], True))

    def best(self, weights: Confidences, precision: float) -> tuple[float, float]:
        """Right and published products at the threshold with the most right ones that keeps
        `precision`, each product counted `weights` times."""
        right, published = np.cumsum(weights * self.correct), np.cumsum(weights)
        # A count that meets the target exactly must not fail by a rounding.
        allowed = self.ends_tie & (right >= precision * published - 1e-9 * published)
        if not allowed.any():
            return 0.0, 0.0
        best = int(np.argmax(np.where(allowed, right, -1.0)))
        return float(right[best]), float(published[best])
