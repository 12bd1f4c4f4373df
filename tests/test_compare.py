"""Comparing models: paired differences that mean what they say, costs, and one set of products."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest

from tagger import bundle
from tagger.bundle import Bundle
from tagger.compare import (
    MEAN,
    Difference,
    Differences,
    ModelComparison,
    compare_models,
    differences_to_first,
    write_comparison,
)
from tagger.comparison_page import marks_of, write_comparison_page
from tagger.cost import ROUNDS, flops_per_product, num_parameters, products_per_second
from tagger.decision import decide
from tagger.errors import ModelError, UsageError
from tagger.evaluate import evaluate_catalog
from tagger.loading import load_model
from tagger.modalities import VIEWS, View
from tagger.plots import Mark, rates_figure
from tagger.products import Products, ProductSource
from tagger.scores import Judged, Predictions, judge
from tagger.shelf import short_names
from tagger.tasks import Task
from tagger.trained_on import write_trained_on

from .conftest import (
    TASKS,
    MakeCatalog,
    mixed_rows,
    register_architectures,
    save_tiny,
    tiny_config,
)
from .test_export_open_clip import ARCHITECTURES, saved

NAMES = [task.name for task in TASKS]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A model as `tiny` with other weights."""
    return bundle.load(save_tiny(tmp_path_factory.mktemp("other") / "other", tiny_config(), 2))


@pytest.fixture
def source(make_catalog: MakeCatalog, tmp_path: Path) -> ProductSource:
    """40 products, half of them with a pattern."""
    dice = np.random.default_rng(0)
    rows = [
        {
            **row,
            "color": str(dice.choice(TASKS[0].labels)),
            "pattern": str(dice.choice(TASKS[1].labels)) if place % 2 else None,
        }
        for place, row in enumerate(mixed_rows(tmp_path, 40))
    ]
    return ProductSource(make_catalog(rows))


@pytest.fixture
def compared(tiny: Bundle, other: Bundle, source: ProductSource) -> ModelComparison:
    return compare_models({"tiny": tiny, "other": other}, source, NAMES, 0.5)[0]


def numbers(differences: dict[str, dict[str, Differences]]) -> np.ndarray:
    """(views, tasks and mean, 2 rates, difference and both ends)."""
    return np.array(
        [
            [
                [(d.difference, *d.interval) for d in (one.accuracy, one.recall_at_precision)]
                for one in by_task.values()
            ]
            for by_task in differences.values()
        ]
    )


def test_a_model_does_not_differ_from_itself_at_all(tiny: Bundle, source: ProductSource) -> None:
    twins, _ = compare_models({"a": tiny, "b": tiny}, source, NAMES)
    first, second = twins.models
    assert first.differences == {}
    assert numbers(second.differences).shape == (len(VIEWS), len(NAMES) + 1, 2, 3)
    assert (numbers(second.differences) == 0).all()
    assert second.differences["both"][MEAN].accuracy.is_noise
    assert first.scores == second.scores


def test_the_other_model_first_turns_every_difference_around(
    tiny: Bundle, other: Bundle, source: ProductSource, compared: ModelComparison
) -> None:
    turned, _ = compare_models({"other": other, "tiny": tiny}, source, NAMES, 0.5)
    forth, back = numbers(compared.models[1].differences), numbers(turned.models[1].differences)
    assert np.abs(forth).max() > 0.05
    assert back == pytest.approx(-forth[..., [0, 2, 1]])


def test_a_third_model_changes_nothing_about_the_second(
    tiny: Bundle, other: Bundle, source: ProductSource, compared: ModelComparison
) -> None:
    models = {"tiny": tiny, "third": tiny, "other": other}
    three, _ = compare_models(models, source, NAMES, 0.5)
    assert three.models[2].differences == compared.models[1].differences


def test_figures_are_those_of_each_model_evaluated_alone(
    tiny: Bundle, other: Bundle, source: ProductSource, compared: ModelComparison
) -> None:
    for model, figures in zip((tiny, other), compared.models, strict=True):
        alone = evaluate_catalog(model, source, NAMES, 0.5).figures
        assert figures.scores == alone.scores
        assert figures.sha256 == model.sha256
    difference = compared.models[1].differences["title"]["pattern"].recall_at_precision
    before, after = (m.scores["title"]["pattern"].recall_at_precision for m in compared.models)
    assert difference.difference == pytest.approx((after or 0) - (before or 0))


