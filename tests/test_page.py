"""The report page: what it shows is right, and whatever a catalog holds stands there as text."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from tagger import bundle
from tagger.bundle import Bundle
from tagger.evaluate import Evaluated, evaluate_catalog
from tagger.gallery import PER_KIND, Card, choose, make_cards
from tagger.label_issues import Suspicion, find_label_issues
from tagger.model import CMAClip
from tagger.page import confusion_matrix, write_page
from tagger.predict import Tagger
from tagger.products import ProductSource
from tagger.tasks import Task
from tagger.tokenizer import learn_pieces

from .conftest import TASKS, MakeCatalog, Row, mixed_rows, random_titles, randomise, tiny_config

NAMES = [task.name for task in TASKS]
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{ 7 * 7 }} {% raw %}",
    "</script><svg onload=alert(1)>",
    "\u202egnirts desrever",
    "قميص رجالي",
    "$x_{1}$ & 'quoted'",
    "\udcff not UTF-8",
)


class Page(HTMLParser):
    """Elements with their attributes, and the text outside of style and script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside not in ("style", "script"):
            self.texts.append(data)

    def all(self, tag: str, kind: str = "") -> Iterator[dict[str, str | None]]:
        for name, attributes in self.elements:
            if name == tag and kind in ["", *(attributes.get("class") or "").split()]:
                yield attributes


def labelled_rows(folder: Path, count: int, seed: int = 0) -> list[Row]:
    dice = np.random.default_rng(seed)
    return [
        {**row, "color": str(dice.choice(TASKS[0].labels)), "pattern": str(dice.choice(["X", "Y"]))}
        for row in mixed_rows(folder, count, seed)
    ]


def evaluated(model: Bundle, path: Path) -> tuple[Evaluated, dict[str, Suspicion]]:
    names = [task.name for task in model.config.tasks]
    done = evaluate_catalog(model, ProductSource(path), names)
    return done, find_label_issues(model, done.products, done.answers, names, done.trained_on)


def written(model: Bundle, path: Path) -> str:
    done, issues = evaluated(model, path)
    out = path.with_name("report.html")
    write_page(out, model, ProductSource(path), done, issues)
    return out.read_text(encoding="utf-8")


@pytest.fixture
def catalog(make_catalog: MakeCatalog, tmp_path: Path) -> Path:
    return make_catalog(labelled_rows(tmp_path, 120))


def cards_of(model: Bundle, path: Path, task: str = "color") -> list[Card]:
    done, issues = evaluated(model, path)
    return make_cards(model, path.parent, done, task, issues[task], 0.9)


def test_gallery_has_the_surest_errors_and_the_most_doubtful(tiny: Bundle, catalog: Path) -> None:
    done, issues = evaluated(tiny, catalog)
    judged = done.judged["both"]["color"]
    chosen = choose(done, "color", issues["color"])
    place = {int(row): k for k, row in enumerate(judged.rows)}
    for kind, sign in (("surest error", -1), ("most doubtful", 1)):
        rows = [place[row] for row, kinds in chosen.items() if kind in kinds]
        assert 0 < len(rows) <= PER_KIND
        worst = max(sign * judged.confidence[rows])
        others = judged.answered & ~(judged.correct if kind == "surest error" else False)
        left = [k for k in np.flatnonzero(others) if k not in rows]
        assert all(sign * judged.confidence[k] >= worst for k in left)
    assert not any(
        judged.correct[place[row]] for row, kinds in chosen.items() if "surest error" in kinds
    )


def test_product_that_stands_twice_is_shown_once(tiny: Bundle, make_catalog: MakeCatalog) -> None:
    rows: list[Row] = [{"title": "red shirt", "color": "Blue", "pattern": "X"}] * 9
    assert len(cards_of(tiny, make_catalog(rows))) == 1


def test_card_says_what_predict_says(tiny: Bundle, catalog: Path) -> None:
    table = pd.read_parquet(catalog)
    said = Tagger(tiny).predict(table.drop(columns=NAMES), NAMES, catalog.parent)
    cards = cards_of(tiny, catalog)
    assert len(cards) > PER_KIND
    for card in cards:
        row = said.iloc[card.row - 1]
        assert card.said == row["color_label"]
        assert card.confidence == pytest.approx(row["color_confidence"], abs=1e-5)
        assert card.image_weight == pytest.approx(row["color_image_weight"], abs=1e-5)
        assert card.given == table["color"][card.row - 1]
        assert (card.picture is None) == (row["image_status"] != "ok")


