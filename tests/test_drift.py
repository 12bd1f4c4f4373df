"""Drift: another half of the same feed is alike, a changed one is not, and cron can tell."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tagger import bundle
from tagger.answers import collect_answers
from tagger.bundle import Bundle
from tagger.drift import (
    FILE_NAME,
    Finding,
    Profile,
    check_drift,
    compare,
    find_drift,
    profile_of,
    read_profile,
    write_profile,
)
from tagger.errors import DriftError, ModelError
from tagger.evaluate import evaluate_catalog
from tagger.products import Products, ProductSource
from tagger.tasks import Task

from .conftest import (
    TASKS,
    MakeCatalog,
    Row,
    mixed_rows,
    most_memory,
    random_titles,
    save_tiny,
    tiny_config,
)

NAMES = [task.name for task in TASKS]


@pytest.fixture
def known(model_dir: Path, make_catalog: MakeCatalog, tmp_path: Path) -> Bundle:
    """The tiny model with the profile of 400 products, of which a fifth has a picture."""
    copy = Path(shutil.copytree(model_dir, tmp_path / "known"))
    loaded = bundle.load(copy)
    path = make_catalog(feed(tmp_path, 400, seed=1), "known.parquet")
    products = ProductSource(path).read()
    answers = collect_answers(loaded, products, tmp_path, NAMES)
    write_profile(profile_of(loaded, products, [answers]), copy)
    return loaded


def feed(folder: Path, count: int, seed: int) -> list[Row]:
    pictures = [row["image"] for row in mixed_rows(folder, 8) if row["image"]]
    return [
        {"image": pictures[n % len(pictures)] if n % 5 == 0 else None, "title": title}
        for n, title in enumerate(random_titles(count, seed))
    ]


def verdicts(findings: list[Finding]) -> set[str]:
    return {finding.what for finding in findings if finding.drifted}


def test_more_of_the_same_feed_is_alike(
    known: Bundle, make_catalog: MakeCatalog, tmp_path: Path
) -> None:
    path = make_catalog(feed(tmp_path, 300, seed=2))
    findings = find_drift(known, ProductSource(path), NAMES).findings
    assert verdicts(findings) == set()
    assert len(findings) == 3 + 3 * len(NAMES)
    check_drift(findings, path)


@pytest.mark.parametrize("count", [5, 40, 100])
def test_small_piece_of_the_same_feed_is_alike(
    known: Bundle, make_catalog: MakeCatalog, tmp_path: Path, count: int
) -> None:
    path = make_catalog(feed(tmp_path, count, seed=count))
    assert verdicts(find_drift(known, ProductSource(path), NAMES).findings) == set()


def test_picture_that_weighs_more_or_less_has_drifted(known: Bundle) -> None:
    before = read_profile(known.path)
    for shift in (-0.2, 0.2):
        task = before.tasks["color"]
        moved = msgspec.structs.replace(task, image_weight=task.image_weight + shift)
        now = msgspec.structs.replace(before, tasks={**before.tasks, "color": moved})
        assert verdicts(compare(before, now)) == {"color: weight of the picture"}
        few = msgspec.structs.replace(moved, num_both=2, image_weight_deviation=0.3)
        now = msgspec.structs.replace(before, tasks={**before.tasks, "color": few})
        assert verdicts(compare(before, now)) == set()


@pytest.mark.parametrize("count", [2, 3, 5])
def test_weights_of_a_few_products_of_one_kind_are_no_drift(known: Bundle, count: int) -> None:
    """Of half of the products the picture weighs .2, of the others .8."""
    dice = np.random.default_rng(0)
    before = read_profile(known.path)

    def drawn(size: int) -> Profile:
        weights = dice.choice([0.2, 0.8], size) + dice.normal(0, 0.02, size)
        task = msgspec.structs.replace(
            before.tasks["color"],
            image_weight=float(weights.mean()),
            image_weight_deviation=float(weights.std(ddof=1)),
            num_both=size,
        )
        return msgspec.structs.replace(before, tasks={**before.tasks, "color": task})

    usual = drawn(4000)
    assert not any(verdicts(compare(usual, drawn(count))) for _ in range(50))


def test_neither_drift_nor_figures_keep_what_every_label_got(
    make_catalog: MakeCatalog, tmp_path: Path
) -> None:
    task = Task("kind", tuple(f"kind {number:04d}" for number in range(2000)))
    config = msgspec.structs.replace(tiny_config(), tasks=(task,))
    model = bundle.load(save_tiny(tmp_path / "many", config))
    titles = random_titles(4000)
    rows: list[Row] = [{"title": title, "kind": task.labels[0]} for title in titles]
    source = ProductSource(make_catalog(rows))
    products = source.read()
    profile = profile_of(model, products, [collect_answers(model, products, tmp_path, ["kind"])])
    write_profile(profile, model.path)
    size = len(titles) * len(task.labels) * 4
    few = replace(source, limit=9)
    find_drift(model, few, ["kind"])  # imports take memory, too
    evaluate_catalog(model, few, ["kind"])
    with most_memory(size):
        assert not any(f.distance for f in find_drift(model, source, ["kind"]).findings)
    with most_memory(size):
        evaluate_catalog(model, source, ["kind"])


def test_feed_of_other_labels_has_drifted(known: Bundle, make_catalog: MakeCatalog) -> None:
    path = make_catalog([{"title": f"red shirt {n}", "image": None} for n in range(300)])
    findings = find_drift(known, ProductSource(path), NAMES).findings
    assert "color: labels" in verdicts(findings)
    with pytest.raises(DriftError, match=r"has drifted: .* before, .* now, and \d+ more") as caught:
        check_drift(findings, path)
    assert caught.value.exit_code == 13


def test_feed_without_pictures_and_with_unknown_words_has_drifted(
    known: Bundle, make_catalog: MakeCatalog
) -> None:
    rows: list[Row] = [
        {"title": t.replace("r", "rx").replace("b", "qb"), "image": None}
        for t in random_titles(300, 3)
    ]
    found = verdicts(find_drift(known, ProductSource(make_catalog(rows)), NAMES).findings)
    assert {"products without picture", "words that are unknown"} <= found


def test_few_products_are_no_evidence(known: Bundle, make_catalog: MakeCatalog) -> None:
    path = make_catalog([{"title": "red shoe"}] * 3)
    findings = find_drift(known, ProductSource(path), NAMES).findings
    assert not {w for w in verdicts(findings) if w.endswith("labels")}


def test_rare_labels_of_a_small_feed_are_no_drift(known: Bundle) -> None:
    """Both are drawn from one distribution of 200 labels, most of them rare."""
    shares = 1 / np.arange(1, 201) ** 1.5
    dice = np.random.default_rng(0)
    before = read_profile(known.path)

    def drawn(count: int) -> Profile:
        counts = dice.multinomial(count, shares / shares.sum()).tolist()
        labels = {f"label {number}": n for number, n in enumerate(counts) if n}
        task = msgspec.structs.replace(before.tasks["color"], labels=labels)
        return msgspec.structs.replace(before, tasks={**before.tasks, "color": task})

    assert not any(verdicts(compare(drawn(4000), drawn(60))) for _ in range(8))


def test_words_of_a_few_foreign_titles_are_no_drift(known: Bundle) -> None:
    """Of both, one title in ten is foreign, from its first of ten words to its last: feeds of 30
    titles often have two of these too many, or none."""
    dice = np.random.default_rng(0)
    before = msgspec.structs.replace(
        read_profile(known.path),
        num_products=4000,
        absent_titles=0.0,
        num_words=40_000,
        split_words=0.1,
    )
    for num_foreign in dice.binomial(30, 0.1, size=200):
        now = msgspec.structs.replace(
            before, num_products=30, num_words=300, split_words=num_foreign / 30
        )
        assert not verdicts(compare(before, now))


def test_deviation_of_weights_is_that_of_a_sample(tiny: Bundle, tmp_path: Path) -> None:
    products = Products([row["image"] for row in mixed_rows(tmp_path, 8) if row["image"]][:3], [])
    products.titles.extend(["red shirt", "blue shoe", "green"])
    answers = collect_answers(tiny, products, tmp_path, ["color"])
    found = profile_of(tiny, products, [answers]).tasks["color"]
    expected = answers.image_weights["color"][answers.both].std(ddof=1)
    assert found.num_both > 1
    assert found.image_weight_deviation == pytest.approx(float(expected))


def test_a_profile_is_like_itself(known: Bundle) -> None:
    profile = read_profile(known.path)
    assert all(finding.distance == 0 for finding in compare(profile, profile))


def test_missing_or_damaged_profile_names_the_repairing_command(
    known: Bundle, make_catalog: MakeCatalog
) -> None:
    path = make_catalog([{"title": "red"}])
    (known.path / FILE_NAME).write_text("{")
    with pytest.raises(ModelError, match=FILE_NAME):
        find_drift(known, ProductSource(path), NAMES)
    (known.path / FILE_NAME).unlink()
    with pytest.raises(ModelError, match="to compare with") as caught:
        find_drift(known, ProductSource(path), NAMES)
    assert "--calibrate" in caught.value.hint


def test_a_distance_that_may_be_chance_is_not_called_alike() -> None:
    made = {"what": "labels", "before": "-", "now": "-"}
    verdicts = [
        Finding(**made, distance=distance, drifted=drifted).verdict
        for distance, drifted in ((0.05, False), (0.186, False), (0.186, True))
    ]
    assert verdicts == ["alike", "within chance", "drifted"]
