"""Metrics against their definitions, written out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tagger.metrics import accuracy, macro_f1, recall_at_precision
from tagger.tasks import UNKNOWN_LABEL


def recall_by_definition(correct: list[bool], confidence: list[float], precision: float) -> float:
    """The best over every threshold that can be set."""
    best = 0
    for threshold in confidence:
        published = [right for right, c in zip(correct, confidence, strict=True) if c >= threshold]
        if sum(published) / len(published) >= precision - 1e-12:
            best = max(best, sum(published))
    return best / len(correct)


@pytest.mark.parametrize("seed", range(30))
def test_recall_at_precision_is_the_best_over_all_thresholds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 120))
    confidence = rng.integers(0, rng.choice([3, 20, 10_000]), size) / 10_000
    correct = rng.random(size) < rng.choice([0.2, 0.8, 0.95])
    for precision in (0.5, 0.7, 0.9, 1.0):
        expected = recall_by_definition(correct.tolist(), confidence.tolist(), precision)
        assert recall_at_precision(correct, confidence, precision) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(5))
def test_recall_at_precision_depends_neither_on_order_nor_on_scale(seed: int) -> None:
    rng = np.random.default_rng(seed)
    correct, confidence = rng.random(80) < 0.8, rng.integers(0, 9, 80) / 9
    order = rng.permutation(80)
    expected = recall_at_precision(correct, confidence)
    assert recall_at_precision(correct[order], confidence[order]) == expected
    assert recall_at_precision(correct, confidence**3) == expected


@pytest.mark.parametrize("tenths", range(1, 40))
def test_precision_that_is_met_exactly_counts_as_met(tenths: int) -> None:
    correct = np.array([False] * tenths + [True] * 9 * tenths)
    assert recall_at_precision(correct, np.ones(10 * tenths), 0.9) == pytest.approx(0.9)


def test_recall_at_precision_at_the_ends() -> None:
    assert recall_at_precision(np.ones(5, bool), np.zeros(5)) == 1
    assert recall_at_precision(np.zeros(5, bool), np.ones(5)) == 0
    assert math.isnan(recall_at_precision(np.zeros(0, bool), np.zeros(0)))


def f1_by_definition(truth: list[int], predicted: list[int]) -> float:
    scores = []
    for label in set(truth):
        hits = sum(t == p == label for t, p in zip(truth, predicted, strict=True))
        scores.append(2 * hits / (truth.count(label) + predicted.count(label)))
    return sum(scores) / len(scores)


@pytest.mark.parametrize("seed", range(10))
def test_accuracy_and_macro_f1_follow_their_definitions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, predicted = rng.integers(UNKNOWN_LABEL + 1, 3, 60), rng.integers(0, 5, 60)
    truth[truth == -1] = UNKNOWN_LABEL
    hits = [t == p for t, p in zip(truth.tolist(), predicted.tolist(), strict=True)]
    assert accuracy(truth, predicted) == pytest.approx(sum(hits) / 60)
    expected = f1_by_definition(truth.tolist(), predicted.tolist())
    assert macro_f1(truth, predicted) == pytest.approx(expected)


def test_label_that_the_model_does_not_know_is_never_right() -> None:
    truth, predicted = np.full(4, UNKNOWN_LABEL), np.arange(4)
    assert accuracy(truth, predicted) == 0
    assert macro_f1(truth, predicted) == 0


def test_no_product_has_no_score() -> None:
    nothing = np.zeros(0, np.int64)
    assert math.isnan(accuracy(nothing, nothing))
    assert math.isnan(macro_f1(nothing, nothing))
