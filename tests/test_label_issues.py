"""Suspect labels: corrupted ones are found, and those of a good model on clean data are few."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

import tagger
from tagger.bundle import Bundle
from tagger.catalog import Catalog
from tagger.evaluate import evaluate_catalog
from tagger.label_issues import SCHEMA, find_label_issues, suspect, write_label_issues
from tagger.products import ProductSource

from .conftest import MakeCatalog, most_memory, random_titles


def noisy(
    seed: int, flipped: float
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]]:
    """Probabilities of a fair model, labels of which some were flipped, and which those are."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 5, 3000)
    logits = rng.normal(0, 1, (3000, 5))
    logits[np.arange(3000), truth] += 4
    powers = np.exp(logits)
    flip = rng.random(3000) < flipped
    given = np.where(flip, (truth + rng.integers(1, 5, 3000)) % 5, truth)
    return powers / powers.sum(1, keepdims=True), given, flip


@pytest.mark.parametrize("seed", range(3))
def test_most_flipped_labels_are_found_and_most_found_are_flipped(seed: int) -> None:
    probabilities, given, flip = noisy(seed, 0.1)
    found = suspect(np.log(probabilities), 1.0, given)
    assert flip[found.rows].mean() > 0.8
    assert flip[found.rows].sum() > 0.8 * flip.sum()
    half = len(found.rows) // 2
    assert flip[found.rows[:half]].mean() >= flip[found.rows[half:]].mean()
    assert (np.diff(found.margin) >= 0).all()
    assert (found.suggested != given[found.rows]).all()


def test_label_that_the_model_agrees_with_is_no_issue() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 1, (4000, 4)) + np.array([3.0, 0, 0, 0])  # one label is everywhere
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    given = np.where(rng.random(4000) < 0.5, probabilities.argmax(1), rng.integers(0, 4, 4000))
    found = suspect(np.log(probabilities), 1.0, given)
    assert len(found.rows) > 100
    assert (found.margin < 0).all()
    assert (found.suggested == probabilities[found.rows].argmax(1)).all()


def test_clean_labels_raise_few_suspicions() -> None:
    probabilities, given, _ = noisy(0, 0.0)
    assert len(suspect(np.log(probabilities), 1.0, given).rows) < 0.05 * len(given)


def test_label_of_few_products_makes_no_suspects_by_their_own_low_probability() -> None:
    """Its two look like another label: at their mean of .1 any product would be like them."""
    probabilities = np.array([[0.9, 0.05, 0.05]] * 20 + [[0.3, 0.1, 0.6]] * 2 + [[0.02, 0.5, 0.48]])
    given = np.array([0] * 20 + [1] * 2 + [0])
    found = suspect(np.log(probabilities), 1.0, given)
    assert 22 not in found.rows
    enough = np.concatenate([np.repeat([[0.05, 0.6, 0.35]], 5, 0), probabilities])
    found = suspect(np.log(enough), 1.0, np.concatenate([[1] * 5, given]))
    assert 27 in found.rows


def test_suspects_among_many_labels_take_less_memory_than_the_logits() -> None:
    dice = np.random.default_rng(0)
    logits = dice.normal(0, 2, (4000, 1000)).astype(np.float32)
    given = np.where(dice.random(4000) < 0.9, logits.argmax(1), 0)
    with most_memory(logits.nbytes):
        assert len(suspect(logits, 1.0, given).rows) > 100


def test_products_without_a_known_label_are_not_judged() -> None:
    probabilities, given, _ = noisy(0, 0.1)
    given[::2] = -1
    found = suspect(np.log(probabilities), 1.0, given)
    assert (found.rows % 2 == 1).all()
    assert found.num_judged == 1500
    assert len(suspect(np.log(probabilities), 1.0, np.full(3000, -2)).rows) == 0


def test_file_ranks_the_suspects_of_all_tasks(
    tiny: Bundle, model_dir: Path, make_catalog: MakeCatalog, tmp_path: Path
) -> None:
    path = make_catalog([{"title": title} for title in random_titles(300)], "plain.parquet")
    said = tagger.load(model_dir, fp32=True).predict(pq.read_table(path).to_pandas())
    colors = said["color_label"].tolist()
    wrong = {"Red": "Blue", "Blue": "Green", "Green": "Red"}
    rows = [
        {
            "id": f"sku{n}",
            "title": said["title"][n],
            "color": wrong[color] if n % 10 == 0 else color,
            "pattern": "Tartan" if n % 2 else None,
        }
        for n, color in enumerate(colors)
    ]
    out = tmp_path / "issues.parquet"
    names = ["color", "pattern"]
    done = evaluate_catalog(tiny, ProductSource(make_catalog(rows)), names, with_logits=True)
    suspects = find_label_issues(tiny, done.products, done.answers, names, done.trained_on)
    done.products.titles[:] = [f"{title} caf\udce9" for title in done.products.titles]
    write_label_issues(suspects, tiny, done.products, out)
    counts = {name: len(suspicion.rows) for name, suspicion in suspects.items()}
    table = pq.read_table(out)
    assert table.schema.equals(SCHEMA)
    assert counts["pattern"] == 0, "labels that the model does not know are not judged"
    assert counts["color"] == table.num_rows
    found = table.to_pylist()
    hits = [row for row in found if (row["row"] - 1) % 10 == 0]
    assert len(hits) >= 10
    for row in found:
        assert row["id"] == f"sku{row['row'] - 1}"
        assert row["given_label"] == rows[row["row"] - 1]["color"]
        assert row["suggested_label"] != row["given_label"]
        assert row["title"].endswith(" caf\ufffd")  # what is not UTF-8 is shown as far as it can be
    assert [row["margin"] for row in found] == sorted(row["margin"] for row in found)
    write_label_issues(suspects, tiny, done.products, tmp_path / "issues.csv")
    as_csv = Catalog(tmp_path / "issues.csv").read(["row", "title", "suggested_label"])
    assert [row["title"] for row in as_csv.to_pylist()] == [row["title"] for row in found]
    assert as_csv["row"].to_pylist() == [str(row["row"]) for row in found]