def test_the_mean_is_that_over_tasks_and_its_interval_that_of_the_means(
    compared: ModelComparison,
) -> None:
    for view in VIEWS:
        by_task = compared.models[1].differences[view]
        mean = np.mean([by_task[name].accuracy.difference for name in NAMES])
        assert by_task[MEAN].accuracy.difference == pytest.approx(mean)
        before, after = (model.means[view].accuracy for model in compared.models)
        assert by_task[MEAN].accuracy.difference == pytest.approx((after or 0) - (before or 0))


def judged(correct: np.ndarray, confidence: np.ndarray, rows: np.ndarray | None = None) -> Judged:
    """A model that is right so, and so sure of it."""
    task = Task("t", ("no", "yes"))
    size = len(correct) if rows is None else int(rows.max()) + 1
    rows = np.arange(size) if rows is None else rows
    labels: list[str | None] = [None] * size
    for row in rows:
        labels[row] = "yes"
    empty = judge(task, labels, _nothing(task, size))
    return replace(empty, correct=correct, confidence=confidence)


def _nothing(task: Task, size: int) -> Predictions:
    predictions = Predictions()
    decision = decide(task, np.zeros((size, 2), np.float32), 1.0)
    given = np.ones(size, dtype=bool)
    predictions.add(decision, given, np.ones(size, np.int64), np.ones((size, 2)))
    return predictions


def in_all_views(tasks: Sequence[Judged]) -> dict[View, dict[str, Judged]]:
    return {view: {str(n): one for n, one in enumerate(tasks)} for view in VIEWS[:1]} | {
        view: {} for view in VIEWS[1:]
    }


def test_two_tasks_that_err_on_the_same_products_do_not_narrow_the_interval() -> None:
    rng = np.random.default_rng(0)
    sure = np.full(300, 0.5)
    base, better = (judged(rng.random(300) < share, sure) for share in (0.6, 0.7))
    opposite = judged(~better.correct, sure)
    against = judged(~base.correct, sure)
    _, twice = differences_to_first(
        [in_all_views([base] * 2), in_all_views([better] * 2)], 300, 0.9
    )
    once = twice["both"]["0"].accuracy
    assert twice["both"][MEAN].accuracy.interval == pytest.approx(once.interval)
    # What one task gains on a product the other loses: only paired draws know that of the mean.
    _, cancelled = differences_to_first(
        [in_all_views([base, against]), in_all_views([better, opposite])], 300, 0.9
    )
    assert cancelled["both"][MEAN].accuracy.interval == pytest.approx((0, 0), abs=1e-12)
    assert cancelled["both"]["0"].accuracy.interval == once.interval
    assert twice["title"] == {}


def test_a_task_with_labels_on_some_rows_counts_only_these() -> None:
    rng = np.random.default_rng(1)
    some = np.arange(0, 400, 4)
    base, better = (judged(rng.random(100) < share, rng.random(100), some) for share in (0.5, 0.6))
    _, found = differences_to_first([in_all_views([base]), in_all_views([better])], 400, 0.9)
    accuracy = found["both"]["0"].accuracy
    assert accuracy.difference == pytest.approx(better.correct.mean() - base.correct.mean())
    spread = np.std(better.correct.astype(float) - base.correct) / np.sqrt(len(some))
    assert accuracy.interval[1] - accuracy.interval[0] == pytest.approx(3.92 * spread, rel=0.25)


def test_the_interval_holds_0_about_95_times_in_100_for_two_equally_good_models() -> None:
    rng = np.random.default_rng(0)

    def model() -> dict[View, dict[str, Judged]]:
        confidence = rng.random(400)
        return in_all_views([judged(rng.random(400) < 0.6 + 0.4 * confidence, confidence)])

    trials = 100
    held = [0, 0]
    for _ in range(trials):
        _, found = differences_to_first([model(), model()], 400, 0.9)
        one = found["both"]["0"]
        held[0] += one.accuracy.is_noise
        held[1] += one.recall_at_precision.is_noise
    assert 88 <= held[0] < trials
    assert held[1] >= 86


def test_a_real_difference_is_not_called_noise() -> None:
    sure = np.full(500, 0.5)
    rng = np.random.default_rng(0)
    worse, better = (judged(rng.random(500) < share, sure) for share in (0.6, 0.8))
    _, found = differences_to_first([in_all_views([worse]), in_all_views([better])], 500, 0.5)
    assert not found["both"]["0"].accuracy.is_noise
    assert Difference(difference=0.1, interval=(-0.01, 0.2), judged_otherwise=9).is_noise
    assert Difference(difference=0.1, interval=(0.0, 0.2), judged_otherwise=9).is_noise
    assert not Difference(difference=-0.1, interval=(-0.2, -0.01), judged_otherwise=9).is_noise


