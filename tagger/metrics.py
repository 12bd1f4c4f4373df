"""Accuracy, macro-F1 and recall at precision, pure functions on numpy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]
Confidences = NDArray[np.float64]


def accuracy(truth: Labels, predicted: Labels) -> float:
    """Share of products whose label is right; NaN for no product.

    A true label that the model does not know (negative id) is never right.
    """
    return float((truth == predicted).mean()) if len(truth) else float("nan")


def macro_f1(truth: NDArray[Any], predicted: NDArray[Any]) -> float:
    """Mean F1 over the labels that occur in `truth`; NaN for no product.

    A label that the model does not know has F1 0.
    """
    if not len(truth):
        return float("nan")
    from sklearn.metrics import f1_score

    present = np.unique(truth)
    return float(f1_score(truth, predicted, labels=present, average="macro", zero_division=0.0))


def recall_at_precision(
    correct: NDArray[np.bool_], confidence: Confidences, precision: float = 0.9
) -> float:
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
    order = np.argsort(-confidence, kind="stable")
    right = np.cumsum(correct[order])
    published = np.arange(1, len(order) + 1)
    sorted_confidence = confidence[order]
    ends_tie = np.append(sorted_confidence[1:] != sorted_confidence[:-1], True)
    allowed = ends_tie & (right >= precision * published)
    return float(right[allowed].max(initial=0) / len(correct))
