"""Evaluation: every view sees what it says, unknown labels count and never crash."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from tagger.bundle import Bundle
from tagger.catalog import Columns
from tagger.config import PRECISION
from tagger.errors import CatalogError, ModelError
from tagger.evaluate import Evaluation, evaluate_catalog, write_evaluation
from tagger.predict import Tagger
from tagger.products import ProductSource
from tests.conftest import MakeCatalog, Row, mixed_rows

LABELS = ("Blue", "Green", "Red")


@pytest.fixture
def catalog(make_catalog: MakeCatalog, tmp_path: Path) -> Path:
    dice = np.random.default_rng(0)
    rows = [{**row, "color": str(dice.choice(LABELS))} for row in mixed_rows(tmp_path, 40)]
    return make_catalog(rows)


def edited(catalog: Path, **columns: object) -> Path:
    path = catalog.with_name("edited.parquet")
    pd.read_parquet(catalog).assign(**columns).to_parquet(path)
    return path


def figures(
    tiny: Bundle,
    catalog: Path,
    tasks: Sequence[str],
    columns: Columns = Columns(),
    precision: float = PRECISION,
) -> Evaluation:
    return evaluate_catalog(tiny, ProductSource(catalog, columns), tasks, precision).figures


def accuracy(evaluation: Evaluation, view: str) -> float:
    return evaluation.scores[view]["color"].accuracy or 0.0


def test_accuracy_with_everything_is_that_of_the_predicted_labels(
    tiny: Bundle, catalog: Path
) -> None:
    table = pd.read_parquet(catalog)
    predicted = Tagger(tiny).predict(table.drop(columns="color"), ["color"], catalog.parent)
    right = (predicted["color_label"] == table["color"]).mean()
    evaluation = figures(tiny, catalog, ["color"])
    assert accuracy(evaluation, "both") == pytest.approx(right)
    assert evaluation.num_products == len(table)


@pytest.mark.parametrize(("view", "column"), [("image", "title"), ("title", "image")])
def test_a_view_never_sees_what_it_withholds(
    tiny: Bundle, catalog: Path, view: str, column: str
) -> None:
    shuffled = pd.read_parquet(catalog)[column].to_numpy()[::-1]
    one = figures(tiny, catalog, ["color"]).scores[view]
    other = figures(tiny, edited(catalog, **{column: shuffled}), ["color"]).scores[view]
    assert one["color"] == other["color"]


def test_scrubbed_titles_lose_the_words_of_each_task_itself(tiny: Bundle, catalog: Path) -> None:
    path = edited(catalog, pattern=["Plain", "Dots"] * 20)
    scrubbed = figures(tiny, path, ["color", "pattern"]).scores["scrubbed"]
    titles = [t or "" for t in pq.read_table(path).column("title").to_pylist()]
    for task, words in (("color", {"red", "blue", "green"}), ("pattern", {"plain", "striped"})):
        bare = [" ".join(w for w in title.split() if w not in words) for title in titles]
        by_hand = figures(tiny, edited(path, title=bare), [task]).scores["both"][task]
        assert scrubbed[task] == by_hand


def test_labels_that_the_model_does_not_know_are_counted_and_wrong(
    tiny: Bundle, catalog: Path
) -> None:
    labels = ["Mauve"] * 10 + ["Teal"] * 5 + [None] * 25
    score = figures(tiny, edited(catalog, color=labels), ["color"]).scores["both"]["color"]
    assert score.unknown_labels == {"Mauve": 10, "Teal": 5}
    assert score.num_products == 15
    assert score.accuracy == 0
    assert score.recall_at_precision == 0


def test_figures_of_a_task_fit_together(tiny: Bundle, catalog: Path) -> None:
    score = figures(tiny, catalog, ["color"], precision=0.6).scores["both"]["color"]
    assert score.accuracy is not None
    assert score.accuracy_interval is not None
    assert score.recall_interval is not None
    assert score.accuracy_interval[0] <= score.accuracy <= score.accuracy_interval[1]
    assert (score.recall_at_precision or 0) <= (score.coverage_at_precision or 0)
    assert sum(label.support for label in score.labels.values()) == score.num_products == 40
    hits = sum(label.recall * label.support for label in score.labels.values() if label.recall)
    assert hits == pytest.approx(score.accuracy * 40)
    weights = [x.image_weight for x in score.labels.values() if x.image_weight is not None]
    assert min(weights) <= (score.image_weight or 0) <= max(weights)
    assert len(set(weights)) > 1
    assert all(c.truth != c.predicted for c in score.confusions)
    assert 0 <= (score.calibration_error or 0) <= 1
    assert 0 <= (score.brier or 0) <= 2


def test_brier_score_is_the_mean_squared_distance_to_the_truth(tiny: Bundle, catalog: Path) -> None:
    table = pd.read_parquet(catalog)
    said = Tagger(tiny).predict(table.drop(columns="color"), ["color"], catalog.parent, top_k=3)
    total = 0.0
    for ranked, label in zip(said["color_top_k"], table["color"], strict=True):
        shares = {} if ranked is None else {r["label"]: r["confidence"] for r in ranked}
        total += sum((shares.get(name, 0.0) - (name == label)) ** 2 for name in LABELS)
    score = figures(tiny, catalog, ["color"]).scores["both"]["color"]
    assert score.brier == pytest.approx(total / len(table), abs=1e-5)


def test_product_without_an_answer_is_no_confusion(tiny: Bundle, make_catalog: MakeCatalog) -> None:
    rows = [{"image": None, "title": None, "color": "Red"}] * 5 + [{"title": "x", "color": "Red"}]
    score = figures(tiny, make_catalog(rows), ["color"]).scores["both"]["color"]
    assert sum(c.count for c in score.confusions) <= 1
    assert "" not in {c.predicted for c in score.confusions}
    assert score.num_products == 6


def test_calibration_error_is_that_of_the_answers(tiny: Bundle, make_catalog: MakeCatalog) -> None:
    told: list[Row] = [{"title": f"red shoe {n}", "color": "Blue"} for n in range(6)]
    silent: list[Row] = [{"title": None, "color": "Blue"}] * 20
    some, all_ = (
        figures(tiny, make_catalog(rows, name), ["color"]).scores["both"]["color"]
        for rows, name in ((told, "told.parquet"), (told + silent, "all.parquet"))
    )
    assert some.calibration_error
    assert all_.calibration_error == pytest.approx(some.calibration_error)


def test_a_task_without_any_label_has_no_figures(tiny: Bundle, catalog: Path) -> None:
    path = edited(catalog, color=[None] * 40, pattern=["Dots"] * 40)
    score = figures(tiny, path, ["color", "pattern"]).scores["both"]["color"]
    assert score.num_products == 0
    assert score.accuracy is None


def test_a_catalog_without_any_label_is_refused_by_its_empty_columns(
    tiny: Bundle, catalog: Path
) -> None:
    path = edited(catalog, color=[None] * 40, pattern=[" "] * 40)
    with pytest.raises(CatalogError, match=r"none of 40 products .* columns: 'color', 'pattern'"):
        figures(tiny, path, ["color", "pattern"])


def test_the_json_says_what_was_measured_with_what(
    tiny: Bundle, catalog: Path, tmp_path: Path
) -> None:
    evaluation = figures(tiny, catalog, ["color"])
    write_evaluation(evaluation, tiny, tmp_path / "figures.json")
    document = json.loads((tmp_path / "figures.json").read_text())
    assert document["model_sha256"] == tiny.sha256
    assert document["scores"]["both"]["color"]["accuracy"] == accuracy(evaluation, "both")


def test_unknown_tasks_and_missing_label_columns_are_said(tiny: Bundle, catalog: Path) -> None:
    with pytest.raises(ModelError, match="knows: 'color', 'pattern'"):
        figures(tiny, catalog, ["style"])
    with pytest.raises(CatalogError, match="no label column 'pattern'"):
        figures(tiny, catalog, ["pattern"])
    with pytest.raises(CatalogError, match="no column 'foto'"):
        figures(tiny, catalog, ["color"], replace(Columns(), image="foto"))
