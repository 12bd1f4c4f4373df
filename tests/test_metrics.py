"""Metrics against their definitions, written out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tagger.metrics import (
    Rated,
    accuracy_interval,
    calibration_error,
    coverage_at_precision,
    difference_interval,
    macro_f1,
    per_label,
    precision_curve,
    recall_at_precision,
    recall_interval,
    reliability,
    resampled,
    squared_error,
)
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
def test_macro_f1_follows_its_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, predicted = rng.integers(UNKNOWN_LABEL + 1, 3, 60), rng.integers(0, 5, 60)
    truth[truth == -1] = UNKNOWN_LABEL
    expected = f1_by_definition(truth.tolist(), predicted.tolist())
    assert macro_f1(truth, predicted) == pytest.approx(expected)


def test_label_that_the_model_does_not_know_is_never_right() -> None:
    truth, predicted = np.full(4, UNKNOWN_LABEL), np.arange(4)
    assert macro_f1(truth, predicted) == 0


def test_no_product_has_no_score() -> None:
    nothing = np.zeros(0, np.int64)
    assert math.isnan(macro_f1(nothing, nothing))


def test_coverage_is_the_share_published_at_the_threshold_of_the_recall() -> None:
    correct = np.array([True] * 9 + [False] + [True, False, False])
    confidence = np.linspace(1, 0.1, 13)
    assert recall_at_precision(correct, confidence, 0.9) == pytest.approx(10 / 13)
    assert coverage_at_precision(correct, confidence, 0.9) == pytest.approx(11 / 13)
    assert coverage_at_precision(~correct[:1], confidence[:1], 0.9) == 0


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)

    def draw(size: int) -> tuple[np.ndarray, np.ndarray]:
        confidence = rng.random(size)
        return rng.random(size) < 0.5 + 0.5 * confidence, confidence

    truth = recall_at_precision(*draw(1_000_000), 0.9)
    accuracies = recalls = 0
    for _ in range(100):
        correct, confidence = draw(1000)
        low, high = accuracy_interval(correct)
        accuracies += low <= 0.75 <= high
        low, high = recall_interval(correct, confidence, 0.9)
        recalls += low <= truth <= high
    assert accuracies >= 88
    assert recalls >= 80


def test_accuracy_of_few_products_is_never_certain() -> None:
    low, high = accuracy_interval(np.ones(8, bool))
    assert low == pytest.approx(0.676, abs=0.001)
    assert high == 1
    low, high = accuracy_interval(np.zeros(8, bool))
    assert (low, high) == pytest.approx((0, 0.324), abs=0.001)


def test_interval_of_a_large_sample_is_narrow_and_ends_do_not_cross() -> None:
    rng = np.random.default_rng(1)
    correct, confidence = rng.random(5000) < 0.95, rng.random(5000)
    for low, high in (accuracy_interval(correct), recall_interval(correct, confidence)):
        assert 0 <= low <= high <= 1
        assert high - low < 0.05
    assert math.isnan(accuracy_interval(correct[:0])[0])
    assert math.isnan(recall_interval(correct[:0], confidence[:0])[1])


def test_calibration_error_is_zero_for_honest_and_the_gap_for_boasting_confidences() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.random(200_000)
    honest = rng.random(200_000) < confidence
    assert calibration_error(honest, confidence) < 0.01
    assert calibration_error(np.zeros(10, bool), np.ones(10)) == 1
    assert calibration_error(np.array([True, False]), np.array([0.9, 0.9])) == pytest.approx(0.4)
    assert math.isnan(calibration_error(honest[:0], confidence[:0]))


def test_calibration_error_of_opposite_mistakes_does_not_cancel() -> None:
    correct = np.repeat([True, False], 10)
    assert calibration_error(correct, np.repeat([0.1, 0.9], 10)) == pytest.approx(0.9)


@pytest.mark.parametrize("seed", range(3))
def test_reliability_has_confidence_and_share_right_of_each_bin(seed: int) -> None:
    rng = np.random.default_rng(seed)
    confidence = np.append(rng.random(40) * 0.7, 1.0)  # none between 0.7 and 1
    correct = rng.random(41) < 0.5
    means, right, counts = reliability(correct, confidence)
    for number in range(10):
        low, high = number / 10, (number + 1) / 10
        inside = (confidence >= low) & ((confidence < high) | (number == 9))
        assert counts[number] == inside.sum()
        if inside.any():
            assert means[number] == pytest.approx(confidence[inside].mean())
            assert right[number] == pytest.approx(correct[inside].mean())
        else:
            assert math.isnan(means[number])
            assert math.isnan(right[number])


@pytest.mark.parametrize("seed", range(3))
def test_precision_curve_has_one_point_for_each_confidence(seed: int) -> None:
    rng = np.random.default_rng(seed)
    correct, confidence = rng.random(30) < 0.7, rng.integers(0, 8, 30) / 8
    coverage, precision = precision_curve(correct, confidence)
    published = [confidence >= threshold for threshold in np.unique(confidence)[::-1]]
    assert coverage == pytest.approx([chosen.mean() for chosen in published])
    assert precision == pytest.approx([correct[chosen].mean() for chosen in published])


def test_squared_error_is_the_distance_to_the_truth() -> None:
    probabilities = np.array([[0.7, 0.2, 0.1], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.5, 0.5, 0.0]])
    truth = np.array([0, 1, 2, UNKNOWN_LABEL])
    expected = [0.3**2 + 0.2**2 + 0.1**2, 0.0, 1.0, 1.5]
    assert squared_error(probabilities, truth) == pytest.approx(expected)


def test_each_label_has_precision_recall_and_support() -> None:
    truth = np.array(["red", "red", "red", "blue", "teal"])
    predicted = np.array(["red", "red", "blue", "blue", ""])
    assert per_label(truth, predicted) == {
        "blue": (0.5, 1.0, 1),
        "red": (1.0, pytest.approx(2 / 3), 3),
        "teal": (None, 0.0, 1),
    }
    assert per_label(truth[:0], predicted[:0]) == {}


def rated(rng: np.random.Generator, rows: np.ndarray, share: float = 0.85) -> Rated:
    """A model that knows a little about when it is right."""
    correct = rng.random(len(rows)) < share
    confidence = rng.integers(0, 40, len(rows)) / 80 + 0.5 * correct * rng.random(len(rows)).round(
        1
    )
    return Rated(rows, correct, confidence)


@pytest.mark.parametrize("precision", [0.5, 0.9, 0.97])
def test_a_resample_has_the_rates_of_its_products_drawn_one_by_one(precision: float) -> None:
    rng = np.random.default_rng(3)
    tasks = [rated(rng, np.arange(70)), rated(rng, np.arange(1, 70, 3))]
    found = resampled(tasks, 70, precision)
    # The draws are those of recall_interval: one generator, 70 numbers a resample.
    drawn = np.random.default_rng(0).integers(0, 70, (len(found), 70))
    for rates, products in zip(found[:60], drawn, strict=False):
        for (accuracy, recall), task in zip(rates, tasks, strict=True):
            places = np.concatenate([np.flatnonzero(task.rows == p) for p in products])
            correct, confidence = task.correct[places], task.confidence[places]
            assert accuracy == pytest.approx(correct.mean())
            assert recall == pytest.approx(recall_at_precision(correct, confidence, precision))


def test_resamples_of_a_task_alone_and_beside_others_are_the_same_draws() -> None:
    rng = np.random.default_rng(4)
    one, other = rated(rng, np.arange(50)), rated(rng, np.arange(0, 50, 2))
    both = resampled([one, other], 50, 0.9)
    assert np.array_equal(both[:, :1], resampled([one], 50, 0.9))
    assert np.array_equal(both[:, 1:], resampled([other], 50, 0.9))


def test_a_resample_without_a_labelled_product_has_no_rate() -> None:
    lonely = Rated(np.array([7]), np.array([True]), np.array([0.5]))
    found = resampled([lonely], 40, 0.9)
    empty = np.isnan(found[:, 0, 0])
    assert 0.3 < empty.mean() < 0.45  # (1 - 1/40) ** 40
    assert (found[~empty] == 1).all()
    assert np.isnan(resampled([Rated(*(a[:0] for a in vars(lonely).values()))], 9, 0.9)).all()


@pytest.mark.parametrize(("size", "count"), [(419, 2000), (10_000, 500), (60_000, 200)])
def test_large_catalogs_are_resampled_in_bounded_time_and_never_too_seldom(
    size: int, count: int
) -> None:
    rows = np.arange(size)
    assert len(resampled([rated(np.random.default_rng(0), rows)], size, 0.9)) == count


@pytest.mark.parametrize("count", [50, 200, 2000])
def test_interval_of_few_draws_holds_as_much_as_that_of_many(count: int) -> None:
    rng, held = np.random.default_rng(0), []
    for _ in range(1000):
        low, high = difference_interval(np.zeros(count), rng.random(count))
        held.append(high - low)
    assert np.mean(held) == pytest.approx(0.95, abs=0.003)


def test_interval_of_a_difference_is_that_of_the_paired_draws() -> None:
    first, other = np.arange(0.0, 101.0), np.arange(0.0, 202.0, 2)
    assert difference_interval(first, other) == pytest.approx((1.55, 98.45))
    assert difference_interval(first, first) == (0, 0)
    first[3] = np.nan
    assert difference_interval(first, first) == (0, 0)
    assert math.isnan(difference_interval(first[3:4], first[3:4])[0])
