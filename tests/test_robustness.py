"""Robustness: the ends of the curves are the views of `eval`, and a modality that a system does
not read cannot move it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tagger import bundle
from tagger.bundle import Bundle
from tagger.config import Applicability, Fusion, Preprocess, System
from tagger.corruption import CONDITIONS, Condition, blur
from tagger.decision import decide
from tagger.errors import CatalogError, ModelError
from tagger.evaluate import evaluate_catalog
from tagger.loading import load_model
from tagger.products import ProductSource
from tagger.robustness import (
    BLOCK,
    Robustness,
    Said,
    Shown,
    Trial,
    model_subject,
    trial,
)
from tagger.robustness_plot import TITLES as PANEL_TITLES
from tagger.robustness_plot import draw_robustness, robustness_figure
from tagger.runtime import Model
from tagger.systems import build_network
from tagger.tasks import Task
from tagger.tokenizer import learn_pieces

from .conftest import (
    TASKS,
    Cell,
    MakeCatalog,
    mixed_rows,
    random_titles,
    randomise,
    save_tiny,
    tiny_config,
)

KIND = Task("kind", ("Bags", "Shoes > Boots", "Shoes > Mules"), " > ")
NAMES = ("color", "pattern", "kind")
PRECISION = 0.5
NUM_PRODUCTS = 60
ENDS = {
    ("titles_absent", 1.0): "image",
    ("pictures_absent", 1.0): "title",
    ("titles_scrubbed", 1.0): "scrubbed",
    **{(condition.kind, 0.0): "both" for condition in CONDITIONS},
}


def labelled_rows(folder: Path, count: int = NUM_PRODUCTS) -> list[dict[str, Cell]]:
    """Products of every kind, some without a label, with one that is not known, or an inner one."""
    dice = np.random.default_rng(0)
    labels: dict[str, list[str | None]] = {
        "color": ["Blue", "Green", "Red", "Mauve", None],
        "pattern": ["Dots", "Plain", "Stripe", "X"],
        "kind": ["Bags", "Shoes > Boots", "Shoes > Mules", "Shoes", "Shoes > Clogs", None],
    }
    return [
        {**row, **{name: known[dice.integers(len(known))] for name, known in labels.items()}}
        for row in mixed_rows(folder, count)
    ]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ProductSource:
    folder = tmp_path_factory.mktemp("catalog")
    path = folder / "catalog.parquet"
    pq.write_table(pa.Table.from_pylist(labelled_rows(folder)), path)
    return ProductSource(path)


@pytest.fixture(scope="module")
def treed(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A model with a tree, which says that patterns are nothing for boots."""
    config = msgspec.structs.replace(
        tiny_config(),
        tasks=(*TASKS, KIND),
        applicability=Applicability(task="kind", not_for={"pattern": ("Shoes > Boots",)}),
    )
    return bundle.load(save_tiny(tmp_path_factory.mktemp("treed") / "treed", config))


def of_system(system: System, folder: Path) -> Bundle:
    config = msgspec.structs.replace(
        tiny_config(), fusion=Fusion(system=system, width=16, layers=2, heads=2, head_width=16)
    )
    torch.manual_seed(0)
    network = build_network(config)
    randomise(network, seed=3)  # type: ignore[arg-type]
    pieces = learn_pieces(random_titles(60), 200, 16)
    bundle.save(folder / system, config, network, pieces, "# x\n")
    return bundle.load(folder / system)


def run(
    model: Model,
    source: ProductSource,
    tasks: Sequence[str] = NAMES,
    batch_size: int | None = None,
    conditions: Sequence[Condition] = CONDITIONS,
) -> Robustness:
    with (
        model_subject(model, tasks, batch_size) as subject,
        trial(source, tasks, conditions) as tried,
    ):
        return tried.run(subject, PRECISION)


@pytest.fixture(scope="module")
def curves(treed: Bundle, source: ProductSource) -> Robustness:
    return run(treed, source)


def test_the_ends_of_the_curves_are_the_views_of_eval(
    treed: Bundle, source: ProductSource, curves: Robustness
) -> None:
    scores = evaluate_catalog(treed, source, NAMES, PRECISION).figures.scores
    assert len({score["pattern"].accuracy for score in scores.values()}) > 2
    for (kind, strength), view in ENDS.items():
        point = next(p for p in curves.conditions[kind] if p.strength == strength)
        for task in NAMES:
            assert point.accuracy[task] == scores[view][task].accuracy
            assert point.recall_at_precision[task] == scores[view][task].recall_at_precision


def test_every_condition_moves_a_model_that_reads_both(curves: Robustness) -> None:
    assert set(curves.conditions) == {condition.kind for condition in CONDITIONS}
    for condition in CONDITIONS:
        points = curves.conditions[condition.kind]
        assert tuple(point.strength for point in points) == condition.strengths
        if condition.kind != "pictures_blurred":  # noise blurs to grey, and no label hangs on it
            assert len({tuple(point.accuracy.values()) for point in points}) > 1, condition.kind


