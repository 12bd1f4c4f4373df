"""What people see of pictures that could not be used, and where they were looked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tagger.console import say, say_bad
from tagger.images import ImageSource, read_image

_LOST = ("not_found", "outside_root")


def say_pictures(
    statuses: Mapping[Any, int],
    root: Path,
    examples: Mapping[str, Sequence[str]] | None = None,
    may_lead_outside: bool = False,
) -> None:
    """How many could not be used, and where they were looked for if none was there; with
    `may_lead_outside`, the command has an option for paths that leave `root`."""
    say_bad("pictures", statuses, examples)
    count = Counter(statuses)
    lost = sum(count[status] for status in _LOST)
    if lost and lost == count.total() - count["missing"]:
        _say_none_found(root, bool(may_lead_outside and count["outside_root"]))


def say_if_none_is_there(sources: Iterable[ImageSource], root: Path) -> bool:
    """Before the work: look for pictures until one is there; whether something was said."""
    statuses = (read_image(source, root)[1] for source in sources)
    there = (status in _LOST for status in statuses if status != "missing")
    lost = next(there, False) and all(there)
    if lost:
        _say_none_found(root)
    return lost


def _say_none_found(root: Path, may_lead_outside: bool = False) -> None:
    more = ", or allow others with --allow-outside-root" if may_lead_outside else ""
    say(f"no picture was found: their paths start at {root}; name that with --image-root{more}")
