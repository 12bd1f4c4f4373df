"""Taxonomy files: Google's text, Shopify's dist, a CSV of parent and child."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import msgspec

from tagger.config import SEPARATOR
from tagger.errors import TaxonomyError, listing
from tagger.tasks import is_plain
from tagger.tree import Names, split_path

SHOPIFY_ID = "gid://shopify/TaxonomyCategory/"
HEADERS = ("# Google_Product_Taxonomy_Version", "# Shopify Product Taxonomy - Categories")
FORMATS = (
    "it must be Google's taxonomy-with-ids.en-US.txt or taxonomy.en-US.txt, Shopify's "
    "categories.txt, categories.json or taxonomy.json, or a .csv with the columns parent,child"
)

_ID = re.compile(rf"({SHOPIFY_ID}\S+)\s+: |(\d+) - ")


@dataclass(frozen=True)
class Taxonomy:
    """All nodes of a taxonomy file, parents before children and else in the order of the file.

    `source` is the name of the file; `ids` is empty where it has none. `attributes` holds what a
    node lists itself, names and handles in lower case with a space for "-" and "_"; it is empty
    where the file says nothing about attributes.
    """

    source: str
    nodes: tuple[Names, ...]
    ids: dict[str, Names]
    attributes: dict[Names, frozenset[str]]

    @cached_property
    def leaves(self) -> tuple[Names, ...]:
        """The nodes without children."""
        inner = {names[:-1] for names in self.nodes}
        return tuple(names for names in self.nodes if names not in inner)

    def find(self, label: str, separator: str) -> Names | None:
        """The node that `label` means: by id, by path, or by a name that only one node has.

        A Shopify id may go without its prefix: aa-1. Space around the names of a path does not
        count.
        """
        label = label.strip()
        for key in (label, SHOPIFY_ID + label):
            if key in self.ids:
                return self.ids[key]
        names = split_path(label, separator)
        if names in self._known:
            return names
        named = self._by_name.get(label, [])
        return named[0] if len(named) == 1 else None

    def resolve(self, labels: Sequence[str | None], separator: str, where: str) -> list[str | None]:
        """Each label as its path from the top, joined by `separator`; None stays None.

        Raises:
            TaxonomyError: a label that no node is meant by, with `where` and its row from 1 on; or
                a name of any node that holds the separator, for its path could not be split again.
        """
        for node in self.nodes:
            if split_path(separator.join(node), separator) != node:
                raise TaxonomyError(
                    f"a name of {SEPARATOR.join(node)!r} in {self.source} holds the separator "
                    f"{separator!r}",
                    "take one that is in no name, such as "
                    f"--separator {'|' if separator.strip() == '>' else SEPARATOR!r}",
                )
        paths: dict[str, str] = {}
        for row, label in enumerate(labels, 1):
            if label is None or label in paths:
                continue
            names = self.find(label, separator)
            if names is None:
                raise self._unknown(label, separator, f"{where}, row {row}")
            paths[label] = separator.join(names)
        return [None if label is None else paths[label] for label in labels]

    def allows(self, node: Names, attribute: str) -> bool | None:
        """Whether products of `node` have `attribute`; None where the file does not say.

        A node without a list of its own has that of its nearest ancestor. Nothing is said of a node
        without either, nor of an attribute that the file names nowhere.
        """
        wanted = _attribute_key(attribute)
        if wanted not in self._named_attributes:
            return None
        lists = (self.attributes.get(node[:end]) for end in range(len(node), 0, -1))
        listed = next((own for own in lists if own is not None), None)
        return None if listed is None else wanted in listed

    @cached_property
    def _known(self) -> frozenset[Names]:
        return frozenset(self.nodes)

    @cached_property
    def _by_name(self) -> dict[str, list[Names]]:
        by_name: dict[str, list[Names]] = {}
        for names in self.nodes:
            by_name.setdefault(names[-1], []).append(names)
        return by_name

    @cached_property
    def _named_attributes(self) -> frozenset[str]:
        return frozenset().union(*self.attributes.values())

    def _unknown(self, label: str, separator: str, place: str) -> TaxonomyError:
        named = [separator.join(names) for names in self._by_name.get(label.strip(), [])]
        if named:
            return TaxonomyError(
                f"{place}: {label!r} is the name of {len(named)} nodes of {self.source}: "
                f"{listing(named, 3)}",
                "write the whole path or the id",
            )
        return TaxonomyError(
            f"{place}: {label!r} is no node of {self.source}",
            "write the path, the id or the unique name of a node (--taxonomy is for the first of "
            "--tasks)." + closest_node(label, self.nodes, separator),
        )


def closest_node(label: str, nodes: Iterable[Names], separator: str) -> str:
    """ " Did you mean 'x'?" for the node whose last name is the most similar, else for the deepest
    ancestor that is a node, or the empty string.

    Names are compared first, and whole paths only of those, for there may be 10,000.
    """
    names = split_path(label, separator) or (label.strip(),)
    by_name: dict[str, list[Names]] = {}
    for node in nodes:
        by_name.setdefault(node[-1].lower(), []).append(node)
    alike = get_close_matches(names[-1].lower(), by_name)
    paths = [separator.join(node) for name in alike for node in by_name[name]]
    found = get_close_matches(separator.join(names), paths, n=1, cutoff=0.0)
    for end in range(len(names) - 1, 0, -1):
        if not found and names[:end] in by_name.get(names[end - 1].lower(), []):
            found = [separator.join(names[:end])]
    return f" Did you mean {found[0]!r}?" if found else ""


def read_taxonomy(path: Path) -> Taxonomy:
    """Read a file in any of FORMATS.

    Raises:
        TaxonomyError: not there, not UTF-8, of another format, or no tree: a cycle, an orphan, a
            node or an id twice, an empty name, control characters, no nodes. The message names the
            line, or the id where the file is JSON.
    """
    text = read_text(path)
    suffix = path.suffix.lower()
    if not text.strip():
        raise TaxonomyError(f"{path} is empty", FORMATS)
    if (first := text.lstrip("\r\n")).startswith(HEADERS) or _ID.match(first):
        entries = list(_text_entries(path, text))
    elif suffix == ".json" or text.lstrip().startswith("{"):
        entries = list(_json_entries(path, text))
    elif suffix == ".csv":
        entries = list(_csv_entries(path, text))
    else:
        shown = text.lstrip().splitlines()[0][:60]
        raise TaxonomyError(f"{path}, line 1: no taxonomy starts with {shown!r}", FORMATS)
    return _build(path, entries)


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, without a byte order mark, in composed characters (NFC).

    Raises:
        TaxonomyError: it cannot be read, or is not UTF-8.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise TaxonomyError(
            f"{path} cannot be read: {error.strerror or error}", "check the name of the file"
        ) from error
    try:
        return unicodedata.normalize("NFC", raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise TaxonomyError(
            f"{path}, line {line} is not UTF-8",
            "save it as UTF-8: iconv -f WINDOWS-1252 -t UTF-8 old.txt > new.txt",
        ) from error


def parse_rows(
    path: Path, text: str, required: Sequence[str]
) -> Iterator[tuple[int, dict[str, str]]]:
    """Each row of a CSV file below its header: the number of its line, its fields by column.

    Space around fields does not count; rows without any text are passed over.

    Raises:
        TaxonomyError: not CSV, a required column is missing or there twice, or a row has more or
            fewer fields than the header.
    """
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    header: list[str] = []
    try:
        for fields in reader:
            row = [field.strip() for field in fields]
            if not any(row):
                continue
            if not header:
                header = [name.lower() for name in row]
                _require(path, reader.line_num, header, required)
                continue
            if len(row) != len(header):
                raise TaxonomyError(
                    f"{path}, line {reader.line_num} has {len(row)} and not {len(header)} fields: "
                    f"{listing(row)}",
                    'put a name that holds a comma in quotes: "Food, Beverages & Tobacco"',
                )
            yield reader.line_num, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise TaxonomyError(
            f"{path}, line {reader.line_num} is not CSV: {error}", "check its quotes"
        ) from error


def _require(path: Path, line: int, header: Sequence[str], required: Sequence[str]) -> None:
    twice = [name for name in header if name and header.count(name) > 1]
    missing = [name for name in required if name not in header]
    if not twice and not missing:
        return
    what = f"no column {missing[0]!r}" if missing else f"the column {twice[0]!r} twice"
    raise TaxonomyError(
        f"{path}, line {line}: {what}; the columns are {listing(header)}",
        f"let the first line name each column once, with commas between: {','.join(required)}",
    )


class _Entry(NamedTuple):
    """A node as a file has it: `key` is what its children name as their `parent`, "" at the top."""

    place: str
    key: str
    parent: str
    name: str
    id: str | None
    attributes: frozenset[str] | None = None


def _text_entries(path: Path, text: str) -> Iterator[_Entry]:
    with_ids: bool | None = None
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.startswith("#"):
            continue
        with_ids = bool(_ID.match(line)) if with_ids is None else with_ids
        found = _ID.match(line) if with_ids else None
        if with_ids and not found:
            raise TaxonomyError(
                f"{path}, line {number} has no id, others do: {line.strip()[:60]!r}",
                "download the file again, or remove the line",
            )
        rest = line[found.end() :] if found else line
        names = [name.strip() for name in f" {rest} ".split(SEPARATOR)]
        yield _Entry(
            place=f"line {number}",
            key=SEPARATOR.join(names),
            parent=SEPARATOR.join(names[:-1]),
            name=names[-1] if all(names) else "",
            id=found[1] or found[2] if found else None,
        )


def _csv_entries(path: Path, text: str) -> Iterator[_Entry]:
    for line, row in parse_rows(path, text, ("parent", "child")):
        attributes = _attribute_keys(row.get("attributes", "").split(";"))
        yield _Entry(
            place=f"line {line}",
            key=row["child"],
            parent=row["parent"],
            name=row.get("name", row["child"]),
            id=row["child"] if "name" in row else None,
            attributes=attributes or None,
        )


class _Attribute(msgspec.Struct):
    name: str
    handle: str = ""


class _Category(msgspec.Struct):
    id: str
    name: str
    parent_id: str | None
    attributes: list[_Attribute] | None = None


class _Vertical(msgspec.Struct):
    categories: list[_Category]


class _Dist(msgspec.Struct):
    verticals: list[_Vertical]


def _json_entries(path: Path, text: str) -> Iterator[_Entry]:
    try:
        dist = msgspec.json.decode(text, type=_Dist)
    except msgspec.DecodeError as error:
        raise TaxonomyError(f"{path} is not Shopify's JSON: {error}", FORMATS) from error
    for category in (category for vertical in dist.verticals for category in vertical.categories):
        own = category.attributes
        texts = [text for each in own or () for text in (each.name, each.handle)]
        yield _Entry(
            place=f"id {category.id!r}",
            key=category.id.strip(),
            parent=(category.parent_id or "").strip(),
            name=category.name.strip(),
            id=category.id.strip(),
            attributes=None if own is None else _attribute_keys(texts),
        )


def _build(path: Path, entries: Sequence[_Entry]) -> Taxonomy:
    if not entries:
        raise TaxonomyError(f"{path} has no nodes", FORMATS)
    for entry in entries:
        _check(path, entry)
    by_key = _unique(path, entries, [entry.key for entry in entries])
    _unique(path, entries, [entry.id for entry in entries])
    paths = _paths(path, by_key)
    _unique(path, entries, [SEPARATOR.join(paths[entry.key]) for entry in entries])
    return Taxonomy(
        source=path.name,
        nodes=tuple(paths.values()),
        ids={entry.id: paths[entry.key] for entry in entries if entry.id is not None},
        attributes={
            paths[entry.key]: entry.attributes for entry in entries if entry.attributes is not None
        },
    )


def _check(path: Path, entry: _Entry) -> None:
    place = f"{path}, {entry.place}"
    if not entry.key or not entry.name:
        raise TaxonomyError(f"{place}: an empty name", "write the name, or remove the node")
    for text in (entry.id or "", entry.name):
        if not is_plain(text):
            raise TaxonomyError(
                f"{place}: control characters, or what was not UTF-8, in {text!r}", "write it anew"
            )
    if SEPARATOR in f" {entry.name} ":
        raise TaxonomyError(
            f"{place}: the name {entry.name!r} holds {SEPARATOR!r}, which parts names",
            "write the last name only; the names above it come from the parent",
        )


def _unique(
    path: Path, entries: Sequence[_Entry], values: Sequence[str | None]
) -> dict[str, _Entry]:
    """The entries by value, None left out.

    Raises:
        TaxonomyError: two entries have the same value.
    """
    found: dict[str, _Entry] = {}
    hint = "remove or rename one of them"
    if path.suffix.lower() == ".csv":
        hint += "; like names below several parents need ids: parent,child,name"
    for entry, value in zip(entries, values, strict=True):
        if value is not None and found.setdefault(value, entry) is not entry:
            raise TaxonomyError(
                f"{path}, {entry.place}: {value!r} is there twice, first at {found[value].place}",
                hint,
            )
    return found


def _paths(path: Path, by_key: dict[str, _Entry]) -> dict[str, Names]:
    """The names from the top of each key, parents first.

    Raises:
        TaxonomyError: an orphan or a cycle.
    """
    paths: dict[str, Names] = {}
    for entry in by_key.values():
        climbed = {entry.key: entry}
        while entry.parent and entry.parent not in paths:
            if entry.parent in climbed:
                raise _cycle(path, list(climbed.values()), entry.parent)
            if entry.parent not in by_key:
                raise TaxonomyError(
                    f"{path}, {entry.place}: the parent {entry.parent!r} of {entry.name!r} is "
                    "nowhere in the file",
                    f"add {entry.parent!r} as a node of its own, or name another parent",
                )
            entry = by_key[entry.parent]
            climbed[entry.key] = entry
        for below in reversed(climbed.values()):
            paths.setdefault(below.key, (*paths.get(below.parent, ()), below.name))
    return paths


def _cycle(path: Path, climbed: Sequence[_Entry], key: str) -> TaxonomyError:
    start = next(i for i, entry in enumerate(climbed) if entry.key == key)
    keys = [repr(entry.key) for entry in climbed[start:]]
    shown = " below ".join([*keys[:5], *(["..."] if len(keys) > 5 else []), keys[0]])
    return TaxonomyError(
        f"{path}, {climbed[start].place}: a cycle: {shown}", "give one of them another parent"
    )


def _attribute_keys(names: Iterable[str]) -> frozenset[str]:
    return frozenset(_attribute_key(name) for name in names if name.strip())


def _attribute_key(name: str) -> str:
    return " ".join(re.split(r"[\s_-]+", name.strip().lower()))
