"""Mapping files: nodes of one taxonomy to nodes of another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tagger.errors import TaxonomyError, listing
from tagger.tasks import is_plain
from tagger.taxonomy import closest_node, parse_rows, read_text
from tagger.tree import Names, common_path, split_path

COLUMNS = ("from", "to")


def read_mapping(path: Path, nodes: Sequence[str], separator: str) -> tuple[str | None, ...]:
    """What each of `nodes` becomes: the target of its line, else of its nearest ancestor with one.

    Where only nodes below it have lines, as in a mapping of leaves, it becomes the deepest common
    ancestor of their targets, and nothing (None) where they have none.

    Args:
        path: a CSV with the columns from,to; lines for other nodes do not matter.
        nodes: paths joined by `separator`.
        separator: as in `nodes`; space around names does not count in the file.

    Returns:
        (nodes,) paths joined by `separator`, or None.

    Raises:
        TaxonomyError: the file cannot be read, an empty cell, a node with two targets, or a leaf
            without any.
    """
    lines = _read_lines(path, separator)
    targets = {names: to for names, (_, to) in lines.items()}
    wanted = [split_path(node, separator) for node in nodes]
    found = {names: _nearest(names, targets) for names in wanted}
    missing = {names for names, target in found.items() if target is None}
    if len(missing) == len(found):
        names, (line, _) = next(iter(lines.items()))
        label = separator.join(names)
        raise TaxonomyError(
            f"{path}, line {line}: {label!r} is no node of the model, nor is any other `from`",
            "name the mapping of this taxonomy; from and to may be swapped."
            + closest_node(label, wanted, separator),
        )
    inner = {names[:end] for names in wanted for end in range(1, len(names))}
    if missing - inner:
        in_part = {names[:end] for names in found if found[names] for end in range(1, len(names))}
        blank = [names for names in wanted if names in missing - in_part]
        raise _unmapped(path, blank, separator)
    below: dict[Names, list[Names]] = {names: [] for names in missing}
    for names in sorted(found, key=len, reverse=True):
        target = common_path(below[names]) if names in below else found[names]
        found[names] = target
        ancestors = (names[:end] for end in range(len(names) - 1, 0, -1))
        above = next((node for node in ancestors if node in below), None)
        if above is not None:
            below[above].append(target or ())
    return tuple(separator.join(found[names] or ()) or None for names in wanted)


def _read_lines(path: Path, separator: str) -> dict[Names, tuple[int, Names]]:
    """Per `from`: its line and its `to`."""
    lines: dict[Names, tuple[int, Names]] = {}
    for line, row in parse_rows(path, read_text(path), COLUMNS):
        for column in COLUMNS:
            _check(row[column], f"{path}, line {line}, column {column!r}", separator)
        names, to = (split_path(row[column], separator) for column in COLUMNS)
        first, other = lines.setdefault(names, (line, to))
        if other != to:
            raise TaxonomyError(
                f"{path}, line {line}: {row['from']!r} becomes {row['to']!r}, on line {first} "
                f"{separator.join(other)!r}",
                "remove one of the two lines",
            )
    if not lines:
        raise TaxonomyError(f"{path} has no lines below its header", "add lines of from,to")
    return lines


def _check(text: str, place: str, separator: str) -> None:
    if not split_path(text, separator):
        raise TaxonomyError(
            f"{place}: an empty cell or name: {text!r}", "write the path, or remove the line"
        )
    if not is_plain(text):
        raise TaxonomyError(
            f"{place}: control characters, or what was not UTF-8, in {text!r}", "write it anew"
        )


def _nearest(names: Names, targets: dict[Names, Names]) -> Names | None:
    ends = range(len(names), 0, -1)
    return next((targets[names[:end]] for end in ends if names[:end] in targets), None)


def _unmapped(path: Path, missing: Sequence[Names], separator: str) -> TaxonomyError:
    known = set(missing)
    tops = [
        separator.join(names)
        for names in missing
        if not any(names[:end] in known for end in range(1, len(names)))
    ]
    return TaxonomyError(
        f"{path} has no line for {listing(tops, 3)}, nor for an ancestor",
        f'add a line for it: "{tops[0]}","..."',
    )
