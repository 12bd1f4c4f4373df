"""The report page: what it shows is right, and whatever a catalog holds stands there as text."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from tagger import bundle
from tagger.bundle import Bundle
from tagger.calibration import Calibration, Outcomes, TaskCalibration, Threshold
from tagger.evaluate import Evaluated, evaluate_catalog
from tagger.gallery import MAP_ALPHA, PER_KIND, WEAK_SHARE, Card, choose, make_cards
from tagger.label_issues import Suspicion, find_label_issues
from tagger.metrics import precision_curve
from tagger.page import confusion_matrix, write_page
from tagger.plots import curve_figure, reliability_diagram
from tagger.predict import Tagger
from tagger.products import ProductSource
from tagger.runtime import softmax
from tagger.scores import Judged, Published
from tagger.tasks import Task

from .conftest import (
    TASKS,
    MakeCatalog,
    Row,
    mixed_rows,
    random_titles,
    save_picture,
    save_tiny,
    tiny_config,
)

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

    @property
    def text(self) -> str:
        """All texts, each white space as one blank."""
        return re.sub(r"\s+", " ", "".join(self.texts))

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
    done = evaluate_catalog(model, ProductSource(path), names, with_logits=True)
    return done, find_label_issues(model, done.products, done.answers, names, done.trained_on)


def calibrated(
    model: Bundle,
    threshold: float | None,
    by_label: Mapping[str, float | None] | None = None,
    precision: float = 0.9,
    delta: float = 0.05,
) -> Bundle:
    """`model` with a calibration of the task color alone."""
    fitted = Threshold(
        precision=precision,
        threshold=threshold,
        by_label=dict(by_label or {}),
        num_products=50,
        reported_products=20,
        published=0,
        reported_precision=None,
    )
    task = TaskCalibration(
        temperature=1.0,
        thresholds=(fitted,),
        delta=delta,
        catalog="val.parquet",
        catalog_sha256="0",
    )
    whole = Calibration(precision=0.9, weights_sha256="1", tasks={"color": task})
    return replace(model, calibration=whole)


def written(model: Bundle, path: Path) -> str:
    done, issues = evaluated(model, path)
    out = path.with_name("report.html")
    write_page(out, model, ProductSource(path), done, issues)
    return out.read_text(encoding="utf-8")


@pytest.fixture
def catalog(make_catalog: MakeCatalog, tmp_path: Path) -> Path:
    return make_catalog(labelled_rows(tmp_path, 120))


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}%"


def part_of(text: str, task: str) -> str:
    """The page's section of `task`."""
    start = text.index(f'<section class="task" data-task="{task}">')
    return text[start : text.index("</section>", start)]


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


def alphas(uri: str) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(base64.b64decode(uri.split(";base64,")[1]))) as image:
        return np.asarray(image)[..., 3]


def test_evidence_is_as_opaque_as_the_place_and_the_picture_spoke(
    tiny: Bundle, catalog: Path
) -> None:
    shown = [card for card in cards_of(tiny, catalog) if card.evidence and card.attended]
    assert shown
    for card in shown:
        found = card.explanation
        assert found.evidence is not None
        assert found.attended is not None
        assert card.evidence is not None
        assert card.attended is not None
        expected = found.evidence * found.picture_share * MAP_ALPHA
        assert np.abs(alphas(card.evidence) - expected).max() <= 0.6
        attended = alphas(card.attended).astype(float)
        assert np.abs(attended / attended.max() - found.attended).max() < 0.01
        assert not np.allclose(found.evidence, found.attended, atol=0.02)
    shares = [card.explanation.picture_share for card in shown]
    assert max(shares) > min(shares) + 0.05


def test_card_has_the_probabilities_of_the_given_and_the_second_label(
    tiny: Bundle, catalog: Path
) -> None:
    done, issues = evaluated(tiny, catalog)
    cards = make_cards(tiny, catalog.parent, done, "pattern", issues["pattern"], 0.9)
    labels = tiny.task("pattern").labels
    probabilities = softmax(done.answers.logits["pattern"], 1.0)
    known = [card for card in cards if card.given in labels]
    assert any(not card.right for card in known)
    for card in known:
        own = dict(zip(labels, probabilities[card.row - 1].tolist(), strict=True))
        first, second, *_ = sorted(own, key=lambda label: -own[label])
        assert card.said == first
        assert card.second is not None
        assert card.second[0] == second
        assert card.second[1] == pytest.approx(own[second])
        assert card.given_probability == pytest.approx(own[card.given])


