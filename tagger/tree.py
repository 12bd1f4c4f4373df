"""A task's labels as a tree: paths, ancestors, and a parent as the sum of its children."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from itertools import takewhile

import numpy as np
from numpy.typing import NDArray

NO_NODE = -1
"""Where a chain has ended."""

Names = tuple[str, ...]
"""A node: the names from the top down to it."""
Ids = NDArray[np.int64]
Floats = NDArray[np.float64]


def split_path(label: str, separator: str | None) -> Names:
    """'Shoes > Sneakers' -> ('Shoes', 'Sneakers'); space around the names does not count.

    Space around a sign such as > counts neither; a separator that may stand inside of words, as in
    " - " or " and ", is taken as it is. Without `separator` the label is one name. Empty for a
    label without any name, or with an empty one between two others.
    """
    if separator is None:
        return (label,)
    sign = separator.strip()
    in_words = not sign or any(mark.isalnum() or mark in "-'&._" for mark in sign)
    names = tuple(name.strip() for name in label.split(separator if in_words else sign))
    return names if all(names) else ()


def common_path(paths: Sequence[Names]) -> Names:
    """The deepest node that is on all `paths`; empty where they differ at the top."""
    same = takewhile(lambda names: len(set(names)) == 1, zip(*paths, strict=False))
    return tuple(names[0] for names in same)


def distinct_ends(paths: Sequence[Names]) -> list[Names]:
    """Of each path its last names, as many as tell it apart from the others."""
    lengths = [1] * len(paths)
    while True:
        ends = [own[-n:] for own, n in zip(paths, lengths, strict=True)]
        count = Counter(ends)
        longer = [
            n + (count[end] > 1 and n < len(own))
            for end, own, n in zip(ends, paths, lengths, strict=True)
        ]
        if longer == lengths:
            return ends
        lengths = longer


class Tree:
    """The nodes of a task. Ids 0 to num_leaves - 1 are its labels, which are leaves, in the order
    of the logits; inner nodes follow, parents first. A flat task is a tree of one level.

    The leaves of a node lie side by side: `spans[node]` is the first of them and the one behind the
    last. `parents[node]` is NO_NODE at the top; `depths[node]` is 1 there.
    """

    def __init__(self, labels: Sequence[str], separator: str | None) -> None:
        """Raises:
        ValueError: a label that is no path, that is an ancestor of another, or that stands apart
            from its siblings.
        """
        leaves = [split_path(label, separator) for label in labels]
        ids: dict[Names, int] = {names: i for i, names in enumerate(leaves)}
        if () in ids or len(ids) < len(leaves):
            raise ValueError("a label is no path, or stands there twice")
        spans = [(i, i + 1) for i in range(len(leaves))]
        for leaf, names in enumerate(leaves):
            for end in range(1, len(names)):
                node = ids.setdefault(names[:end], len(ids))
                if node < len(leaves):
                    raise ValueError(f"label {labels[node]!r} has labels below it")
                if node == len(spans):
                    spans.append((leaf, leaf))
                if spans[node][1] != leaf:
                    raise ValueError(f"label {labels[leaf]!r} stands apart from its siblings")
                spans[node] = (spans[node][0], leaf + 1)
        self.num_leaves = len(leaves)
        self.names: tuple[Names, ...] = tuple(ids)
        self.spans: Ids = np.array(spans, dtype=np.int64).reshape(-1, 2)
        self.depths: Ids = np.array([len(names) for names in ids], dtype=np.int64)
        self.parents: Ids = np.array(
            [ids[names[:-1]] if len(names) > 1 else NO_NODE for names in ids], dtype=np.int64
        )
        self._ids = ids

    def __len__(self) -> int:
        return len(self.names)

    @property
    def depth(self) -> int:
        """Levels of the deepest leaf."""
        return int(self.depths.max())

    def find(self, names: Names) -> int:
        """The id of a node; NO_NODE if it is not one."""
        return self._ids.get(names, NO_NODE)

    def deepest(self, names: Names) -> int:
        """The id of the node `names`, or of its nearest ancestor in the tree; NO_NODE if none."""
        ends = range(len(names), 0, -1)
        return next((self._ids[names[:end]] for end in ends if names[:end] in self._ids), NO_NODE)

    @cached_property
    def lineage(self) -> Ids:
        """(nodes, depth) ids of the ancestors of each node from the top, itself the last, then
        NO_NODE."""
        found = np.full((len(self), self.depth), NO_NODE, dtype=np.int64)
        for node in np.argsort(self.depths, kind="stable").tolist():
            level = int(self.depths[node]) - 1
            if level:
                found[node, :level] = found[self.parents[node], :level]
            found[node, level] = node
        return found

    def sums(self, leaves: Floats) -> Floats:
        """(n, nodes) from the probabilities of (n, leaves): each node has the sum of its leaves."""
        if len(self) == self.num_leaves:
            return leaves
        total = np.cumsum(leaves, axis=1)
        total = np.concatenate([np.zeros((len(leaves), 1)), total], axis=1)
        inner = self.spans[self.num_leaves :]
        parents = total[:, inner[:, 1]] - total[:, inner[:, 0]]
        return np.concatenate([leaves, parents], axis=1)
