"""Which tasks apply to which products: a sleeve length is nothing that a shoe has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tagger.config import Applicability, Config
from tagger.scrub import giveaways, says_none_of, words_of
from tagger.tasks import Task
from tagger.taxonomy import Taxonomy
from tagger.tree import NO_NODE, Ids, Tree

MAX_SHARE = 0.02
"""Share of products with a label, or named by their title, up to which a task does not apply to a
node: feeds have such things filled in by mistake."""
CERTAINTY = 0.95
"""Of the bounds on that share (Clopper and Pearson 1934)."""

Bools = NDArray[np.bool_]


def learn_applicability(
    tasks: Sequence[Task],
    labels: Mapping[str, Sequence[str | None]],
    titles: Sequence[str | None],
    stated: Mapping[str, Ids] | None = None,
) -> Applicability | None:
    """From the training catalog: which tasks have labels on which nodes of its first tree.

    Missing is not the same as not applicable. A product is evidence that a task applies if it has a
    label for it, or if its title names one: many shops fill in no pattern for kurtas, and sell
    "Printed Kurtas". A task is said not to apply to a node only where the share of such products
    is, with CERTAINTY, at most MAX_SHARE (of 149 products none, of 236 one); where it is above, the
    task applies, though most may lack it. Where there are too few products to tell, the node goes
    with its parent, and at the top the task applies.

    Args:
        labels: per task (n,) the labels of the training products.
        titles: (n,) theirs.
        stated: per task (leaves,) whether it applies: 1 or 0 where a taxonomy says so, whatever the
            catalog says, and -1 where it does not.

    Returns:
        None where no task is a tree, or every task applies to everything.
    """
    deciding = next((task for task in tasks if task.is_tree), None)
    if deciding is None:
        return None
    nodes = deciding.nearest_ids(labels[deciding.name])
    not_for: dict[str, tuple[str, ...]] = {}
    for task in tasks:
        if task is deciding:
            continue
        filled = np.array([label is not None for label in labels[task.name]])
        evidence = filled | names_label(task, titles)
        applies = applies_to_leaves(deciding.tree, nodes, evidence)
        if stated is not None and task.name in stated:
            applies = np.where(stated[task.name] >= 0, stated[task.name] == 1, applies)
        if excluded := topmost(deciding.tree, ~applies):
            not_for[task.name] = tuple(deciding.nodes[node] for node in excluded)
    return Applicability(task=deciding.name, not_for=not_for) if not_for else None


def stated_applicability(tasks: Sequence[Task], taxonomy: Taxonomy | None) -> dict[str, Ids]:
    """Per task that `taxonomy` names as an attribute: (leaves of the first task,) 1 where it
    applies, 0 where it does not, -1 where neither the leaf nor what it stands under has a list."""
    if taxonomy is None:
        return {}
    leaves = tasks[0].tree.names[: tasks[0].tree.num_leaves]
    said = {task.name: [taxonomy.allows(leaf, task.name) for leaf in leaves] for task in tasks}
    stated = {
        name: np.array([-1 if known is None else int(known) for known in by_leaf], dtype=np.int64)
        for name, by_leaf in said.items()
    }
    return {name: by_leaf for name, by_leaf in stated.items() if (by_leaf >= 0).any()}


def names_label(task: Task, titles: Sequence[str | None]) -> Bools:
    """(n,) whether a title holds every word of one of the labels, in any spelling; of a path, every
    word of its last name."""
    # By the spellings of its first word, so that a title is not held against every label.
    by_first: dict[str, list[list[frozenset[str]]]] = {}
    single: set[str] = set()
    for *_, name in task.tree.names:
        spellings = [giveaways([word]) for word in words_of(name)]
        if len(spellings) == 1:
            single |= spellings[0]
        elif spellings:
            for first in spellings[0]:
                by_first.setdefault(first, []).append(spellings)
    alone = frozenset(single)

    def names(title: str) -> bool:
        if not says_none_of(alone, title):
            return True
        there = set(words_of(title))
        candidates = (spellings for word in there for spellings in by_first.get(word, ()))
        return any(all(there & spelling for spelling in spellings) for spellings in candidates)

    known = {title: names(title) for title in set(titles) if title is not None}
    return np.array([title is not None and known[title] for title in titles])


def applies_to_leaves(tree: Tree, nodes: NDArray[np.int64], evidence: Bools) -> Bools:
    """(leaves,) whether a task applies, as `learn_applicability` tells it.

    Args:
        nodes: (n,) node of each product, negative where it is not known.
        evidence: (n,) whether it speaks for the task.
    """
    from scipy.stats import beta

    known = nodes >= 0
    at = tree.lineage[nodes[known]]
    below = at[at != NO_NODE]
    count = np.bincount(below, minlength=len(tree))
    hits = np.bincount(below, np.repeat(evidence[known], (at != NO_NODE).sum(1)), len(tree))
    misses = count - hits
    with np.errstate(invalid="ignore"):
        low = np.where(hits > 0, beta.ppf(1 - CERTAINTY, hits, misses + 1), 0.0)
        high = np.where(misses > 0, beta.ppf(CERTAINTY, hits + 1, misses), 1.0)
    applies = np.ones(len(tree), dtype=bool)
    for node in np.argsort(tree.depths, kind="stable").tolist():
        parent = tree.parents[node]
        inherited = True if parent == NO_NODE else applies[parent]
        applies[node] = inherited if low[node] <= MAX_SHARE < high[node] else high[node] > MAX_SHARE
    return applies[: tree.num_leaves]


def topmost(tree: Tree, leaves: Bools) -> list[int]:
    """The fewest nodes whose leaves are those of the mask `leaves`."""
    whole = np.array([bool(leaves[first:end].all()) for first, end in tree.spans])
    covered = np.array([p != NO_NODE and whole[p] for p in tree.parents.tolist()])
    return np.flatnonzero(whole & ~covered).tolist()


def mask(config: Config, name: str) -> Bools | None:
    """(leaves of the deciding task,) whether task `name` applies; None if it applies to all."""
    rule = config.applicability
    if rule is None or name not in rule.not_for:
        return None
    deciding = next(task for task in config.tasks if task.name == rule.task)
    return ~_below(deciding, rule.not_for[name])


def _below(task: Task, nodes: Iterable[str]) -> Bools:
    """(leaves,) those below one of `nodes`."""
    found = np.zeros(task.tree.num_leaves, dtype=bool)
    for first, end in task.tree.spans[task.label_ids(nodes)]:
        found[first:end] = True
    return found
