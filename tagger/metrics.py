"""Macro-F1, recall at precision, calibration error: pure functions on numpy arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]
Confidences = NDArray[np.float64]
Correct = NDArray[np.bool_]
Counts = NDArray[np.int32]
Interval = tuple[float, float]

LEVEL = 0.95
"""Of all intervals."""
ERROR_BINS, RELIABILITY_BINS = 15, 10
"""Of equal width, over confidences in 0..1."""

RESAMPLES, LEAST_RESAMPLES, DRAWS = 2000, 200, 5_000_000
"""Bootstrap resamples of few products, and of many: as many as DRAWS allow, so that the time stays
bounded. The ends of an interval are drawn, too: with a standard deviation of .06 and .19 of the
standard error, which is itself small where products are many."""
DRAWN_AT_ONCE = 1 << 19
"""Numbers that a table of resamples holds: as many resamples of the products as fit into it."""


def mean_of_known(values: Iterable[float | None]) -> float | None:
    """The mean of those that are not None; None if all are."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


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


def calibration_error(correct: Correct, confidence: Confidences) -> float:
    """Expected calibration error (Naeini et al. 2015, as in Guo et al. 2017, equation 5).

    The mean over products of |share right - mean confidence| of their bin, of ERROR_BINS of equal
    width; NaN for no product.
    """
    if not len(correct):
        return float("nan")
    bins = _bins(confidence, ERROR_BINS)
    gaps = np.bincount(bins, weights=confidence - correct, minlength=ERROR_BINS)
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
    right, _ = _Curve.of(correct, confidence).best(precision)
    return right / len(correct)


def coverage_at_precision(
    correct: Correct, confidence: Confidences, precision: float = 0.9
) -> float:
    """Share of products that are published at the threshold of `recall_at_precision`."""
    if not len(correct):
        return float("nan")
    _, published = _Curve.of(correct, confidence).best(precision)
    return published / len(correct)


def rightly_published(correct: Correct, confidence: Confidences, precision: float = 0.9) -> Correct:
    """(n,) which products make up `recall_at_precision`: right, and published at its threshold."""
    _, published = _Curve.of(correct, confidence).best(precision)
    chosen = np.zeros(len(correct), dtype=bool)
    chosen[np.argsort(-confidence, kind="stable")[:published]] = True
    return chosen & correct


def precision_curve(correct: Correct, confidence: Confidences) -> tuple[Confidences, Confidences]:
    """Coverage and precision at each distinct confidence, from the surest product down, of one
    product at least."""
    curve = _Curve.of(correct, confidence)
    counts = np.arange(1, len(correct) + 1)
    precision = np.cumsum(curve.correct) / counts
    return (counts / len(correct))[curve.ends_tie], precision[curve.ends_tie]


def _bins(confidence: Confidences, count: int) -> NDArray[np.int64]:
    """(n,) the bin of each, of `count`; a confidence of 1 is in the last."""
    bins: NDArray[np.int64] = np.minimum((confidence * count).astype(int), count - 1)
    return bins


def reliability(
    correct: Correct, confidence: Confidences
) -> tuple[Confidences, Confidences, NDArray[np.int64]]:
    """Of RELIABILITY_BINS of equal width: mean confidence, share right (NaN if empty), products."""
    bins = _bins(confidence, RELIABILITY_BINS)
    counts = np.bincount(bins, minlength=RELIABILITY_BINS)
    with np.errstate(invalid="ignore"):
        means, right = (
            np.bincount(bins, weights=values, minlength=RELIABILITY_BINS) / counts
            for values in (confidence, correct)
        )
    return means, right, counts


def accuracy_interval(correct: Correct) -> Interval:
    """Wilson's score interval (1927) of the accuracy.

    Where all of a few products are right, a bootstrap would say that all others are, too.
    """
    from scipy.stats import binomtest

    if not len(correct):
        return float("nan"), float("nan")
    interval = binomtest(int(correct.sum()), len(correct)).proportion_ci(LEVEL, "wilson")
    return float(interval.low), float(interval.high)


