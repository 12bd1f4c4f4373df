"""Calibration: the promise of a threshold holds as often as it says, and is not given lightly."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tagger.calibration import (
    FILE_NAME,
    GRID,
    STRICT_DELTA,
    Calibration,
    Outcomes,
    TaskCalibration,
    Threshold,
    fit_by_label,
    fit_temperature,
    fit_threshold,
    products_needed,
    read_calibration,
    write_calibration,
)
from tagger.errors import ModelError, UsageError

from .conftest import most_memory

DELTA = 0.1
LABELS = np.array(["red", "blue", "green"])


def flat(predicted: Any, confidence: Any, correct: Any) -> Outcomes:
    """Outcomes of a task without levels, from (n,) each."""
    return Outcomes(predicted, confidence[:, None], correct[:, None])


def draw(count: int, seed: int, skill: float = 0.8) -> Outcomes:
    """Products of a network that is overconfident: right with less than its confidence."""
    rng = np.random.default_rng(seed)
    logit = np.abs(rng.normal(3.5, 2.5, count))
    confidence = 1 / (1 + np.exp(-logit))
    correct = rng.random(count) < 1 / (1 + np.exp(-skill * logit))
    return flat(LABELS[rng.integers(0, 3, count)], confidence, correct)


POPULATION = draw(200_000, seed=1)


def precision_at(threshold: float, products: Outcomes = POPULATION) -> float:
    published = products.confidence >= threshold
    return float(products.correct[published].mean()) if published.any() else 1.0


@pytest.mark.parametrize("precision", [0.9, 0.95])
@pytest.mark.parametrize("count", [500, 2000])
def test_promise_is_broken_at_most_as_often_as_delta_says(precision: float, count: int) -> None:
    broken = 0
    for seed in range(200):
        guide, test = draw(count // 4, 2 * seed + 2), draw(count * 3 // 4, 2 * seed + 3)
        threshold = fit_threshold(guide, test, precision, DELTA)
        broken += threshold is not None and precision_at(threshold) < precision
    # 20 expected at most; 32 is what chance leaves in one of 300 tests.
    assert broken <= 32


def test_more_products_publish_more() -> None:
    coverage = []
    for count in (400, 4000, 40_000):
        threshold = fit_threshold(draw(count // 4, 5), draw(count, 6), 0.95, DELTA)
        coverage.append((POPULATION.confidence >= (threshold or 2)).mean())
    assert coverage == sorted(coverage)
    order = np.argsort(-POPULATION.confidence[:, 0])
    running = np.cumsum(POPULATION.correct[order, 0]) / np.arange(1, len(order) + 1)
    best = np.flatnonzero(running >= 0.95)[-1] / len(order)
    assert best - 0.05 < coverage[-1] <= best


def test_unlucky_start_leaves_a_stricter_one() -> None:
    """The guide is misled: products below 0.8 are all right in it, and mostly wrong in truth."""

    def products(sure: int, unsure: int, period: int) -> Outcomes:
        """Every `period`-th of the unsure ones is right."""
        confidence = np.concatenate([np.linspace(0.999, 0.9, sure), np.linspace(0.79, 0.7, unsure)])
        right = np.concatenate([np.ones(sure), np.arange(unsure) % period == 0])
        return flat(np.full(sure + unsure, "red"), confidence, right.astype(bool))

    threshold = fit_threshold(products(90, 30, 1), products(300, 100, 3), 0.9, DELTA)
    assert threshold is not None
    assert 0.75 < threshold < 0.95


@pytest.mark.parametrize("precision", [0.9, 0.99])
def test_too_few_products_get_no_promise_even_if_all_are_right(precision: float) -> None:
    needed = products_needed(precision, DELTA)

    def perfect(count: int) -> Outcomes:
        return flat(np.full(count, "red"), np.full(count, 0.99), np.ones(count, dtype=bool))

    assert fit_threshold(perfect(needed), perfect(needed - 1), precision, DELTA) is None
    assert fit_threshold(perfect(needed), perfect(needed), precision, DELTA) is not None
    assert precision**needed <= (1 - STRICT_DELTA) * DELTA < precision ** (needed - 1)


def test_network_that_is_never_that_good_publishes_nothing() -> None:
    assert fit_threshold(draw(1000, 1, 0.0), draw(3000, 2, 0.0), 0.9, DELTA) is None


def test_network_that_is_always_right_publishes_everything() -> None:
    products = draw(2000, 3)
    right = replace(products, correct=np.ones((2000, 1), dtype=bool))
    assert fit_threshold(right, right, 0.99, DELTA) == pytest.approx(GRID[-1])


def test_each_label_keeps_the_promise_on_its_own() -> None:
    def uneven(count: int, seed: int) -> Outcomes:
        products = draw(count, seed)
        rng = np.random.default_rng(seed + 1000)
        worse = (products.predicted == "green") & (rng.random(count) < 0.1)
        return replace(products, correct=products.correct & ~worse[:, None])

    population = uneven(100_000, 77)
    broken = 0
    for seed in range(0, 120, 2):
        rest, by_label = fit_by_label(uneven(1000, seed), uneven(3000, seed + 1), 0.9, DELTA)
        assert set(by_label) == set(LABELS)
        assert rest is None, "no other label was there"
        broken += any(
            threshold is not None
            and precision_at(threshold, population.where(population.predicted == label)) < 0.9
            for label, threshold in by_label.items()
        )
    assert broken <= 6, "delta of 60 draws, for all labels together"


def test_label_with_few_products_shares_the_threshold_of_the_rest() -> None:
    products = draw(4000, 8)
    names = products.predicted.copy()
    names[:40] = "teal"
    few = replace(products, predicted=names)
    _, by_label = fit_by_label(few, few, 0.9, DELTA)
    assert "teal" not in by_label
    assert set(by_label) == set(LABELS)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_temperature_of_the_network_is_found(temperature: float) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (5000, 4))
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    truth = np.array([rng.choice(4, p=row) for row in shares])
    assert fit_temperature(logits * temperature, truth) == pytest.approx(temperature, rel=0.1)
    unknown = np.where(rng.random(5000) < 0.5, -2, truth)
    assert fit_temperature(logits * temperature, unknown) == pytest.approx(temperature, rel=0.15)


def test_temperature_of_many_labels_takes_less_memory_than_their_logits() -> None:
    logits = np.random.default_rng(0).normal(0, 2, (4000, 1000)).astype(np.float32)
    with most_memory(logits.nbytes):
        assert fit_temperature(logits, logits.argmax(1)) < 1


def test_without_known_labels_the_temperature_is_one() -> None:
    assert fit_temperature(np.zeros((3, 2)), np.array([-1, -2, -2])) == 1.0


def test_temperature_of_few_products_without_a_mistake_stays_near_1() -> None:
    """No temperature is too low for them: .05 was found, and all confidences became 1."""
    logits = np.zeros((50, 4))
    logits[:, 0] = 4
    assert 0.5 < fit_temperature(logits, np.zeros(50, dtype=np.int64)) < 1


def example() -> Calibration:
    threshold = Threshold(
        precision=0.9,
        threshold=0.7,
        by_label={"Red": None, "Blue": 0.9},
        num_products=100,
        reported_products=50,
        published=40,
        reported_precision=0.95,
    )
    task = TaskCalibration(
        temperature=1.5,
        thresholds=(threshold,),
        delta=0.1,
        catalog="val.parquet",
        catalog_sha256="0",
    )
    return Calibration(precision=0.9, weights_sha256="1", tasks={"color": task})


def test_calibration_comes_back_as_it_was_written(tmp_path: Path) -> None:
    assert read_calibration(tmp_path) is None
    write_calibration(example(), tmp_path)
    assert read_calibration(tmp_path) == example()


def test_threshold_of_a_label_comes_before_that_of_the_task() -> None:
    threshold = example().threshold("color", 0.9)
    assert threshold.of("Green") == 0.7
    assert threshold.of("Blue") == 0.9
    assert threshold.of("Red") == math.inf


@pytest.mark.parametrize(("task", "precision"), [("color", 0.91), ("shape", 0.9)])
def test_precision_that_was_not_fitted_is_a_usage_error(task: str, precision: float) -> None:
    with pytest.raises(UsageError, match="has no threshold for precision") as caught:
        example().threshold(task, precision)
    assert "--calibrate" in caught.value.hint


@pytest.mark.parametrize(
    ("field", "value"), [("format_version", 99), ("tasks", 3), ("extra", 1), ("precision", "x")]
)
def test_damaged_calibration_is_a_model_error(tmp_path: Path, field: str, value: object) -> None:
    write_calibration(example(), tmp_path)
    document = json.loads((tmp_path / FILE_NAME).read_text())
    (tmp_path / FILE_NAME).write_text(json.dumps(document | {field: value}))
    with pytest.raises(ModelError, match=FILE_NAME):
        read_calibration(tmp_path)


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_temperature_that_is_not_above_zero_is_a_model_error(
    tmp_path: Path, temperature: float
) -> None:
    write_calibration(example(), tmp_path)
    document = json.loads((tmp_path / FILE_NAME).read_text())
    document["tasks"]["color"]["temperature"] = temperature
    (tmp_path / FILE_NAME).write_text(json.dumps(document))
    with pytest.raises(ModelError, match="temperature"):
        read_calibration(tmp_path)
