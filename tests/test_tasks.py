"""Tasks: labels and ids, which labels are learned, the names on the command line."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tagger.errors import UsageError
from tagger.tasks import (
    UNKNOWN_LABEL,
    UNLABELED,
    Task,
    learn_task,
    parse_asked,
    parse_names,
    parse_tasks,
)


def random_labels(seed: int) -> list[str | None]:
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.full(9, 0.4))
    return [None if k == 8 else f"label {k}" for k in rng.choice(9, 200, p=weights)]


def test_label_with_control_characters_is_left_out() -> None:
    labels = ["Red", "Bl\x1bue", "Gr\udcf6n", "Off\u00a0White"] * 5
    task, left_out = learn_task("color", labels, 2)
    assert task.labels == ("Off\u00a0White", "Red")
    assert set(left_out) == {"Bl\x1bue", "Gr\udcf6n"}


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("min_support", [1, 8, 500])
def test_learned_and_left_out_labels_part_at_the_minimum_support(
    seed: int, min_support: int
) -> None:
    labels = random_labels(seed)
    counts = Counter(label for label in labels if label is not None)
    task, left_out = learn_task("color", labels, min_support)
    assert task.name == "color"
    assert list(task.labels) == sorted(task.labels)
    assert {label: counts[label] for label in task.labels} | left_out == counts
    assert all(counts[label] >= min_support for label in task.labels)
    assert all(count < min_support for count in left_out.values())
    assert list(left_out.values()) == sorted(left_out.values(), reverse=True)


@pytest.mark.parametrize(("others", "kept"), [(8, True), (9, True), (10, False), (60, False)])
def test_leaf_alone_among_more_products_of_rare_ones_is_not_learned(
    others: int, kept: bool
) -> None:
    rare = ["Shoes", *(f"Shoes > rare {k}" for k in range(11))]  # 5 products each at most
    labels = ["Shoes > Sneakers"] * 9 + [rare[k % 12] for k in range(others)]
    labels += ["Bags > Totes"] * 30 + ["Bags > Clutches"] * 30
    task, left_out = learn_task("kind", labels, 8, " > ")
    shoes = {label for label in task.nodes if label.startswith("Shoes")}
    assert shoes == ({"Shoes", "Shoes > Sneakers"} if kept else {"Shoes"})
    assert ("Shoes > Sneakers" in left_out) != kept
    # With a sibling it tells something: the two are learned, however many rare ones there are.
    more, _ = learn_task("kind", labels + ["Shoes > Boots"] * 9, 8, " > ")
    assert {"Shoes > Boots", "Shoes > Sneakers"} <= set(more.labels)


@pytest.mark.parametrize("seed", range(5))
def test_order_of_the_products_does_not_change_the_task(seed: int) -> None:
    labels = random_labels(seed)
    shuffled = list(labels)
    np.random.default_rng(seed).shuffle(shuffled)
    assert learn_task("color", labels, 5)[0] == learn_task("color", shuffled, 5)[0]


@pytest.mark.parametrize("seed", range(5))
def test_label_ids_lead_back_to_the_labels(seed: int) -> None:
    labels = random_labels(seed)
    task, left_out = learn_task("color", labels, 10)
    ids = task.label_ids(labels)
    for label, label_id in zip(labels, ids, strict=True):
        if label is None:
            assert label_id == UNLABELED
        elif label in left_out:
            assert label_id == UNKNOWN_LABEL
        else:
            assert task.labels[label_id] == label


@pytest.mark.parametrize("text", ["color,pattern", " color , pattern ", "color,,pattern,"])
def test_task_names_are_split_at_commas(text: str) -> None:
    assert parse_names(text) == ["color", "pattern"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "no task"), (" , ", "no task"), ("a,b,a", "'a'"), ("a,image", "image_status")],
)
def test_no_name_or_one_name_twice_is_a_usage_error(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        parse_names(text)
    assert caught.value.hint


@pytest.mark.parametrize("name", ["gr\u00f6\u00dfe", "gro\u0308\u00dfe"])
def test_predict_asks_for_a_task_by_the_name_that_training_gave_it_in_whatever_letters(
    name: str,
) -> None:
    assert list(parse_asked(f"color,{name}")) == list(parse_tasks(f"color,{name}"))
    assert parse_asked(f"{name}=cafe\u0301,tea") == {name: ("caf\u00e9", "tea")}


def test_task_keeps_the_order_of_its_labels() -> None:
    task = Task("size", ("S", "M", "L"))
    assert task.label_ids(["S", "M", "L"]).tolist() == [0, 1, 2]
