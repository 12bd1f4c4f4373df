"""Which tasks apply to what: what is missing is not always what does not exist."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from scipy.stats import binom

from tagger.applicability import (
    applies_to_leaves,
    learn_applicability,
    mask,
    names_label,
    stated_applicability,
    topmost,
)
from tagger.config import Applicability
from tagger.tasks import Task
from tagger.taxonomy import Taxonomy, read_taxonomy

from .conftest import tiny_config
from .test_tree import random_task

KIND = Task("kind", ("Bags", "Clothing > Dresses", "Clothing > Shirts", "Shoes > Boots"), " > ")
SLEEVE = Task("sleeve", ("3/4 Sleeve", "Long", "Short"))
ENOUGH = 149
"""Products without any evidence that show, with certainty 95%, a share of at most 2%."""

Group = tuple[str | None, int, int]
"""Products of one node: its label, how many there are, how many have a label of the task."""


def learned(groups: Sequence[Group], title: str = "a thing") -> Applicability | None:
    """What is learned of SLEEVE from such products, all with the same title."""
    kinds = [kind for kind, count, _ in groups for _ in range(count)]
    filled = [n < hits for _, count, hits in groups for n in range(count)]
    labels: dict[str, Sequence[str | None]] = {
        "kind": kinds,
        "sleeve": ["Long" if there else None for there in filled],
    }
    return learn_applicability((KIND, SLEEVE), labels, [title] * len(kinds))


def not_for(groups: Sequence[Group], title: str = "a thing") -> tuple[str, ...]:
    """The nodes that SLEEVE is said not to apply to."""
    rule = learned(groups, title)
    return () if rule is None else rule.not_for["sleeve"]


SHIRTS: Group = ("Clothing > Shirts", 300, 300)


def test_task_that_enough_products_of_a_node_lack_does_not_apply_to_it() -> None:
    rule = learned([SHIRTS, ("Bags", ENOUGH, 0)])
    assert rule == Applicability(task="kind", not_for={"sleeve": ("Bags",)})
    assert learned([SHIRTS, ("Bags", ENOUGH - 1, 0)]) is None


@pytest.mark.parametrize(("hits", "enough"), [(0, 149), (1, 236), (2, 313)])
def test_products_that_suffice_are_those_of_the_binomial_tail(hits: int, enough: int) -> None:
    """With a share of 2%, so few hits would be seen in less than one of twenty catalogs."""
    assert binom.cdf(hits, enough, 0.02) <= 0.05 < binom.cdf(hits, enough - 1, 0.02)
    assert not_for([SHIRTS, ("Bags", enough, hits)]) == ("Bags",)
    assert not_for([SHIRTS, ("Bags", enough - 1, hits)]) == ()


@pytest.mark.parametrize("count", [40, 400, 4000])
@pytest.mark.parametrize("rate", [0.05, 0.5, 0.95])
def test_task_that_is_seldom_filled_in_applies_all_the_same(count: int, rate: float) -> None:
    assert not_for([SHIRTS, ("Bags", count, round(rate * count))]) == ()


def test_task_that_is_filled_in_by_mistake_does_not_apply() -> None:
    assert not_for([SHIRTS, ("Bags", 4000, 40)]) == ("Bags",)


@pytest.mark.parametrize("title", ["Tote, long, black", "LONGS for all", "bag with 3/4-sleeves"])
def test_titles_that_name_a_label_keep_the_task(title: str) -> None:
    assert not_for([SHIRTS, ("Bags", 1000, 0)], title) == ()
    assert not_for([SHIRTS, ("Bags", 1000, 0)], "belonging to a sleeve of 3") == ("Bags",)


def test_node_with_few_products_goes_with_its_parent() -> None:
    excluded = [SHIRTS, ("Shoes > Boots", 5, 0), ("Shoes", ENOUGH - 5, 0)]
    assert not_for(excluded) == ("Shoes",)
    assert not_for([SHIRTS, ("Shoes > Boots", 5, 0), ("Shoes", 20, 0)]) == ()
    # Dresses alone are too few, and clothing as a whole has sleeves.
    assert not_for([SHIRTS, ("Clothing > Dresses", ENOUGH - 1, 0)]) == ()
    assert not_for([SHIRTS, ("Clothing > Dresses", ENOUGH, 0)]) == ("Clothing > Dresses",)


def test_child_may_have_what_its_parent_as_a_whole_lacks() -> None:
    """In 10,000 pieces of clothing the 50 shirts do not show."""
    groups: list[Group] = [("Clothing > Dresses", 10_000, 0), ("Clothing > Shirts", 50, 50)]
    assert not_for([*groups, ("Bags", 300, 300)]) == ("Clothing > Dresses",)


def test_products_of_unknown_kind_say_nothing() -> None:
    groups = [SHIRTS, ("Bags", ENOUGH, 0)]
    others: list[Group] = [(None, 500, 500), ("Hats", 500, 500)]
    assert not_for([*groups, *others]) == not_for(groups) == ("Bags",)


def test_product_of_an_unknown_leaf_counts_for_the_ancestor_that_is_known() -> None:
    assert not_for([SHIRTS, ("Shoes > Clogs", ENOUGH, 0)]) == ("Shoes",)


def test_without_a_tree_or_without_anything_excluded_there_is_no_rule() -> None:
    labels: dict[str, Sequence[str | None]] = {"color": ["Red"] * 400, "sleeve": [None] * 400}
    flat = Task("color", ("Red", "Blue"))
    assert learn_applicability((flat, SLEEVE), labels, [None] * 400) is None
    assert learned([SHIRTS, ("Bags", 300, 300)]) is None


def test_first_tree_decides_and_every_other_task_has_its_own_nodes() -> None:
    where = Task("where", ("Top > a", "Top > b"), " > ")
    tasks = (SLEEVE, KIND, where, Task("color", ("Red", "Blue")))
    labels: dict[str, Sequence[str | None]] = {
        "kind": ["Bags"] * 200 + ["Clothing > Shirts"] * 200,
        "sleeve": [None] * 200 + ["Long"] * 200,
        "where": ["Top > a"] * 200 + [None] * 200,
        "color": ["Red"] * 400,
    }
    rule = learn_applicability(tasks, labels, ["thing"] * 400)
    assert rule is not None
    assert rule.task == "kind"
    # Of dresses nothing is known but that they are clothing.
    assert rule.not_for == {"sleeve": ("Bags",), "where": ("Clothing",)}


@pytest.mark.parametrize("seed", range(20))
def test_topmost_are_the_fewest_nodes_that_cover_the_leaves(seed: int) -> None:
    tree = random_task(seed).tree
    rng = np.random.default_rng(seed)
    leaves = np.zeros(tree.num_leaves, dtype=bool)
    for node in rng.choice(len(tree), 1 + seed % 4):
        leaves[slice(*tree.spans[node])] = True
    found = topmost(tree, leaves)
    covered = [leaf for node in found for leaf in range(*tree.spans[node])]
    assert sorted(covered) == np.flatnonzero(leaves).tolist(), "each once, and no other"
    inside = {node for node, (first, end) in enumerate(tree.spans) if leaves[first:end].all()}
    # A node of the answer below another one inside could be left out.
    assert not [node for node in found if tree.parents[node] in inside]


def test_topmost_of_no_leaf_and_of_all() -> None:
    assert topmost(KIND.tree, np.zeros(4, dtype=bool)) == []
    tops = [KIND.nodes[node] for node in topmost(KIND.tree, np.ones(4, dtype=bool))]
    assert sorted(tops) == ["Bags", "Clothing", "Shoes"]


@pytest.mark.parametrize("seed", range(10))
def test_leaves_are_decided_by_the_nearest_ancestor_with_enough_products(seed: int) -> None:
    tree = random_task(seed).tree
    rng = np.random.default_rng(seed)
    rate = rng.choice([0, 0, 0.01, 0.3], len(tree))
    nodes = rng.choice(len(tree), 6000, p=rng.dirichlet(np.full(len(tree), 0.5)))
    evidence = rng.random(6000) < rate[nodes]
    found = applies_to_leaves(tree, nodes, evidence)
    for leaf in range(tree.num_leaves):
        for node in tree.lineage[leaf, : tree.depths[leaf]][::-1]:
            below = (tree.lineage[nodes] == node).any(1)
            count, hits = int(below.sum()), int(evidence[below].sum())
            if binom.cdf(hits, count, 0.02) <= 0.05:  # so few
                assert not found[leaf]
                break
            if binom.sf(hits - 1, count, 0.02) < 0.05:  # so many
                assert found[leaf]
                break
        else:
            assert found[leaf]


def taxonomy(folder: Path, rows: str) -> Taxonomy:
    path = folder / "taxonomy.csv"
    path.write_text(f"parent,child,attributes\n{rows}")
    return read_taxonomy(path)


ROWS = """,Bags,
,Clothing,Sleeve;Size
Clothing,Dresses,
Clothing,Shirts,
,Shoes,Size
Shoes,Boots,
"""


def test_what_a_taxonomy_states_is_not_learned(tmp_path: Path) -> None:
    size = Task("size", ("L", "M"))
    color = Task("color", ("Red", "Blue"))
    stated = stated_applicability((KIND, SLEEVE, size, color), taxonomy(tmp_path, ROWS))
    assert {name: leaves.tolist() for name, leaves in stated.items()} == {
        "sleeve": [-1, 1, 1, 0],
        "size": [-1, 1, 1, 1],
    }
    labels: dict[str, Sequence[str | None]] = {
        "kind": ["Shoes > Boots"] * 300 + ["Clothing > Shirts"] * 300,
        "sleeve": ["Long"] * 300 + [None] * 300,  # against what is stated
        "size": ["M"] * 600,
        "color": [None] * 300 + ["Red"] * 300,  # of which nothing is stated
    }
    rule = learn_applicability((KIND, SLEEVE, size, color), labels, [None] * 600, stated)
    assert rule is not None
    assert {name: set(nodes) for name, nodes in rule.not_for.items()} == {
        "sleeve": {"Shoes"},
        "color": {"Shoes"},
    }
    learned = learn_applicability((KIND, SLEEVE), labels, [None] * 600)
    assert learned is not None
    assert learned.not_for == {"sleeve": ("Clothing",)}


def test_what_a_taxonomy_leaves_open_is_learned(tmp_path: Path) -> None:
    stated = stated_applicability((KIND, SLEEVE), taxonomy(tmp_path, ROWS))
    for count, excluded in ((ENOUGH, {"Bags", "Shoes"}), (ENOUGH - 1, {"Shoes"})):
        kinds = ["Bags"] * count + ["Shoes > Boots"] * 300
        labels: dict[str, Sequence[str | None]] = {
            "kind": kinds,
            "sleeve": [None] * count + ["Long"] * 300,
        }
        rule = learn_applicability((KIND, SLEEVE), labels, [None] * len(kinds), stated)
        assert rule is not None
        assert set(rule.not_for["sleeve"]) == excluded


def test_without_a_taxonomy_nothing_is_stated(tmp_path: Path) -> None:
    assert stated_applicability((KIND, SLEEVE), None) == {}
    silent = taxonomy(tmp_path, ROWS.replace("Sleeve;Size", "").replace("Size", ""))
    assert stated_applicability((KIND, SLEEVE), silent) == {}


@pytest.mark.parametrize(
    ("title", "named"),
    [
        ("Shirt with 3/4 sleeves", True),
        ("Sleeve 4, 3 pack", True),
        ("3/4 trousers", False),
        ("sleeve for a laptop", False),
        ("shirt", False),
        ("long shirt", True),
        ("LONG-shirt", True),
        ("longing", True),
        ("belong to me", False),
        ("", False),
        (None, False),
    ],
)
def test_title_names_a_label_if_it_holds_all_its_words(title: str | None, named: bool) -> None:
    assert names_label(SLEEVE, [title, "x", title]).tolist() == [named, False, named]


def test_title_names_a_node_of_a_tree_by_the_words_of_its_last_name() -> None:
    pattern = Task("pattern", ("Graphic > Big Stripes", "Graphic > Dots", "Plain"), " > ")
    titles = ["Big striped kurta", "a dot", "graphic tee", "striped kurta", "kurta"]
    assert names_label(pattern, titles).tolist() == [True, True, True, False, False]


def test_labels_without_words_are_named_by_no_title() -> None:
    assert names_label(Task("x", ("-", "!?")), ["- !?", "a"]).tolist() == [False, False]
    assert names_label(Task("size", ("XL", "of")), ["xl", "of it"]).tolist() == [True, True]
    assert names_label(Task("color", ("红色", "蓝色")), ["红色牛仔裤", "白色"]).tolist() == [
        True,
        False,
    ]


def test_mask_is_of_the_leaves_below_the_nodes_of_the_rule() -> None:
    rule = Applicability(task="kind", not_for={"sleeve": ("Bags", "Clothing > Shirts", "Shoes")})
    config = msgspec.structs.replace(
        tiny_config(), tasks=(KIND, SLEEVE, Task("size", ("M", "L"))), applicability=rule
    )
    found = mask(config, "sleeve")
    assert found is not None
    assert found.tolist() == [False, True, False, False]
    assert mask(config, "size") is None
    assert mask(config, "kind") is None
    assert mask(tiny_config(), "color") is None