def test_card_is_published_from_the_threshold_on(tiny: Bundle, catalog: Path) -> None:
    assert {card.published for card in cards_of(tiny, catalog)} == {None}
    middle = float(np.median([card.confidence for card in cards_of(tiny, catalog)]))
    cards = cards_of(calibrated(tiny, middle), catalog)
    assert {card.published for card in cards} == {True, False}
    assert all(card.published == (card.confidence >= middle) for card in cards)
    strict = cards_of(calibrated(tiny, middle, {"Red": None}), catalog)
    assert not any(card.published for card in strict if card.said == "Red")


def test_long_title_is_cut_with_a_note(tiny: Bundle, make_catalog: MakeCatalog) -> None:
    titles = ["shirt " * 2500, "s" * 15_000]
    rows: list[Row] = [{"title": title, "color": "Red", "pattern": "X"} for title in titles]
    for card, title in zip(cards_of(tiny, make_catalog(rows)), titles, strict=True):
        assert 299 <= len(" ".join(card.shown_words)) <= 301
        assert card.num_hidden == pytest.approx(len(title.strip()) - 300, abs=1)
    page = Page(written(tiny, make_catalog(rows)))
    assert "14,700 more characters" in page.text
    short: list[Row] = [{"title": "red shirt", "color": "Red", "pattern": "X"}]
    assert "more character" not in Page(written(tiny, make_catalog(short))).text


