"""Trees: nodes, spans and sums of random label sets; which tasks are learned from paths."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tagger.config import Applicability, Config, read_config, write_config
from tagger.errors import ModelError, UsageError
from tagger.tasks import (
    UNKNOWN_LABEL,
    UNLABELED,
    Task,
    join_leaves,
    learn_task,
    parse_tasks,
)
from tagger.tree import NO_NODE, Names, Tree, common_path, distinct_ends, split_path

from .conftest import tiny_config

SEPARATORS = (" > ", ">", "/", "|", " :: ", "a")
NAMES = ("X", "X!", "X Y", "XY", "0", "Ä", "x")
"""Some begin like others, and sort before, between and behind them."""
KIND = Task("kind", ("Bags", "Shoes > Boots > Rain", "Shoes > Boots > Snow", "Shoes > Mules"), ">")
SHOES, BOOTS = 4, 5


def random_paths(seed: int) -> list[Names]:
    """5 to 40 distinct paths of one to four names, some of them ancestors of others."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(5, 41))
    return sorted({tuple(rng.choice(NAMES, rng.integers(1, 5)).tolist()) for _ in range(count)})


def random_task(seed: int) -> Task:
    """A task whose labels are random paths."""
    separator = SEPARATORS[seed % len(SEPARATORS)]
    return Task("kind", join_leaves(random_paths(seed), separator), separator)


def ancestors(names: Names) -> list[Names]:
    """Of `names`, from the top, itself the last."""
    return [names[:end] for end in range(1, len(names) + 1)]


@pytest.mark.parametrize("seed", range(30))
def test_any_set_of_paths_gives_a_tree_of_all_their_nodes(seed: int) -> None:
    paths, task = random_paths(seed), random_task(seed)
    tree = task.tree
    assert set(tree.names) == {node for names in paths for node in ancestors(names)}
    assert len(tree) == len(set(tree.names)) == len(task.nodes) == len(tree.parents)
    above = {node for names in paths for node in ancestors(names)[:-1]}
    assert {*tree.names[: tree.num_leaves]} == {*paths} - above
    assert len(task.labels) == tree.num_leaves
    assert tree.depth == max(map(len, paths))
    assert [split_path(node, task.separator) for node in task.nodes] == list(tree.names)


@pytest.mark.parametrize("seed", range(30))
def test_span_of_a_node_has_exactly_the_leaves_below_it(seed: int) -> None:
    tree = random_task(seed).tree
    for node, names in enumerate(tree.names):
        below = [i for i, n in enumerate(tree.names[: tree.num_leaves]) if n[: len(names)] == names]
        assert list(range(*tree.spans[node])) == below


@pytest.mark.parametrize("seed", range(30))
def test_lineage_goes_from_the_top_to_the_node(seed: int) -> None:
    tree = random_task(seed).tree
    for node, names in enumerate(tree.names):
        line = [tree.find(one) for one in ancestors(names)]
        assert tree.lineage[node].tolist() == line + [NO_NODE] * (tree.depth - len(line))
        assert tree.depths[node] == len(names)
        assert tree.parents[node] == (line[-2] if len(line) > 1 else NO_NODE)
    inner = range(tree.num_leaves, len(tree))
    assert all(tree.parents[node] < node for node in inner), "parents come first"


@pytest.mark.parametrize("seed", range(30))
def test_parent_is_as_likely_as_its_children_together_and_the_top_is_certain(seed: int) -> None:
    tree = random_task(seed).tree
    rng = np.random.default_rng(seed)
    leaves = rng.dirichlet(np.full(tree.num_leaves, 0.1), 5)
    sums = tree.sums(leaves)
    assert sums.shape == (5, len(tree))
    np.testing.assert_array_equal(sums[:, : tree.num_leaves], leaves)
    for node in range(tree.num_leaves, len(tree)):
        children = sums[:, tree.parents == node]
        np.testing.assert_allclose(sums[:, node], children.sum(1), rtol=0, atol=1e-12)
    np.testing.assert_allclose(sums[:, tree.parents == NO_NODE].sum(1), 1, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(10))