def test_means_are_over_the_tasks_that_have_labels(treed: Bundle, source: ProductSource) -> None:
    products = source.read(NAMES)
    products.labels["color"][:] = [None] * len(products)
    with trial(source, NAMES, CONDITIONS[:1]) as tried, model_subject(treed, NAMES) as subject:
        bare = Trial(products, source.root, tried.pool, CONDITIONS[:1])
        for point in bare.run(subject, PRECISION).conditions["titles_replaced"]:
            assert point.accuracy["color"] is None
            assert point.recall_at_precision["color"] is None
            others = [point.accuracy["pattern"], point.accuracy["kind"]]
            assert point.mean_accuracy == pytest.approx(np.mean([x or 0.0 for x in others]))


@pytest.mark.parametrize("batch_size", [1, 7])
def test_batch_size_changes_nothing(
    treed: Bundle, source: ProductSource, curves: Robustness, batch_size: int
) -> None:
    assert run(treed, source, batch_size=batch_size) == curves


def test_products_of_later_blocks_are_drawn_and_marked_alike(
    treed: Bundle, source: ProductSource, curves: Robustness, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(source.read()) < BLOCK
    monkeypatch.setattr("tagger.robustness.BLOCK", 17)
    assert run(treed, source) == curves


def test_pictures_that_do_not_fit_into_memory_are_decoded_again(
    treed: Bundle, source: ProductSource, curves: Robustness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tagger.robustness.MAX_BYTES", 0)
    assert run(treed, source) == curves


def test_a_second_subject_of_a_trial_has_the_figures_of_the_first(
    treed: Bundle, source: ProductSource, curves: Robustness
) -> None:
    with trial(source, NAMES) as tried, ExitStack() as stack:
        for _ in range(2):
            subject = stack.enter_context(model_subject(treed, NAMES))
            assert tried.run(subject, PRECISION) == curves


@pytest.mark.parametrize(("system", "still"), [("image-only", True), ("title-only", False)])
def test_a_system_does_not_move_by_what_it_does_not_read(
    system: System, still: bool, source: ProductSource, tmp_path: Path
) -> None:
    found = run(of_system(system, tmp_path), source, ["color", "pattern"])
    moved = {
        condition.kind
        for condition in CONDITIONS
        if len({tuple(p.accuracy.values()) for p in found.conditions[condition.kind]}) > 1
    }
    blind_to = {c.kind for c in CONDITIONS if c.of_titles == still}
    assert not moved & blind_to
    assert moved


def test_an_export_has_the_curves_of_its_model(
    calibrated_dir: Path, onnx_dir: Path, source: ProductSource
) -> None:
    tasks, conditions = ["color"], [CONDITIONS[0], CONDITIONS[4], CONDITIONS[-1]]
    of_export = run(load_model(onnx_dir, None, False), source, tasks, conditions=conditions)
    of_model = run(bundle.load(calibrated_dir), source, tasks, conditions=conditions)
    for kind, points in of_model.conditions.items():
        for mine, other in zip(points, of_export.conditions[kind], strict=True):
            assert mine.mean_accuracy == pytest.approx(other.mean_accuracy, abs=0.02)


@dataclass
class Parrot:
    """Reads titles only, and takes the word that a title names for the color."""

    seen: list[Shown] = field(default_factory=list)
    tasks: tuple[Task, ...] = (TASKS[0],)
    preprocess: Preprocess | None = None
    shy: bool = False
    """Whether it says that color is nothing for products whose title names none."""

    def ask(self, products: Sequence[Shown], tasks: Sequence[str]) -> Mapping[str, Said]:
        self.seen += products
        words = [(product.title or "").lower().split() for product in products]
        named = [[float(label.lower() in w) for label in self.tasks[0].labels] for w in words]
        there = np.array([len(w) > 0 for w in words])
        logits = np.array(named, np.float32)
        applies = logits.any(1) if self.shy else np.ones_like(there)
        return {"color": Said(decide(self.tasks[0], logits, 1.0), there, applies)}


def test_anything_that_decides_by_titles_can_be_tested_and_sees_no_picture(
    source: ProductSource,
) -> None:
    parrot = Parrot()
    with trial(source, ["color"]) as tried:
        found = tried.run(parrot, PRECISION)
    assert all(product.pixels is None for product in parrot.seen)
    labels, titles = source.read(["color"]).labels["color"], source.read().titles
    right = [
        bool(words) and (next((x for x in TASKS[0].labels if x.lower() in words), "Blue") == label)
        for words, label in (((t or "").split(), x) for t, x in zip(titles, labels, strict=True))
        if label is not None
    ]
    clean = found.conditions["titles_absent"][0].accuracy["color"]
    assert clean == pytest.approx(np.mean(right))
    assert found.conditions["titles_absent"][-1].accuracy["color"] == 0
    for condition in CONDITIONS:
        if not condition.of_titles:
            assert {p.accuracy["color"] for p in found.conditions[condition.kind]} == {clean}


@pytest.mark.parametrize("kind", ["pictures_blurred", "pictures_blocked", "pictures_replaced"])
def test_a_subject_is_shown_the_altered_pictures_under_keys_of_their_own(
    source: ProductSource, kind: str
) -> None:
    condition = next(c for c in CONDITIONS if c.kind == kind)
    parrot = Parrot(preprocess=tiny_config().preprocess)
    with trial(source, ["color"], [condition]) as tried:
        tried.run(parrot, PRECISION)
    plain, altered = parrot.seen[:NUM_PRODUCTS], parrot.seen[NUM_PRODUCTS:]
    there = [product for product in plain if product.pixels is not None]
    size = 1 if condition.by_share else len(condition.strengths) - 1
    assert len(altered) == len(there) * size
    pictures = {product.image_key: product.pixels for product in [*plain, *altered]}
    by_content = {None if x is None else x.tobytes() for x in pictures.values()}
    fresh = 0 if kind == "pictures_replaced" else len(altered)
    assert len(by_content) == len(pictures) == len(there) + fresh + 1  # and None, for no picture
    for start in range(0, len(altered), len(there)):
        for before, after in zip(there, altered[start : start + len(there)], strict=True):
            assert before.title == after.title
            assert before.image_key != after.image_key
    if kind == "pictures_blurred":
        for one, other in zip(there, altered, strict=False):
            assert np.array_equal(blur(np.asarray(one.pixels), 0.02), np.asarray(other.pixels))


def test_what_applies_is_told_from_titles_that_are_not_scrubbed(source: ProductSource) -> None:
    with trial(source, ["color"]) as tried:
        shy = tried.run(Parrot(shy=True), PRECISION).conditions
    assert shy["titles_absent"][-1].accuracy["color"] == 0
    assert (shy["titles_scrubbed"][-1].accuracy["color"] or 0) > 0


def test_words_to_scrub_can_be_those_of_another_model(source: ProductSource) -> None:
    scrubbing = [c for c in CONDITIONS if c.kind == "titles_scrubbed"]
    for words, kept in (({"color": frozenset({"shoe"})}, True), (None, False)):
        parrot = Parrot()
        with trial(source, ["color"], scrubbing) as tried:
            tried.run(parrot, PRECISION, words)
        shown = [set((p.title or "").split()) for p in parrot.seen[NUM_PRODUCTS:]]
        assert shown
        assert any({"red", "blue", "green"} & title for title in shown) == kept
        assert any("shoe" in title for title in shown) != kept


def test_progress_rises_to_the_total(treed: Bundle, source: ProductSource) -> None:
    seen: list[tuple[int, int]] = []
    with trial(source, ["color"]) as tried, model_subject(treed, ["color"]) as subject:
        tried.run(subject, progress=lambda *at: seen.append(at))
    done, totals = zip(*seen, strict=True)
    assert list(done) == sorted(done)
    assert set(totals) == {done[-1]}


def test_the_figures_survive_json(curves: Robustness) -> None:
    assert msgspec.json.decode(msgspec.json.encode(curves), type=Robustness) == curves


def test_the_picture_has_a_panel_per_condition_and_tells_14_models_apart(
    curves: Robustness, tmp_path: Path
) -> None:
    results = {f"model {number}": curves for number in range(14)}
    panels = [panel for panel in robustness_figure(results).axes if panel.lines]
    assert len(panels) == len(CONDITIONS)
    for panel, (kind, points) in zip(panels, curves.conditions.items(), strict=True):
        assert panel.get_title("left") == PANEL_TITLES[kind][0]
        for line in panel.lines:
            assert list(line.get_xdata()) == [100 * point.strength for point in points]
            assert list(line.get_ydata()) == [point.mean_recall for point in points]
        styles = [(x.get_color(), x.get_linestyle(), x.get_marker()) for x in panel.lines]
        assert len({(color, dashes) for color, dashes, _ in styles}) == 14
        assert len({marker for _, _, marker in styles}) == 14
    assert draw_robustness(results).startswith(b"\x89PNG")
    odd = {"_best": curves, r"x$\frac$y": msgspec.structs.replace(curves, precision=0.975)}
    figure = robustness_figure(odd)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(odd)
    assert draw_robustness(odd).startswith(b"\x89PNG")
    late = robustness_figure({"one": msgspec.structs.replace(curves, precision=0.995)})
    assert late.axes[0].get_ylabel() == "recall at 99.5% precision"


def test_unknown_tasks_and_missing_labels_are_said(
    treed: Bundle, source: ProductSource, make_catalog: MakeCatalog
) -> None:
    with pytest.raises(ModelError, match="does not know task 'style'"):
        run(treed, source, ["style"])
    with pytest.raises(CatalogError, match="no label column 'kind'"):
        run(treed, ProductSource(make_catalog([{"title": "red"}])), ["kind"])
