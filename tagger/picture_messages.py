"""What people see of pictures that could not be used, and why none may have been found."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tagger.console import say, say_bad
from tagger.images import ImageSource, read_image
from tagger.products import ProductSource

_LOST = ("not_found", "outside_root")
_ADDRESS = re.compile(r"\s*[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def say_pictures(
    statuses: Mapping[Any, int],
    source: ProductSource,
    examples: Mapping[str, Sequence[str]] | None = None,
    may_lead_outside: bool = False,
) -> None:
    """How many could not be used, and why that may be if none was there; with `may_lead_outside`,
    the command has an option for paths that leave the image root."""
    say_bad("pictures", statuses, examples)
    count = Counter(statuses)
    lost = sum(count[status] for status in _LOST)
    if lost and lost == count.total() - count["missing"]:
        leads_outside = bool(may_lead_outside and count["outside_root"])
        _say_none_found(source.image_sources(), source.root, leads_outside)


def say_if_none_is_there(sources: Sequence[ImageSource], root: Path) -> bool:
    """Before the work: look for pictures until one is there; whether something was said."""
    statuses = (read_image(source, root)[1] for source in sources)
    there = (status in _LOST for status in statuses if status != "missing")
    lost = next(there, False) and all(there)
    if lost:
        _say_none_found(sources, root)
    return lost


def _say_none_found(
    sources: Iterable[ImageSource], root: Path, may_lead_outside: bool = False
) -> None:
    """The first path tells what is wrong with all."""
    path = next((one for one in sources if isinstance(one, str) and one.strip()), "")
    if _ADDRESS.match(path):
        why = (
            f"{path!r} is an address, and tagger downloads nothing: put the pictures on this "
            "machine, and their paths into the column"
        )
    elif "\\" in path:
        fixed = path.replace("\\", "/")
        why = f"their paths have \\ between folders; write / as in {fixed!r}"
    else:
        more = ", or allow others with --allow-outside-root" if may_lead_outside else ""
        why = f"their paths start at {root.absolute()}; name that with --image-root{more}"
    say(f"no picture was found: {why}")
