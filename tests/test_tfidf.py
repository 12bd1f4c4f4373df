"""The TF-IDF baseline: learns from titles, sees no picture, knows what the model knows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tagger.errors import CatalogError, TrainingError
from tagger.products import Products, ProductSource
from tagger.scores import Judged
from tagger.scrub import giveaways
from tagger.tasks import Task
from tagger.tfidf import TitleModel, fit_titles, judge_titles

from .conftest import Cell, MakeCatalog

COLOR = Task("color", ("Blue", "Green", "Red"))
KIND = Task("kind", ("Bags > Totes", "Shoes > Boots", "Shoes > Sandals"), " > ")
WORDS = {"color": giveaways(COLOR.nodes), "kind": giveaways(KIND.nodes)}


def rows(count: int = 40) -> list[dict[str, Cell]]:
    """Titles that name color and kind, with filler that says nothing."""
    dice = np.random.default_rng(0)
    made: list[dict[str, Cell]] = []
    for _ in range(count):
        color, kind = dice.choice(COLOR.labels[1:]), str(dice.choice(KIND.labels))
        words = ["acme", str(color).lower(), kind.rsplit(" > ")[-1].lower(), "new"]
        made.append({"title": " ".join(words), "color": str(color), "kind": kind})
    return made


@pytest.fixture
def train(make_catalog: MakeCatalog) -> ProductSource:
    return ProductSource(make_catalog(rows()))


def said(models: list[TitleModel], products: Products, task: str, view: str = "both") -> Judged:
    return {str(v): j for v, j in judge_titles(models, products, WORDS).items()}[view][task]


def one(title: str | None, image: str | None = None, **labels: str) -> Products:
    return Products(
        [image],
        [title],
        {"color": ["Red"], "kind": ["Shoes > Boots"]}
        | {task: [label] for task, label in labels.items()},
    )


def test_titles_teach_labels_that_new_titles_then_get(train: ProductSource) -> None:
    models, learned = fit_titles(train, [COLOR, KIND])
    assert learned == {str(row["title"]) for row in rows()}
    product = one("brand new red thing with boots")
    assert said(models, product, "color").predicted == ["Red"]
    assert said(models, product, "kind").predicted == ["Shoes > Boots"]
    assert said(models, product, "kind").correct.all()
    assert 0.5 < said(models, product, "color").confidence[0] < 1


def test_the_picture_changes_nothing_and_alone_says_nothing(train: ProductSource) -> None:
    models, _ = fit_titles(train, [COLOR, KIND])
    with_picture, without = one("red boots", "x.jpg"), one("red boots")
    for view in ("both", "title"):
        with_it, alone = (said(models, p, "color", view) for p in (with_picture, without))
        assert with_it.confidence == alone.confidence
    blind = said(models, with_picture, "color", "image")
    assert not blind.answered.any()
    assert not blind.correct.any()
    assert blind.confidence == 0


def test_scrubbed_titles_lack_the_words_of_the_task_alone(train: ProductSource) -> None:
    models, _ = fit_titles(train, [COLOR, KIND])
    product = one("red acme boots new")
    bare = said(models, product, "color", "scrubbed")
    assert bare.confidence == said(models, one("acme boots new"), "color").confidence
    assert bare.confidence != said(models, product, "color").confidence
    assert not said(models, one("red"), "color", "scrubbed").answered.any()


@pytest.mark.parametrize("title", [None, " ", "\udcff not UTF-8"])
def test_a_product_without_a_usable_title_has_no_answer(
    train: ProductSource, title: str | None
) -> None:
    models, _ = fit_titles(train, [COLOR])
    assert not said(models, one(title), "color").answered.any()


def test_a_label_that_no_title_taught_is_never_said(train: ProductSource) -> None:
    models, _ = fit_titles(train, [COLOR])
    judged = said(models, one("blue boots", color="Blue"), "color")
    assert judged.predicted[0] in ("Green", "Red")
    assert judged.truth >= 0
    assert np.isfinite(judged.squared_error).all()


def test_rows_without_title_or_known_label_teach_nothing(make_catalog: MakeCatalog) -> None:
    plain, _ = fit_titles(ProductSource(make_catalog(rows())), [COLOR])
    more: list[dict[str, Cell]] = [
        *rows(),
        {"title": None, "color": "Red"},
        {"title": "mauve coat", "color": "Mauve"},
        {"title": "unlabelled coat", "color": None},
    ]
    path = make_catalog([{"title": r["title"], "color": r["color"]} for r in more], "more.parquet")
    noisy, _ = fit_titles(ProductSource(path), [COLOR])
    assert np.array_equal(plain[0].classifier.coef_, noisy[0].classifier.coef_)
    assert plain[0].num_parameters == plain[0].classifier.coef_.size + 1  # two colors: one row


def test_a_product_labelled_with_an_inner_node_teaches_no_leaf(make_catalog: MakeCatalog) -> None:
    upper = [{**row, "kind": "Shoes"} if n % 2 else row for n, row in enumerate(rows())]
    half, _ = fit_titles(ProductSource(make_catalog(rows()[::2], "half.parquet")), [KIND])
    mixed, _ = fit_titles(ProductSource(make_catalog(upper)), [KIND])
    assert np.array_equal(half[0].classifier.coef_, mixed[0].classifier.coef_)


def test_what_cannot_be_learned_from_is_said(make_catalog: MakeCatalog, tmp_path: Path) -> None:
    alike = make_catalog([{"title": "red shirt", "color": "Red"}] * 5)
    with pytest.raises(TrainingError, match="1 of the 3 labels of task 'color'"):
        fit_titles(ProductSource(alike), [COLOR])
    letters = make_catalog([{"title": "x", "color": c} for c in ("Red", "Blue")], "letters.csv")
    with pytest.raises(TrainingError, match="no words"):
        fit_titles(ProductSource(letters), [COLOR])
    with pytest.raises(CatalogError, match="no label column 'kind'"):
        fit_titles(ProductSource(letters), [KIND])


def test_catalogs_larger_than_what_is_answered_at_once_are_judged_alike(
    train: ProductSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, _ = fit_titles(train, [COLOR, KIND])
    products = train.read(["color", "kind"])
    whole = said(models, products, "kind")
    monkeypatch.setattr("tagger.tfidf.AT_ONCE", 7)
    parts = said(models, products, "kind")
    assert (whole.predicted == parts.predicted).all()
    assert np.array_equal(whole.confidence, parts.confidence)