def recall_interval(correct: Correct, confidence: Confidences, precision: float = 0.9) -> Interval:
    """Percentile bootstrap over products of `recall_at_precision`.

    The threshold is chosen anew in each of the resamples, drawn with a fixed seed. Where few
    products are that sure, the recall itself is biased upwards, and the interval with it.
    """
    size = len(correct)
    if not size:
        return float("nan"), float("nan")
    # Ranked, so that the order of the catalog changes nothing.
    order = np.argsort(-confidence, kind="stable")
    rated = Rated(np.arange(size), correct[order], confidence[order])
    return _percentiles(resampled([rated], size, precision)[:, 0, 1])


@dataclass(frozen=True)
class Rated:
    """The answers to one task, (m,) each: the row of the product among all, whether the label is
    right, and the confidence 0..1. Products without a label of the task have none."""

    rows: Labels
    correct: Correct
    confidence: Confidences


def resampled(tasks: Sequence[Rated], num_products: int, precision: float) -> Confidences:
    """(resamples, tasks, 2): accuracy and recall at `precision` in bootstrap resamples of products.

    Products are drawn with a fixed seed, with their answers to all tasks: the results of two models
    on the same products belong together, draw by draw, and so do those of two tasks, which makes
    the bootstrap of a difference or of a mean over tasks a paired one (Efron 1979). The threshold
    is chosen anew in each resample. NaN where a resample has no product with a label of the task.
    """
    curves = [_Curve.of(task.correct, task.confidence) for task in tasks]
    orders = [task.rows[np.argsort(-task.confidence, kind="stable")] for task in tasks]
    parts = []
    for drawn in _draws(num_products):
        part = np.full((drawn.shape[1], len(tasks), 2), np.nan)
        for place, (curve, order) in enumerate(zip(curves, orders, strict=True)):
            if len(order):
                weights = drawn[order]
                counted = weights.sum(0)
                with np.errstate(invalid="ignore"):
                    part[:, place, 0] = weights[curve.correct].sum(0) / counted
                    part[:, place, 1] = curve.most_right(weights, precision) / counted
        parts.append(part)
    return np.concatenate(parts)


def difference_interval(first: Confidences, other: Confidences) -> Interval:
    """The percentile interval of `other` - `first` (resamples,), paired; NaN counts nothing."""
    difference = other - first
    difference = difference[~np.isnan(difference)]
    return _percentiles(difference) if len(difference) else (float("nan"), float("nan"))


def _percentiles(values: Confidences) -> Interval:
    """What holds the middle LEVEL of what `values`, at least one, were drawn from.

    Of 200 draws numpy's usual quantiles hold 94.0%, of 50 91.5%; by Weibull's positions k / (n + 1)
    it is 95% of any number (Hyndman and Fan 1996, definition 6).
    """
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="weibull")
    return float(low), float(high)


def _num_resamples(size: int) -> int:
    return max(LEAST_RESAMPLES, min(RESAMPLES, DRAWS // size))


def _draws(size: int) -> Iterator[Counts]:
    """How often each of `size` products is drawn, (size, some resamples) at a time."""
    rng = np.random.default_rng(0)
    count, at_once = _num_resamples(size), max(1, DRAWN_AT_ONCE // size)
    for start in range(0, count, at_once):
        number = min(at_once, count - start)
        places = rng.integers(0, size, (number, size)) + size * np.arange(number)[:, None]
        drawn = np.bincount(places.ravel(), minlength=number * size).reshape(number, size)
        # Products in rows: a ranking then takes whole rows, and sums run over many at a time.
        yield np.ascontiguousarray(drawn.T, dtype=np.int32)


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

    def best(self, precision: float) -> tuple[int, int]:
        """Right and published products at the threshold with the most right ones that keeps
        `precision`."""
        right, published = np.cumsum(self.correct), np.arange(1, len(self.correct) + 1)
        # A count that meets the target exactly must not fail by a rounding.
        allowed = self.ends_tie & (right >= precision * published - 1e-9 * published)
        if not allowed.any():
            return 0, 0
        best = int(np.argmax(np.where(allowed, right, -1)))
        return int(right[best]), int(published[best])

    def most_right(self, weights: Counts, precision: float) -> Counts:
        """(resamples,) right products at the threshold of `best`, in each of the columns of
        `weights` (m, resamples)."""
        right = np.cumsum(weights * self.correct[:, None], axis=0, dtype=np.int32)
        published = np.cumsum(weights, axis=0, dtype=np.int32)
        right, published = right[self.ends_tie], published[self.ends_tie]
        most: Counts = np.where(right >= (precision - 1e-9) * published, right, 0).max(0)
        return most
