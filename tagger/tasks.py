"""A task: its name and its ordered labels; the order is the order of the logits."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable

import msgspec

from tagger.errors import UsageError

UNLABELED = -1
"""label_id of a product without a label: it does not count for the task."""
UNKNOWN_LABEL = -2
"""label_id of a label that the model does not know: it counts as wrong in `eval`."""
NO_ANSWER = -3
"""label_id predicted for a product that a view leaves without any modality; never right."""


class Task(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One attribute to fill, such as color. `labels[i]` is the label of logit i."""

    name: str
    labels: tuple[str, ...]

    def label_id(self, label: str | None) -> int:
        """Position of `label`; UNLABELED for None, UNKNOWN_LABEL for one not in `labels`."""
        if label is None:
            return UNLABELED
        try:
            return self.labels.index(label)
        except ValueError:
            return UNKNOWN_LABEL

    def label_ids(self, labels: Iterable[str | None]) -> list[int]:
        """`label_id` of each, with one dictionary for all."""
        position = {label: i for i, label in enumerate(self.labels)}
        return [
            UNLABELED if label is None else position.get(label, UNKNOWN_LABEL) for label in labels
        ]


def learn_task(
    name: str, labels: Iterable[str | None], min_support: int
) -> tuple[Task, dict[str, int]]:
    """The task made of the labels that at least `min_support` products carry, in sorted order.

    Also returns the labels left out with their number of products; those with control characters
    are among them, for a label is printed on terminals and in reports.
    """
    counts = Counter(label for label in labels if label is not None)
    kept = tuple(
        sorted(label for label, count in counts.items() if count >= min_support and is_plain(label))
    )
    left_out = {label: count for label, count in counts.items() if label not in kept}
    return Task(name, kept), dict(sorted(left_out.items(), key=lambda item: -item[1]))


def is_plain(text: str) -> bool:
    """Whether `text` is free of control characters and of bytes that are not UTF-8."""
    return not any(unicodedata.category(character) in ("Cc", "Cs") for character in text)


def parse_names(text: str) -> list[str]:
    """'color, pattern' -> ['color', 'pattern'].

    Raises:
        UsageError: no name, or one name twice.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UsageError("--tasks names no task", "for example --tasks color,pattern")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UsageError(f"--tasks names {twice[0]!r} twice", "name each task once")
    return names