def test_word_that_says_little_looks_weak(catalog: Path, tmp_path: Path) -> None:
    # With these weights some titles have a word that says much, and others none.
    model = bundle.load(save_tiny(tmp_path / "model", tiny_config(), seed=8))
    cards = [card for name in NAMES for card in cards_of(model, catalog, name) if card.attended]
    buttons = list(Page(written(model, catalog)).all("button"))
    buttons = [button for button in buttons if button.get("data-map") == "attended"]
    shares = [card.explanation.relevance[card.explanation.word or 0] for card in cards]
    assert min(shares) < WEAK_SHARE < max(shares)
    for button, share in zip(buttons, shares, strict=True):
        assert (button.get("class") == "weak") == (share < WEAK_SHARE)
        assert (button["title"] or "").endswith(f" is {percent(share)}")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A model whose task and labels are markup."""
    labels = tuple(sorted({text.encode("utf-8", "ignore").decode() for text in HOSTILE[:4]}))
    config = msgspec.structs.replace(tiny_config(), tasks=(Task("<i>style</i>", labels),))
    path = tmp_path_factory.mktemp("models") / "<b>model"
    return bundle.load(save_tiny(path, config, seed=3))


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
    text = written(tiny, make_catalog(rows))
    page = Page(text)
    assert len(list(page.all("svg"))) == 2
    assert {card["data-given"] for card in page.all("article", "card")} == {"X"}
    unlabelled = Page(part_of(text, "color")).text
    assert "Not judged: no product carries a label of this task." in unlabelled
    assert "right" not in unlabelled
    assert "May be wrong" not in unlabelled
    assert "not judged: no product carries a label" in page.text


def test_matrix_counts_the_products_of_its_labels(tiny: Bundle, catalog: Path) -> None:
    judged = evaluated(tiny, catalog)[0].judged["both"]["color"]
    matrix = confusion_matrix(judged)
    assert matrix.given
    for label, row, other in zip(matrix.given, matrix.counts, matrix.other, strict=True):
        answered = judged.answered & (judged.labels == label)
        assert sum(row) + other == answered.sum()
        hit = row[list(matrix.said).index(label)]
        assert hit == (answered & judged.correct).sum()


def made_up(labels: list[str], said: list[str]) -> Judged:
    """Products with these labels and answers."""
    task = Task("color", tuple(sorted({*labels, *said})))
    truth = task.label_ids(labels)
    zeros, right = np.zeros(len(labels)), truth == task.label_ids(said)
    return Judged(
        task=task,
        rows=np.arange(len(labels)),
        labels=np.array(labels),
        truth=truth,
        predicted=np.array(said),
        confidence=zeros,
        correct=right,
        squared_error=zeros,
        image_weight=zeros,
        whole=np.ones(len(labels), dtype=bool),
        outcomes=Outcomes(np.array(said), zeros[:, None], right[:, None]),
    )


def test_matrix_has_no_row_without_products() -> None:
    matrix = confusion_matrix(made_up(["Red", "Red", "Blue"], ["Red", "Pink", "Pink"]))
    assert list(matrix.given) == ["Blue", "Red"]
    assert list(matrix.said) == ["Blue", "Pink", "Red"]
    assert [list(row) for row in matrix.counts] == [[0, 1, 0], [0, 1, 1]]
    strangers = [f"stranger {number:03d}" for number in range(100)]
    answers = [f"Label {number % 10}" for number in range(100)]
    assert not confusion_matrix(made_up(strangers, answers)).given


TREE = (
    "Men > Shoes > Sandals",
    "Women > Shoes > Sandals",
    "Women > Shoes > Heels",
    "Apparel & Accessories > Clothing > Baby & Toddler Clothing > Baby & Toddler Outerwear > "
    "Baby & Toddler Coats & Jackets",
)


def of_a_tree(folder: Path, count: int) -> tuple[Bundle, list[Row]]:
    """A model whose labels are those of TREE, and products with some of them."""
    task = Task("kind", tuple(sorted(TREE)), " > ")
    config = msgspec.structs.replace(tiny_config(), tasks=(task,))
    model = bundle.load(save_tiny(folder / "tree model", config, seed=3))
    rows: list[Row] = [
        {"title": title, "kind": TREE[number % len(TREE)]}
        for number, title in enumerate(random_titles(count))
    ]
    return model, rows


def test_labels_with_one_last_name_are_told_apart_in_the_matrix(
    make_catalog: MakeCatalog, tmp_path: Path
) -> None:
    model, rows = of_a_tree(tmp_path, 60)
    page = part_of(written(model, make_catalog(rows)), "kind")
    head = page[page.index("given ↓") : page.index("</thead>")]
    shown = dict(re.findall(r'title="(.*?)"><span><bdi>(.*?)</bdi>', head))
    assert shown["Men &gt; Shoes &gt; Sandals"] == "Men &gt; Shoes &gt; Sandals"
    assert shown["Women &gt; Shoes &gt; Sandals"] == "Women &gt; Shoes &gt; Sandals"
    assert shown["Women &gt; Shoes &gt; Heels"] == "Heels"


def test_numbers_of_the_matrix_lead_to_the_pairs_that_have_a_card(
    tiny: Bundle, catalog: Path
) -> None:
    text = written(tiny, catalog)
    matrix = confusion_matrix(evaluated(tiny, catalog)[0].judged["both"]["pattern"])
    page = Page(part_of(text, "pattern"))
    cards = {(card["data-given"], card["data-said"]) for card in page.all("article")}
    buttons = [b for b in page.all("button") if b.get("data-given") is not None]
    linked = {(b["data-given"], b["data-said"]) for b in buttons}
    assert linked
    assert linked == {pair for pair in cards if pair[0] in matrix.given and pair[1] in matrix.said}
    assert len(linked) == len(buttons)


def test_task_without_a_matrix_row_shows_no_matrix(
    tiny: Bundle, make_catalog: MakeCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tagger.page.MATRIX_LABELS", 1)
    rows: list[Row] = [
        {"title": title, "color": f"stranger {number}", "pattern": "X"}
        for number, title in enumerate(random_titles(40))
    ]
    text = written(tiny, make_catalog(rows))
    assert 'class="matrix"' not in part_of(text, "color")
    monkeypatch.setattr("tagger.page.MATRIX_LABELS", 10)
    assert 'class="matrix"' in part_of(written(tiny, make_catalog(rows)), "color")


WITH_TITLE: Row = {"title": "red shirt", "color": "Red", "pattern": "X"}
EMPTY: Row = {"title": None, "color": "Red", "pattern": "X"}


@pytest.mark.parametrize(
    ("threshold", "by_label", "row", "expected"),
    [
        (None, {}, WITH_TITLE, "No threshold keeps 90% precision with 95% certainty"),
        (None, {"Red": None}, WITH_TITLE, "abstains from all"),
        (None, {"Red": None}, EMPTY, "abstains from all"),
        (0.999, {}, WITH_TITLE, "no answer is sure enough (confidence at least 0.999)"),
        (0.1, {}, EMPTY, "Nothing is published: nothing could be answered"),
        (0.1, {}, WITH_TITLE, "100.0% are published (confidence at least 0.100)"),
        (0.1, {"Blue": 0.2}, WITH_TITLE, "(confidence at least 0.100, or that of the label)"),
        (None, {"Blue": 0.0, "Red": 0.0, "Green": 0.0}, WITH_TITLE, "that of the label)"),
    ],
)
def test_page_says_why_answers_are_published_or_not(
    tiny: Bundle,
    make_catalog: MakeCatalog,
    threshold: float | None,
    by_label: Mapping[str, float | None],
    row: Row,
    expected: str,
) -> None:
    model = calibrated(tiny, threshold, by_label)
    text = Page(part_of(written(model, make_catalog([row, row])), "color")).text
    assert expected in text
    assert ("abstains from all" in text) == (
        not any(t is not None for t in by_label.values()) and threshold is None
    )


def test_page_of_a_system_without_weights_says_that_no_answer_is_sure_enough(
    make_catalog: MakeCatalog, tmp_path: Path
) -> None:
    config = tiny_config()
    fusion = msgspec.structs.replace(config.fusion, system="clip-fine-tuned")
    folder = save_tiny(tmp_path / "model", msgspec.structs.replace(config, fusion=fusion))
    model = calibrated(bundle.load(folder), 0.999)
    # Of a picture and a title together, this system cannot tell what either weighs.
    save_picture(tmp_path / "a.jpg", 1)
    text = Page(
        part_of(written(model, make_catalog([WITH_TITLE | {"image": "a.jpg"}])), "color")
    ).text
    assert "no answer is sure enough" in text


def test_task_says_where_its_threshold_is_from_and_how_certain_it_is(
    tiny: Bundle, catalog: Path
) -> None:
    text = written(calibrated(tiny, 0.4, delta=0.05), catalog)
    color = Page(part_of(text, "color")).text
    assert "calibration on val.parquet" in color
    assert "each task and target by itself keeps its precision with 95% certainty" in color
    pattern = Page(part_of(text, "pattern")).text
    assert "The model is not calibrated for this task." in pattern
    assert "certainty" not in pattern
    header = text[text.index("<header>") : text.index("</header>")]
    assert "The model is calibrated." in header
    assert "certainty" not in header
    assert (
        "is not calibrated: confidences are those of the network"
        in Page(written(tiny, catalog)).text
    )


def test_precision_without_a_threshold_promises_nothing(tiny: Bundle, catalog: Path) -> None:
    text = Page(part_of(written(calibrated(tiny, 0.4, precision=0.8), catalog), "color")).text
    assert "fitted no threshold for 90% precision" in text
    assert "certainty" not in text
    assert "are published" not in text
    assert "is published" not in text


def test_task_counts_the_labels_that_are_probably_wrong(tiny: Bundle, catalog: Path) -> None:
    text = written(tiny, catalog)
    done, issues = evaluated(tiny, catalog)
    assert len(issues["color"].rows) > 0
    for name in NAMES:
        judged = done.judged["both"][name]
        fair = int((judged.answered & (judged.truth >= 0)).sum())
        expected = f"May be wrong: {len(issues[name].rows):,} of {fair:,} given labels."
        assert expected in Page(part_of(text, name)).text


def test_labels_of_products_that_the_model_learned_from_are_not_judged(
    tiny: Bundle, catalog: Path, tmp_path: Path
) -> None:
    done, _ = evaluated(tiny, catalog)
    learned = replace(done, trained_on=np.ones(len(done.products), dtype=bool))
    none = find_label_issues(tiny, done.products, done.answers, NAMES, learned.trained_on)
    assert all(one.num_judged == len(one.rows) == 0 for one in none.values())
    write_page(tmp_path / "page.html", tiny, ProductSource(catalog), learned, none)
    text = Page((tmp_path / "page.html").read_text(encoding="utf-8")).text
    assert text.count("No given label can be judged") == len(NAMES)
    assert "May be wrong" not in text


def test_page_says_what_flatters_the_figures(tiny: Bundle, catalog: Path) -> None:
    done, issues = evaluated(tiny, catalog)
    source, out = ProductSource(catalog), catalog.with_name("report.html")
    texts = []
    for changes in ({}, {"trained_on": 3, "held_back": 1, "calibrated_on": ("size <b>", "color")}):
        figures = msgspec.structs.replace(done.figures, **changes)
        write_page(out, tiny, source, replace(done, figures=figures), issues)
        texts.append(" ".join(Page(out.read_text(encoding="utf-8")).text.split()))
    for said in (
        "trained on 3 of them",
        "1 product chose the epoch",
        "Calibrated on this very catalog: size <b>, color;",
    ):
        assert said in texts[1]
        assert said not in texts[0]
    assert "chose the epoch" not in texts[0]
    assert "very catalog" not in texts[0]


def test_label_table_has_the_rates_of_its_labels(tiny: Bundle, catalog: Path) -> None:
    scores = evaluated(tiny, catalog)[0].figures.scores["both"]
    text = written(tiny, catalog)
    row = re.compile(r'<tr data-label="(.*?)">.*?</th>' + "<td>(.*?)</td>" * 3)
    for name in NAMES:
        found = {label: cells for label, *cells in row.findall(part_of(text, name))}
        assert found == {
            label: [f"{one.support:,}", percent(one.precision), percent(one.recall)]
            for label, one in scores[name].labels.items()
        }
    assert any(cells[1] != cells[2] for cells in found.values())


def test_overview_has_every_figure_of_a_task(tiny: Bundle, catalog: Path) -> None:
    model = calibrated(tiny, 0.4, precision=0.25)  # what this model can reach
    done = evaluate_catalog(model, ProductSource(catalog), NAMES, 0.25, with_logits=True)
    out = catalog.with_name("report.html")
    write_page(out, model, ProductSource(catalog), done, evaluated(tiny, catalog)[1])
    text = out.read_text(encoding="utf-8")
    score = done.figures.scores["both"]["color"]
    row = text[text.index('data-choose="color"') :]
    cells = re.findall("<td>(.*?)</td>", row[: row.index("</tr>")])
    assert score.published is not None
    assert cells[:9] == [
        f"{score.num_products:,}",
        percent(score.accuracy),
        percent(score.macro_f1),
        percent(score.recall_at_precision),
        percent(score.coverage_at_precision),
        percent(score.published.coverage),
        percent(score.published.precision),
        percent(score.calibration_error),
        f"{score.brier:.3f}",
    ]
    assert cells[3] != cells[4]
    assert "a percentile bootstrap over products of a recall" in Page(text).text


def test_unknown_labels_are_listed_with_counts_and_marked(
    tiny: Bundle, make_catalog: MakeCatalog
) -> None:
    rows: list[Row] = [
        {"title": title, "color": ("Red", "Teal", "Teal", "Mauve")[number % 4], "pattern": "X"}
        for number, title in enumerate(random_titles(40))
    ]
    part = part_of(written(tiny, make_catalog(rows)), "color")
    text = Page(part).text
    assert "30 products with a label that the model does not know" in text
    assert "3 labels, 2 of them unknown to the model" in text
    assert "Unknown to the model: Teal (20), Mauve (10)." in text
    table = part[part.index("<tbody>", part.index('class="labels"')) :]
    marked = re.findall(r'<tr data-label="(\w+)">[^\n]*class="unknown"', table)
    assert sorted(marked) == ["Mauve", "Teal"]


def test_page_names_the_labels_for_which_the_picture_weighs_most_and_least(
    tiny: Bundle, catalog: Path
) -> None:
    judged = evaluated(tiny, catalog)[0].judged["both"]["color"]
    means = {
        str(label): float(judged.image_weight[judged.answered & (judged.labels == label)].mean())
        for label in np.unique(judged.labels)
    }
    most, least = max(means, key=lambda k: means[k]), min(means, key=lambda k: means[k])
    assert most != least
    assert (
        f"most for {most} ({percent(means[most])}), least for {least} ({percent(means[least])})"
        in Page(written(tiny, catalog)).text
    )


def test_gallery_says_that_it_is_a_choice(tiny: Bundle, catalog: Path) -> None:
    assert f"the first {PER_KIND} each of surest errors" in Page(written(tiny, catalog)).text


PUBLISHED = Published(threshold=0.4, by_label=False, coverage=0.6, precision=0.8, by_depth=(1.0,))


def test_curve_has_coverage_across_and_precision_up(tiny: Bundle, catalog: Path) -> None:
    views = {view: tasks["color"] for view, tasks in evaluated(tiny, catalog)[0].judged.items()}
    lines = {line.get_label(): line for line in curve_figure(views, 0.9, PUBLISHED).axes[0].lines}
    assert [np.asarray(data).tolist() for data in lines["published"].get_data()] == [[0.6], [0.8]]
    judged = views["both"]
    answered = judged.answered
    coverage, precision = precision_curve(judged.correct[answered], judged.confidence[answered])
    curve = np.array([coverage * answered.mean(), precision])
    drawn = np.array(lines["picture and title"].get_data())
    assert drawn.shape[1] > 10
    assert (drawn[:, :, None] == curve[:, None, :]).all(0).any(1).all()


def test_plots_are_of_answers_and_never_publish_what_has_none(
    tiny: Bundle, make_catalog: MakeCatalog
) -> None:
    rows: list[Row] = [
        {"title": f"red shoe {n}", "color": "Red", "pattern": None} for n in range(30)
    ]
    silent: list[Row] = [{"title": None, "color": "Red", "pattern": None} for _ in range(30)]
    some, all_ = (
        evaluated(tiny, make_catalog(chosen, name))[0].judged
        for chosen, name in ((rows, "some.parquet"), (rows + silent, "all.parquet"))
    )
    assert reliability_diagram(some["both"]["color"]) == reliability_diagram(all_["both"]["color"])
    views = {view: by_task["color"] for view, by_task in all_.items()}
    lines = {line.get_label(): line for line in curve_figure(views, 0.9, None).axes[0].lines}
    assert max(lines["picture and title"].get_xdata()) == 0.5
    assert "picture alone" not in lines, "there is none"


@pytest.mark.parametrize("published", [None, Published(0.4, False, 0.0, None, (0.0,))])
def test_curve_has_no_dot_where_nothing_is_published(
    tiny: Bundle, catalog: Path, published: Published | None
) -> None:
    views = {"both": evaluated(tiny, catalog)[0].judged["both"]["color"]}
    labels = [line.get_label() for line in curve_figure(views, 0.9, published).axes[0].lines]
    assert "published" not in labels


def test_no_curve_runs_through_the_legend(tiny: Bundle, catalog: Path) -> None:
    views = {view: tasks["color"] for view, tasks in evaluated(tiny, catalog)[0].judged.items()}
    figure = curve_figure(views, 0.9, PUBLISHED)
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert legend.get_window_extent().y1 <= figure.axes[0].get_window_extent().y0
    names = [text.get_text() for text in legend.get_texts()]
    assert names == [
        "picture and title",
        "own words scrubbed",
        "picture alone",
        "title alone",
        "published",
    ]


def test_lines_of_the_main_plot_differ_by_more_than_their_color(
    tiny: Bundle, catalog: Path
) -> None:
    views = {view: tasks["color"] for view, tasks in evaluated(tiny, catalog)[0].judged.items()}
    lines = curve_figure(views, 0.9, None).axes[0].lines[: len(views)]
    assert len({str(line._unscaled_dash_pattern) for line in lines}) == len(views) == 4


def test_where_nothing_is_answered_nothing_is_drawn_and_no_filter_is_blamed(
    tiny: Bundle, make_catalog: MakeCatalog
) -> None:
    part = part_of(written(tiny, make_catalog([EMPTY, EMPTY])), "color")
    assert "<svg" not in part
    assert "Nothing to draw: no product could be answered." in Page(part).text
    assert "fits the filter" not in Page(part).text
    assert "large dots" not in Page(part).text


def test_one_product_is_one(tiny: Bundle, make_catalog: MakeCatalog) -> None:
    text = Page(written(tiny, make_catalog([WITH_TITLE]))).text
    assert " 1 product. " in text
    assert "1 labelled product, " in text
    assert not re.search(r"\b1 (products|labels|answers|labelled products)", text)


def test_page_says_whose_weight_it_shows_and_what_its_figures_mean(
    tiny: Bundle, catalog: Path
) -> None:
    page = Page(written(tiny, catalog))
    assert page.text.count("weight of the picture") == 1 + len(NAMES)
    for term in ("Macro-F1: ", "Coverage: ", "Calibration error: ", "Own words scrubbed: "):
        assert term in page.text
    assert "Hierarchical F1" not in page.text, "there is no tree"