@pytest.mark.parametrize(("count", "noise"), [(5, True), (6, False)])
def test_difference_that_rests_on_fewer_than_six_products_is_noise(count: int, noise: bool) -> None:
    """In 95 of 100 resamples one of them is there, and all speak for the same model."""
    right, sure = np.ones(300, dtype=bool), np.linspace(0.99, 0.5, 300)
    fewer = right.copy()
    fewer[:count] = False
    _, found = differences_to_first(
        [in_all_views([judged(right, sure)]), in_all_views([judged(fewer, sure)])], 300, 0.5
    )
    for one in (found["both"]["0"].accuracy, found["both"][MEAN].recall_at_precision):
        assert one.interval[1] < 0
        assert (one.judged_otherwise, one.is_noise) == (count, noise)


def test_recall_of_models_with_equal_labels_differs_by_what_they_publish() -> None:
    right = np.arange(300) % 5 > 0
    orderly = np.where(right, 0.9, 0.1)
    pair = [in_all_views([judged(right, sure)]) for sure in (orderly, 1 - orderly)]
    _, found = differences_to_first(pair, 300, 0.9)
    assert found["both"]["0"].accuracy.judged_otherwise == 0
    assert found["both"]["0"].recall_at_precision.judged_otherwise == right.sum()
    assert not found["both"]["0"].recall_at_precision.is_noise


def test_all_models_see_the_same_scrubbed_titles(
    tiny: Bundle, source: ProductSource, tmp_path: Path
) -> None:
    # This one knows fewer labels of its own, so that alone it is left with more words.
    fewer = tiny_config()
    tasks = (Task("color", ("Blue", "Green")), fewer.tasks[1])
    small = bundle.load(save_tiny(tmp_path / "small", msgspec.structs.replace(fewer, tasks=tasks)))
    wide, _ = compare_models({"small": small, "tiny": tiny}, source, ["color"])
    alone = evaluate_catalog(small, source, ["color"]).figures
    table = pd.read_parquet(source.path)
    table["title"] = table["title"].str.replace("red", "")
    bare = source.path.with_name("bare.parquet")
    table.to_parquet(bare)
    expected = evaluate_catalog(small, ProductSource(bare), ["color"]).figures
    assert wide.models[0].scores["scrubbed"] == expected.scores["scrubbed"]
    assert wide.models[0].scores["scrubbed"] != alone.scores["scrubbed"]


def test_products_that_any_model_learned_from_are_counted(
    make_catalog: MakeCatalog, tmp_path: Path
) -> None:
    rows = [{"title": f"shirt {n}", "color": "Red"} for n in range(30)]
    source = ProductSource(make_catalog(rows))
    products = source.read(["color"])
    paths = [save_tiny(tmp_path / name, tiny_config(), 3) for name in ("a", "b")]
    write_trained_on(paths[0], products.take(range(10)))
    write_trained_on(paths[1], products.take(range(5, 20)))
    models = {path.name: bundle.load(path) for path in paths}
    found, _ = compare_models(models, source, ["color"])
    assert [model.trained_on for model in found.models] == [10, 15]
    assert found.trained_on == 20


def test_titles_count_as_learned_whatever_picture_is_beside_them(
    tiny: Bundle, make_catalog: MakeCatalog
) -> None:
    rows = [
        {"title": f"{color.lower()} shirt {n}", "color": color, "image": f"{n}.jpg"}
        for n, color in enumerate(["Red", "Blue"] * 12)
    ]
    source = ProductSource(make_catalog(rows))
    titles = [{"title": row["title"], "color": row["color"]} for row in rows[:16]]
    unlabelled = [{"title": row["title"], "color": None} for row in rows[16:20]]
    train = ProductSource(make_catalog([*titles, *unlabelled], "train.csv"))
    found, _ = compare_models({"tiny": tiny}, source, ["color"], tfidf=train)
    assert [model.trained_on for model in found.models] == [0, 16]


def test_a_task_that_one_model_does_not_know_names_both(
    tiny: Bundle, source: ProductSource, tmp_path: Path
) -> None:
    config = msgspec.structs.replace(tiny_config(), tasks=TASKS[:1])
    narrow = bundle.load(save_tiny(tmp_path / "narrow", config))
    with pytest.raises(ModelError, match="narrow does not know task 'pattern'"):
        compare_models({"tiny": tiny, "narrow": narrow}, source, NAMES)
    with pytest.raises(UsageError, match="'mean'"):
        compare_models({"tiny": tiny, "narrow": narrow}, source, ["mean"])