def test_thumbnails_and_maps_are_pictures_of_one_shape(tiny: Bundle, catalog: Path) -> None:
    shown = [card for card in cards_of(tiny, catalog) if card.picture]
    assert shown
    for card in shown:
        assert card.picture is not None
        kind, data = card.picture.split(";base64,")
        assert kind == "data:image/jpeg"
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            assert image.height * 24 == image.width * 32


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A model whose task and labels are markup."""
    labels = tuple(sorted({text.encode("utf-8", "ignore").decode() for text in HOSTILE[:4]}))
    config = tiny_config()
    changed = bundle.Config(
        architecture=config.architecture,
        fusion=config.fusion,
        preprocess=config.preprocess,
        tasks=(Task("<i>style</i>", labels),),
    )
    torch.manual_seed(0)
    model = CMAClip(changed)
    randomise(model, seed=3)
    path = tmp_path_factory.mktemp("models") / "<b>model"
    bundle.save(path, changed, model, learn_pieces(random_titles(60), 200, 16), "# x\n")
    return bundle.load(path)


@pytest.fixture
def hostile_catalog(hostile: Bundle, tmp_path: Path) -> Path:
    """One of its titles is not UTF-8."""
    task = hostile.config.tasks[0]
    labels = (*task.labels, "<em>new</em>")
    titles = [f"{text} {number}" for number, text in enumerate(HOSTILE * 6)]
    undecoded = pa.array([title.encode("utf-8", "surrogateescape") for title in titles])
    columns = {
        "id": [f"<u>{number}" for number in range(len(titles))],
        "title": pc.cast(undecoded, options=pc.CastOptions(pa.string(), allow_invalid_utf8=True)),
        task.name: [labels[number % len(labels)] for number in range(len(titles))],
    }
    path = tmp_path / "<h1>feed.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def test_markup_in_a_catalog_stays_text(hostile: Bundle, hostile_catalog: Path) -> None:
    page = Page(written(hostile, hostile_catalog))
    assert len(list(page.all("script"))) == 1
    assert not [a for _, attributes in page.elements for a in attributes if a.startswith("on")]
    assert {tag for tag, _ in page.elements}.isdisjoint({"i", "u", "em", "b"})
    text = "".join(page.texts)
    assert "<h1>feed.parquet" in text
    assert "<b>model" in text
    for start in ("<script>alert(1)</script>", '"><img src=x', "{{ 7 * 7 }}"):
        assert start in re.sub(r"\s+", " ", text)
    given = {card["data-given"] for card in page.all("article", "card")}
    assert given <= {*hostile.config.tasks[0].labels, "<em>new</em>"}
    assert len(given) > 1


def test_page_asks_for_nothing_from_elsewhere(tiny: Bundle, catalog: Path) -> None:
    text = written(tiny, catalog)
    page = Page(text)
    for _, attributes in page.elements:
        for name in ("src", "href", "action", "data"):
            value = attributes.get(name) or "data:"
            assert value.startswith(("data:", "#")), (name, value[:80])
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    policy = next(a for a in page.all("meta") if a.get("http-equiv"))["content"]
    assert (policy or "").startswith("default-src 'none'; img-src data:;")


def test_same_evaluation_gives_the_same_page(tiny: Bundle, catalog: Path) -> None:
    assert written(tiny, catalog) == written(tiny, catalog)


def test_task_without_labels_has_no_plots_and_no_cards(
    tiny: Bundle, make_catalog: MakeCatalog
) -> None:
    rows: list[Row] = [{"title": "red shirt", "color": None, "pattern": "X"}, {"title": "blue"}]
    page = Page(written(tiny, make_catalog(rows)))
    assert len(list(page.all("svg"))) == 2
    assert {card["data-given"] for card in page.all("article", "card")} == {"X"}


def test_matrix_counts_the_products_of_its_labels(tiny: Bundle, catalog: Path) -> None:
    judged = evaluated(tiny, catalog)[0].judged["both"]["color"]
    matrix = confusion_matrix(judged)
    for label, row, other in zip(matrix.labels, matrix.counts, matrix.other, strict=True):
        answered = judged.answered & (judged.labels == label)
        assert sum(row) + other == answered.sum()
        hit = row[list(matrix.labels).index(label)]
        assert hit == (answered & judged.correct).sum()