def test_node_is_found_and_what_is_none_has_its_nearest_ancestor(seed: int) -> None:
    tree = random_task(seed).tree
    for node, names in enumerate(tree.names):
        assert tree.find(names) == tree.deepest(names) == node
        assert tree.find((*names, "new")) == NO_NODE
        assert tree.deepest((*names, "new", "newer")) == node
    for nowhere in (("new",), ("new", NAMES[0]), ()):
        assert tree.find(nowhere) == tree.deepest(nowhere) == NO_NODE


def test_flat_labels_are_a_tree_of_one_level_whatever_stands_in_them() -> None:
    labels = ("b > c", "a", "", " a ", "b")
    task = Task("color", labels)
    assert not task.is_tree
    assert task.nodes == labels
    assert task.tree.depth == 1
    assert task.tree.lineage.tolist() == [[i] for i in range(5)]
    assert task.tree.spans.tolist() == [[i, i + 1] for i in range(5)]
    leaves = np.full((2, 5), 0.2)
    np.testing.assert_array_equal(task.tree.sums(leaves), leaves)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (("A > x", "B", "A > y"), "'A > y' stands apart"),
        (("A > x > 1", "A > y", "A > x > 2"), "'A > x > 2' stands apart"),
        (("A", "A > x"), "'A' has labels below it"),
        (("A > x", "A"), "'A' has labels below it"),
        (("A > x", "A > x > 1 > b"), "'A > x' has labels below it"),
        (("A > ", "B"), "no path"),
        ((" > A", "B"), "no path"),
        (("B", "A > > x"), "no path"),
        (("B", ""), "no path"),
        (("A > x", "A>x"), "twice"),
        (("B", " B "), "twice"),
    ],
)
def test_labels_that_are_no_tree_are_refused(labels: tuple[str, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Tree(labels, " > ")
    with pytest.raises(ValueError, match=words):
        _ = Task("kind", labels, " > ").tree


def test_siblings_may_stand_in_any_order_side_by_side() -> None:
    tree = Tree(("Z > b", "Z > a", "C", "A > x"), ">")
    assert tree.names == (("Z", "b"), ("Z", "a"), ("C",), ("A", "x"), ("Z",), ("A",))


@pytest.mark.parametrize(
    ("label", "separator", "names"),
    [
        ("Shoes > Boots", " > ", ("Shoes", "Boots")),
        ("  Shoes>Boots ", " > ", ("Shoes", "Boots")),
        ("Shoes  >\tBoots", ">", ("Shoes", "Boots")),
        ("Women's Shoes", " > ", ("Women's Shoes",)),
        ("Shoes > Boots", None, ("Shoes > Boots",)),
        ("Shoes Boots", " ", ("Shoes", "Boots")),
        ("Shoes", "/", ("Shoes",)),
        ("Shoes / > Boots", "/", ("Shoes", "> Boots")),
        (" Shoes ", None, (" Shoes ",)),
        ("Shoes >", " > ", ()),
        ("> Boots", " > ", ()),
        ("Shoes >  > Boots", " > ", ()),
        ("  ", " > ", ()),
    ],
)
def test_path_is_split_into_names(label: str, separator: str | None, names: Names) -> None:
    assert split_path(label, separator) == names


@pytest.mark.parametrize("seed", range(20))
def test_common_path_is_the_deepest_node_on_all_paths(seed: int) -> None:
    rng = np.random.default_rng(seed)
    paths = [tuple(rng.choice(["a", "b"], rng.integers(1, 5), p=[0.8, 0.2])) for _ in range(3)]
    common = common_path(paths)
    assert all(names[: len(common)] == common for names in paths)
    longer = {names[: len(common) + 1] for names in paths}
    assert len(longer) > 1 or common in paths
    assert common_path(paths[:1]) == paths[0]
    assert common_path([*paths, ("c",)]) == ()


@pytest.mark.parametrize(
    "label", ["Shoes > Boots > Snow", "Shoes>Boots>Snow", " Shoes >Boots> Snow "]
)
def test_spacing_of_a_label_does_not_matter(label: str) -> None:
    assert KIND.label_ids([label]).tolist() == KIND.nearest_ids([label]).tolist() == [2]
    task, left_out = learn_task("kind", [label, "Shoes>Mules"] * 3, 2, " > ")
    assert task.labels == ("Shoes > Boots > Snow", "Shoes > Mules")
    assert left_out == {}


def test_ids_of_labels_are_nodes_or_say_what_is_wrong() -> None:
    labels = [
        "Shoes",
        None,
        "Shoes > Boots",
        "Shoes > Boots > Sand",
        "Shoes > Clogs",
        "Hats",
        "Bags",
    ]
    found = KIND.label_ids(labels).tolist()
    assert found == [SHOES, UNLABELED, BOOTS, UNKNOWN_LABEL, UNKNOWN_LABEL, UNKNOWN_LABEL, 0]
    nearest = KIND.nearest_ids(labels).tolist()
    assert nearest == [SHOES, UNLABELED, BOOTS, BOOTS, SHOES, UNKNOWN_LABEL, 0]
    assert KIND.nodes[SHOES] == "Shoes"
    flat = Task("kind", ("Shoes", "Bags"))
    assert flat.nearest_ids(["Shoes", "Shoes > Boots"]).tolist() == [0, UNKNOWN_LABEL]


def labels_of_products(seed: int) -> list[str | None]:
    """300 labels, some deep ones rare, one in nine absent."""
    rng = np.random.default_rng(seed)
    paths = random_paths(seed)
    drawn = rng.choice(len(paths), 300, p=rng.dirichlet(np.full(len(paths), 0.3)))
    return [None if rng.random() < 1 / 9 else " > ".join(paths[i]) for i in drawn]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("min_support", [1, 8, 40])
def test_learned_are_the_nodes_that_enough_products_are_at_or_below(
    seed: int, min_support: int
) -> None:
    labels = labels_of_products(seed)
    task, left_out = learn_task("kind", labels, min_support, " > ")
    counts = Counter(label for label in labels if label is not None)
    support: Counter[Names] = Counter()
    for label, count in counts.items():
        support.update(dict.fromkeys(ancestors(split_path(label, " > ")), count))
    kept = {names for names, n in support.items() if n >= min_support}
    if sum(n for label, n in counts.items() if " > " in label) < min_support:
        assert (task, left_out) == learn_task("kind", labels, min_support)
        return
    assert task.separator == " > "
    # All but leaves that are alone under a node most of whose products are others.
    learned = set(task.tree.names)
    assert learned <= kept
    for names in kept - learned:
        siblings = {other for other in learned if other[: len(names) - 1] == names[:-1]}
        assert siblings == {names[:-1]}
        assert support[names[:-1]] > 2 * support[names]
    leaves = {split_path(label, " > ") for label in task.labels}
    for names in leaves:
        alone = len([other for other in learned if other[:-1] == names[:-1]]) == 1
        assert len(names) == 1 or not alone or support[names[:-1]] <= 2 * support[names]
    assert set(left_out) == {label for label in counts if split_path(label, " > ") not in learned}
    assert all(left_out[label] == counts[label] for label in left_out)
    assert list(left_out.values()) == sorted(left_out.values(), reverse=True)
    for label in left_out:
        (near,) = task.nearest_ids([label]).tolist()
        assert task.label_ids([label]).tolist() == [UNKNOWN_LABEL]
        assert near == UNKNOWN_LABEL or label.startswith(task.nodes[near])


def test_rare_leaf_folds_into_its_ancestor() -> None:
    labels = ["Shoes > Boots"] * 5 + ["Shoes > Clogs"] * 2 + ["Shoes > Mules"] * 2 + ["Bags"] * 4
    task, left_out = learn_task("kind", labels, 4, " > ")
    assert task.labels == ("Bags", "Shoes > Boots")
    assert left_out == {"Shoes > Clogs": 2, "Shoes > Mules": 2}
    assert task.label_ids(["Shoes > Clogs"]).tolist() == [UNKNOWN_LABEL]
    assert task.nearest_ids(["Shoes > Clogs"]).tolist() == task.label_ids(["Shoes"]).tolist() == [2]


def test_rare_leaves_alone_make_their_parent_a_leaf() -> None:
    labels = ["Shoes > Clogs"] * 2 + ["Shoes > Mules"] * 2 + ["Bags > Totes"] * 4
    task, left_out = learn_task("kind", labels, 4, " > ")
    assert task.labels == ("Bags > Totes", "Shoes")
    assert set(left_out) == {"Shoes > Clogs", "Shoes > Mules"}
    assert task.nearest_ids(["Shoes > Clogs"]).tolist() == [1]


def test_labels_without_the_separator_are_flat() -> None:
    task, _ = learn_task("color", ["Red", "Blue", None, "Off/White"] * 3, 2, " > ")
    assert task == Task("color", ("Blue", "Off/White", "Red"))
    assert not task.is_tree
    assert learn_task("color", ["A > B", "C"] * 3, 2)[0] == Task("color", ("A > B", "C"))
    assert learn_task("color", ["A > B", "C"] * 3, 2, " > ")[0].is_tree


def test_labels_that_are_no_paths_or_not_plain_are_left_out_of_a_tree() -> None:
    labels = ["A > x", "A >", "B > \x1by", "B > y", " > "] * 5
    task, left_out = learn_task("kind", labels, 2, " > ")
    assert task.labels == ("A > x", "B > y")
    assert left_out == {"A >": 5, "B > \x1by": 5, " > ": 5}


@pytest.mark.parametrize("seed", range(5))
def test_order_of_the_products_does_not_change_the_tree(seed: int) -> None:
    labels = labels_of_products(seed)
    shuffled = list(labels)
    np.random.default_rng(seed).shuffle(shuffled)
    assert learn_task("kind", labels, 5, ">")[0] == learn_task("kind", shuffled, 5, ">")[0]


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("color", {"color": ("color",)}),
        ("color, pattern", {"color": ("color",), "pattern": ("pattern",)}),
        ("kind=department>category", {"kind": ("department", "category")}),
        (
            " kind = department > sub category ,color,",
            {"kind": ("department", "sub category"), "color": ("color",)},
        ),
        ("color=colour", {"color": ("colour",)}),
        ("kind=a=b>c", {"kind": ("a=b", "c")}),
    ],
)
def test_tasks_are_read_with_their_columns(text: str, columns: dict[str, tuple[str, ...]]) -> None:
    assert parse_tasks(text) == columns
    assert list(parse_tasks(text)) == list(columns)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no task"),
        ("=a>b", "no task"),
        ("kind,kind=a>b", "'kind' twice"),
        ("kind=a>", "names no column"),
        ("kind=a>>b", "names no column"),
        ("kind= ", "names no column"),
        pytest.param(
            "kind=",
            "names no column",
        ),
    ],
)
def test_task_without_name_or_column_is_a_usage_error(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        parse_tasks(text)
    assert caught.value.hint


def tree_config() -> Config:
    """The tiny model with a tree and a rule."""
    return msgspec.structs.replace(
        tiny_config(),
        tasks=(KIND, Task("sleeve", ("Long", "Short")), Task("color", ("Red", "Blue"))),
        applicability=Applicability(task="kind", not_for={"sleeve": ("Bags", "Shoes > Boots")}),
    )


def test_config_with_a_tree_reads_back_equal(tmp_path: Path) -> None:
    write_config(tree_config(), tmp_path / "config.json")
    again = read_config(tmp_path / "config.json")
    assert again == tree_config()
    assert again.tasks[0].tree.names == KIND.tree.names
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["applicability"]["not_for"] == {"sleeve": ["Bags", "Shoes > Boots"]}
    assert [task["separator"] for task in written["tasks"]] == [">", None, None]


def test_config_without_trees_needs_no_word_about_them(tmp_path: Path) -> None:
    document = msgspec.to_builtins(tiny_config())
    del document["applicability"]
    for task in document["tasks"]:
        del task["separator"]
    (tmp_path / "config.json").write_text(json.dumps(document))
    assert read_config(tmp_path / "config.json") == tiny_config()


def kind(**changes: object) -> dict[str, Any]:
    """A change of the first task."""
    return {
        "tasks": [{**msgspec.to_builtins(KIND), **changes}, {"name": "sleeve", "labels": ["L"]}]
    }


def rule(task: str = "kind", **not_for: list[str]) -> dict[str, Any]:
    return {"applicability": {"task": task, "not_for": not_for}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (kind(labels=["A > x", "B", "A > y"]), "'kind': label 'A > y' stands apart"),
        (kind(labels=["A", "A > x"]), "'kind': label 'A' has labels below it"),
        (kind(labels=["A > ", "B"]), "'kind': a label is no path"),
        (kind(labels=["A>x", "A > x"]), "'kind': a label is no path, or stands there twice"),
        (kind(labels=["A > \x1bx", "B"]), "control characters"),
        (kind(separator=""), "'kind': empty separator"),
        (kind(separator=5), "separator"),
        (rule("shape"), "no task 'shape'"),
        (rule(shape=["Bags"]), "no other task 'shape'"),
        (rule(kind=["Bags"]), "no other task 'kind'"),
        (rule(sleeve=["Bags", "Hats"]), "'kind' has no node 'Hats'"),
        (rule(sleeve=["Boots"]), "'kind' has no node 'Boots'"),
        ({"applicability": {"task": "kind", "notfor": {}}}, "unknown field `notfor`"),
        ({"applicability": {"not_for": {}}}, "missing required field `task`"),
    ],
    ids=str,
)
def test_config_that_contradicts_itself_is_refused(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    document = msgspec.to_builtins(tree_config())
    if "tasks" in change:
        document["applicability"] = None
    (tmp_path / "config.json").write_text(json.dumps(document | change))
    with pytest.raises(ModelError) as caught:
        read_config(tmp_path / "config.json")
    assert words in caught.value.message
    assert str(tmp_path / "config.json") in caught.value.message


@pytest.mark.parametrize(
    ("label", "separator", "names"),
    [
        ("Apparel - Shirts - T-Shirts", " - ", ("Apparel", "Shirts", "T-Shirts")),
        ("Handbags", " and ", ("Handbags",)),
        ("Bags and Sandals", " and ", ("Bags", "Sandals")),
        ("Bags>Totes |x", " > ", ("Bags", "Totes |x")),
        ("Bags/Totes", " / ", ("Bags", "Totes")),
    ],
)
def test_separator_that_may_stand_inside_of_words_is_taken_as_it_is(
    label: str, separator: str, names: Names
) -> None:
    assert split_path(label, separator) == names


@pytest.mark.parametrize("odd", ["x > y", "1 > 2", "> 3"])
def test_a_few_odd_labels_make_no_tree_of_a_flat_task(odd: str) -> None:
    labels = ["Red", "> 5 kg"] * 10 + [odd]
    task, left_out = learn_task("color", labels, 8, " > ")
    assert task == Task("color", ("> 5 kg", "Red"))
    assert left_out == {odd: 1}


def test_task_without_a_name_before_its_columns_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="names no task"):
        parse_tasks("=department>category,color")


def test_departments_with_enough_products_are_learned_though_all_leaves_are_rare() -> None:
    labels = [f"{top} > {top[0]}{number}" for top in ("Shoes", "Bags") for number in range(100)]
    task, left_out = learn_task("kind", labels, 8, " > ")
    assert task == Task("kind", ("Bags", "Shoes"), " > ")
    assert len(left_out) == 200
    assert set(task.nearest_ids(labels).tolist()) == {0, 1}


def test_ends_of_paths_tell_them_apart() -> None:
    paths = [("a", "b", "c"), ("x", "b", "c"), ("x", "b", "d"), ("c",)]
    assert distinct_ends(paths) == [("a", "b", "c"), ("x", "b", "c"), ("d",), ("c",)]
    assert distinct_ends([("a",), ("a",)]) == [("a",), ("a",)]