def test_flops_are_two_for_each_multiply_and_add_whatever_they_are_computed_in(
    tiny: Bundle, model_dir: Path, source: ProductSource
) -> None:
    products = source.read()
    whole = flops_per_product(tiny, products, source.root)
    fast = flops_per_product(load_model(model_dir, "cpu", fp32=False), products, source.root)
    assert whole == pytest.approx(fast, rel=0.01)  # a head of a tree or a norm may be folded
    config = tiny.config
    heads = sum(
        config.fusion.width * config.fusion.head_width + config.fusion.head_width * len(task.labels)
        for task in config.tasks
    )
    assert whole is not None
    assert whole > 2 * heads
    wider = msgspec.structs.replace(
        config, tasks=(Task("color", tuple(f"{n:04d}" for n in range(1003))), config.tasks[1])
    )
    more = flops_per_product(
        bundle.load(save_tiny(source.path.parent / "wide", wider)), products, source.root
    )
    assert more == pytest.approx(whole + 2 * config.fusion.head_width * 1000)


def test_flops_of_attention_count_however_it_is_computed(
    source: ProductSource, tmp_path: Path
) -> None:
    """Written out for answers on a CPU, or as open_clip has it: in torch's fused layer."""
    register_architectures(tmp_path, ARCHITECTURES)
    as_it_came = saved(tmp_path, "leaving-clip")
    written_out = load_model(as_it_came.path, "cpu", fp32=True)
    products = source.read()
    one, other = (flops_per_product(b, products, source.root) for b in (as_it_came, written_out))
    assert one == pytest.approx(other, rel=0.02)


def test_flops_of_a_product_do_not_hang_on_how_many_there_are(
    tiny: Bundle, source: ProductSource
) -> None:
    products = Products([None] * 30, ["red striped shirt"] * 30)
    few = flops_per_product(tiny, products.take(range(3)), source.root)
    assert few == flops_per_product(tiny, products, source.root)


def test_parameters_are_those_of_the_network_and_unknown_of_an_export(
    tiny: Bundle, onnx_dir: Path, source: ProductSource
) -> None:
    assert num_parameters(tiny) == sum(p.numel() for p in tiny.model.parameters())
    export = load_model(onnx_dir, None, fp32=False)
    assert num_parameters(export) is None
    assert flops_per_product(export, source.read(), source.root) is None
    both, _ = compare_models({"tiny": tiny, "onnx": export}, source, ["pattern"])
    assert both.models[1].parameters is None
    assert both.models[1].products_per_second > 0
    assert both.models[1].differences["both"]["pattern"].accuracy.difference == 0


def test_models_take_turns_and_the_median_counts() -> None:
    now: list[float] = [0.0]
    turns: list[tuple[str, int]] = []
    # The machine is busy with something else in the second round.
    slow = iter([2.0, 4.0, 50.0, 80.0, 2.5, 4.5])

    def runner(name: str) -> Callable[[int], None]:
        def run(count: int) -> None:
            turns.append((name, count))
            now[0] += next(slow) if count == 100 else 1000.0

        return run

    done: list[tuple[int, int]] = []
    rates = products_per_second(
        [runner("a"), runner("b")], 100, lambda *of: done.append(of), clock=lambda: now[0]
    )
    assert rates == [100 / 2.5, 100 / 4.5]
    assert turns == [("a", 64), ("b", 64), *[("a", 100), ("b", 100)] * ROUNDS]
    assert done == [(100 * turn, 600) for turn in range(1, 7)]  # products, as is the rate


def test_names_tell_models_of_one_directory_name_apart(tmp_path: Path) -> None:
    paths = [tmp_path / "x/a/best", tmp_path / "y/a/best", tmp_path / "y/b/best", tmp_path / "c"]
    assert short_names(paths) == ["x/a/best", "y/a/best", "b/best", "c"]
    assert short_names([tmp_path / "tfidf"], ["tfidf"]) == [f"{tmp_path.name}/tfidf"]


