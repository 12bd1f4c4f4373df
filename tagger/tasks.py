"""A task: its name and its ordered labels, flat or a tree; the order is that of the logits."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property

import msgspec
import numpy as np

from tagger.errors import UsageError
from tagger.tree import NO_NODE, Ids, Names, Tree, split_path

UNLABELED = -1
"""label_id of a product without a label: it does not count for the task."""
UNKNOWN_LABEL = -2
"""label_id of a label that the model does not know: it counts as wrong in `eval`."""
NO_ANSWER = -3
"""label_id predicted for a product that a view leaves without any modality; never right."""


class Task(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """One attribute to fill, such as color. `labels[i]` is the label of logit i.

    With a `separator` labels are paths, the leaves of a tree in its order, and their ancestors can
    be answers, too. A label_id is the id of a node of `tree`.
    """

    name: str
    labels: tuple[str, ...]
    separator: str | None = None

    @cached_property
    def tree(self) -> Tree:
        """Raises:
        ValueError: see `Tree`.
        """
        return Tree(self.labels, self.separator)

    @cached_property
    def nodes(self) -> tuple[str, ...]:
        """The label of each label_id: `labels`, then inner nodes."""
        inner = self.tree.names[len(self.labels) :]
        return (*self.labels, *((self.separator or "").join(names) for names in inner))

    @cached_property
    def _ids(self) -> dict[str, int]:
        """The label_id of each node as it is written, so that few labels need to be split."""
        return {label: i for i, label in enumerate(self.nodes)}

    @property
    def is_tree(self) -> bool:
        """Whether labels are paths."""
        return self.separator is not None

    def label_ids(self, labels: Iterable[str | None]) -> Ids:
        """The label_id of each (n,): UNLABELED for None, UNKNOWN_LABEL for one that is no node."""
        return np.array([self._look_up(label, nearest=False) for label in labels], dtype=np.int64)

    def nearest_ids(self, labels: Iterable[str | None]) -> Ids:
        """As `label_ids`, but the nearest ancestor that is a node stands for an unknown label."""
        return np.array([self._look_up(label, nearest=True) for label in labels], dtype=np.int64)

    def _look_up(self, label: str | None, nearest: bool) -> int:
        if label is None:
            return UNLABELED
        if label in self._ids:
            return self._ids[label]
        names = split_path(label, self.separator)
        found = self.tree.deepest(names) if nearest else self.tree.find(names)
        return UNKNOWN_LABEL if found == NO_NODE else found


def learn_task(
    name: str, labels: Iterable[str | None], min_support: int, separator: str | None = None
) -> tuple[Task, dict[str, int]]:
    """The task made of the labels that at least `min_support` products carry, in sorted order.

    With `separator`, of the nodes that at least as many products carry themselves or below; a task
    with fewer products than that whose label holds it is flat. A leaf that is alone under a node
    most of whose products are others is not learned either: all of them would count as it. Also
    returns the labels left out with their number of products; those with control characters are
    among them, for a label is printed on terminals and in reports.
    """
    counts = Counter(label for label in labels if label is not None)
    if sum(n for label, n in counts.items() if len(split_path(label, separator)) > 1) < min_support:
        separator = None
    below: Counter[Names] = Counter()
    for label, count in counts.items():
        names = split_path(label, separator)
        below.update({names[: k + 1]: count for k in range(len(names)) if is_plain(label)})
    kept = {names for names, count in below.items() if count >= min_support}
    children = Counter(names[:-1] for names in kept)
    for names in sorted(kept, key=len, reverse=True):  # from the leaves up
        parent = names[:-1]
        is_leaf_alone = parent and children[parent] == 1 and not children[names]
        if is_leaf_alone and below[parent] > 2 * below[names]:
            kept.remove(names)
            children[parent] = 0
    task = Task(name, join_leaves(list(kept), separator), separator)
    missed = [i < 0 for i in task.label_ids(counts)]
    left_out = {label: n for (label, n), out in zip(counts.items(), missed, strict=True) if out}
    return task, dict(sorted(left_out.items(), key=lambda item: -item[1]))


def join_leaves(nodes: Sequence[Names], separator: str | None) -> tuple[str, ...]:
    """Those of `nodes` that are no ancestor of another, as labels in the order of a tree."""
    inner = {names[:end] for names in nodes for end in range(1, len(names))}
    leaves = sorted(set(nodes) - inner)
    return tuple((separator or "").join(names) for names in leaves)


def label_of(text: str) -> str:
    """`text` in composed characters (NFC) and without space around it, so that one label is not
    two."""
    return unicodedata.normalize("NFC", text).strip()


def is_plain(text: str) -> bool:
    """Whether `text` is free of control characters and of bytes that were not UTF-8."""
    return "\ufffd" not in text and not any(
        unicodedata.category(character) in ("Cc", "Cs") for character in text
    )


def parse_tasks(text: str) -> dict[str, tuple[str, ...]]:
    """Each task with the columns that hold its labels, level by level.

    'color,kind=department>category' -> {'color': ('color',), 'kind': ('department', 'category')}

    Raises:
        UsageError: no name, one name twice, or a task without columns behind its "=".
    """
    columns: dict[str, tuple[str, ...]] = {}
    parts = [part.partition("=") for part in text.split(",")]
    if nameless := [f"={given}" for name, mark, given in parts if mark and not name.strip()]:
        raise UsageError(
            f"--tasks {nameless[0]} names no task", "for example kind=department>category"
        )
    for name in parse_names(",".join(name for name, _, _ in parts)):
        mark, given = next((mark, levels) for task, mark, levels in parts if task.strip() == name)
        columns[name] = tuple(level.strip() for level in given.split(">")) if mark else (name,)
        if not all(columns[name]):
            raise UsageError(
                f"--tasks {name}={given} names no column", "for example kind=department>category"
            )
    return columns


def parse_asked(text: str) -> dict[str, tuple[str, ...] | None]:
    """Each task of `predict`, with the labels to choose from or None for those that the model has.

    'color,neckline=v-neck,crew neck' -> {'color': None, 'neckline': ('v-neck', 'crew neck')}: what
    follows a "=" are labels, up to the next task with a "=".

    Raises:
        UsageError: no name, one name twice, or labels that are not two different ones at least.
    """
    names: list[str] = []
    labels: dict[str, list[str]] = {}
    for part in text.split(","):
        name, mark, first = (piece.strip() for piece in part.partition("="))
        if mark:
            names.append(name or "=")
            labels[names[-1]] = [first]
        elif labels:
            labels[names[-1]].append(part.strip())
        else:
            names.append(name)  # as it is: a task is called what its column is
    asked: dict[str, tuple[str, ...] | None] = {}
    for name in parse_names(",".join(names)):
        if name == "=":
            raise UsageError(f"--tasks {text!r} names no task", _ASKED)
        given = [label for label in labels.get(name, []) if label]
        asked[name] = asked_labels(name, given) if name in labels else None
    return asked


_ASKED = "for example neckline=v-neck,crew neck,boat neck"


def asked_labels(name: str, labels: Iterable[str]) -> tuple[str, ...]:
    """`labels` to choose from for task `name`, as they are read from a catalog.

    Raises:
        UsageError: they are not two different ones at least, or it is no name of a task.
    """
    if (
        not isinstance(name, str)
        or name in ("", "image", "title")
        or name != name.strip()
        or "," in name
        or "=" in name
        or not is_plain(name)
    ):
        raise UsageError(
            f"no task can be called {name!r}",
            "leave out commas, =, control characters, and space around the name; image and title "
            "have columns of that name",
        )
    given = [labels] if isinstance(labels, str) or not isinstance(labels, Iterable) else [*labels]
    if not all(isinstance(label, str) and label.strip() for label in given):
        raise UsageError(f"{name}={given!r} has a label that is no text", _ASKED)
    read = tuple(map(label_of, given))
    if len(read) < 2 or len(set(read)) < len(read):
        raise UsageError(
            f"{name}={','.join(given)} gives less than two labels, or one twice", _ASKED
        )
    if not all(is_plain(label) for label in read):
        raise UsageError(f"{name}={given!r} has control characters in a label", _ASKED)
    return read


def parse_names(text: str, option: str = "--tasks") -> list[str]:
    """'color, pattern' -> ['color', 'pattern']; `option` is what errors call the text.

    Raises:
        UsageError: no name, or one name twice.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UsageError(f"{option} names no task", "for example --tasks color,pattern")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UsageError(f"{option} names {twice[0]!r} twice", "name each task once")
    if taken := [name for name in names if name in ("image", "title")]:
        raise UsageError(
            f"a task {taken[0]!r} would put out {taken[0]}_status, and that is a column already",
            f"call the task otherwise; train and eval take NAME={taken[0]} for the column",
        )
    return names