def test_the_json_reads_back_as_what_was_measured(
    compared: ModelComparison, tmp_path: Path
) -> None:
    write_comparison(compared, tmp_path / "c.json")
    data = (tmp_path / "c.json").read_bytes()
    assert msgspec.json.decode(data, type=ModelComparison) == compared
    second = json.loads(data)["models"][1]
    difference = second["differences"]["scrubbed"]["mean"]["recall_at_precision"]
    assert set(difference) == {"difference", "interval", "judged_otherwise"}
    assert second["scores"]["both"]["color"]["num_products"] == 40


def test_the_page_has_every_rate_and_difference_and_fetches_nothing(
    compared: ModelComparison, tmp_path: Path
) -> None:
    path = tmp_path / "page.html"
    hostile = msgspec.structs.replace(compared.models[1], name="<img src=x onerror=alert(1)>")
    shown = msgspec.structs.replace(compared, models=(compared.models[0], hostile))
    write_comparison_page(path, shown, "catalog.parquet")
    page = path.read_text()
    assert "<img" not in page
    assert "default-src 'none'" in page
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", page)
    for view in VIEWS:
        recall = hostile.means[view].recall_at_precision
        assert f"<td>{100 * (recall or 0):.1f}%" in page
    wanted = hostile.differences["scrubbed"][MEAN].recall_at_precision
    assert f"{100 * wanted.interval[0]:+.1f} to" in page
    assert page.count("(noise)") == 1 + sum(
        difference.is_noise
        for view, by_task in hostile.differences.items()
        for task, one in by_task.items()
        for name, difference in (("a", one.accuracy), ("r", one.recall_at_precision))
        if (task != MEAN and view in ("both", "scrubbed"))
        or (task == MEAN and (name == "r" or view == "both"))
    )


def test_the_page_shows_robustness_where_there_is_some(
    compared: ModelComparison, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    write_comparison_page(page, compared, "catalog", b"\x89PNG")
    text = page.read_text()
    assert 'src="data:image/png;base64,iVBORw=="' in text
    assert 'alt="Lines of recall' in text
    # On a phone the pictures scroll: squeezed, their letters cannot be read.
    assert text.count('<div class="scroll" tabindex="0" role="region" aria-label="recall o') == 2
    assert "min-width: 640px" in text
    write_comparison_page(page, compared, "catalog")
    assert 'id="curves"' not in page.read_text()


def test_the_plot_lays_the_interval_of_the_difference_on_the_recall_of_the_first(
    compared: ModelComparison,
) -> None:
    first, second = compared.models
    marks = marks_of(second, first)
    assert set(marks) == set(VIEWS)
    difference = second.differences["title"][MEAN].recall_at_precision
    base = first.means["title"].recall_at_precision or 0.0
    assert marks["title"].interval == tuple(base + end for end in difference.interval)
    assert marks_of(first, first)["title"].interval is None
    one, two = Mark(0.5), Mark(0.7, (0.6, 0.8), faint=True)
    axes = rates_figure([{"both": one}, {"both": two}], "recall").axes[0]
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    assert [dot.get_markerfacecolor() == "none" for dot in dots] == [False, True]
    assert [text.get_text() for text in axes.texts] == ["1", "2"]


def test_robustness_starts_at_the_figures_of_the_table_and_titles_alone_never_move_with_pictures(
    tiny: Bundle, other: Bundle, source: ProductSource
) -> None:
    models = {"tiny": tiny, "other": other}
    comparison, _ = compare_models(models, source, NAMES, 0.5, tfidf=source, robustness=True)
    assert [model.name for model in comparison.models] == ["tiny", "other", "tfidf"]
    for model in comparison.models:
        assert model.robustness is not None
        for kind, points in model.robustness.conditions.items():
            assert points[0].mean_accuracy == pytest.approx(model.means["both"].accuracy)
            assert points[0].mean_recall == pytest.approx(model.means["both"].recall_at_precision)
            if model.name == "tfidf" and kind.startswith("pictures"):
                assert len({point.mean_recall for point in points}) == 1
        scrubbed = model.robustness.conditions["titles_scrubbed"][-1]
        assert scrubbed.mean_accuracy == pytest.approx(model.means["scrubbed"].accuracy)


def test_without_being_asked_nothing_is_made_worse(compared: ModelComparison) -> None:
    assert {model.robustness for model in compared.models} == {None}


def test_numbers_of_many_models_do_not_run_together() -> None:
    figure = rates_figure([{"both": Mark(0.5), "title": Mark(0.5)}] * 11, "recall")
    figure.draw_without_rendering()
    boxes = sorted((text.get_window_extent() for text in figure.axes[0].texts), key=lambda b: b.x0)
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))
