"""A labelled catalog in memory: what training and evaluation read of it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tagger.catalog import Catalog, Columns, strings
from tagger.errors import CatalogError, listing


@dataclass(frozen=True)
class Products:
    """Columns of n products; None is an absent picture, title or label."""

    images: list[str | None]
    titles: list[str | None]
    labels: dict[str, list[str | None]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: Sequence[int]) -> Products:
        """The products at `rows`, in that order."""
        return Products(
            [self.images[r] for r in rows],
            [self.titles[r] for r in rows],
            {task: [values[r] for r in rows] for task, values in self.labels.items()},
        )

    def digest(self) -> str:
        """A hash of paths, titles and labels; the pictures themselves are not read."""
        columns = [self.images, self.titles, *(self.labels[t] for t in sorted(self.labels))]
        digest = hashlib.sha256(repr(sorted(self.labels)).encode())
        for column in columns:
            digest.update(repr(column).encode())
        return digest.hexdigest()[:16]


def read_products(
    path: Path, columns: Columns, tasks: Sequence[str], limit: int | None = None
) -> Products:
    """Pictures, titles and the label columns `tasks` of a catalog, at most `limit` rows.

    Picture or title may be a column that is not there, if the other is.

    Raises:
        CatalogError: a task has no column, or neither picture nor title has one.
    """
    catalog = Catalog(path)
    inputs = input_columns(catalog, columns)
    missing = [task for task in tasks if task not in catalog.schema.names]
    if missing:
        raise CatalogError(
            f"{path} has no label column {missing[0]!r}; it has: {listing(catalog.schema.names)}",
            "labels are columns named after the task: name some of these with --tasks",
        )
    table = catalog.read(list(dict.fromkeys([*inputs, *tasks])))
    table = table if limit is None else table.slice(0, limit)

    def column(name: str) -> list[str | None]:
        return strings(table, name, path) if name in inputs else [None] * len(table)

    return Products(
        column(columns.image),
        column(columns.title),
        {task: strings(table, task, path) for task in tasks},
    )


def input_columns(catalog: Catalog, columns: Columns) -> list[str]:
    """Which of the image and title column `catalog` has.

    Raises:
        CatalogError: neither, or one that the user named is not there.
    """
    defaults = Columns()
    for name, default, option in (
        (columns.image, defaults.image, "--image-column"),
        (columns.title, defaults.title, "--title-column"),
    ):
        if name != default:
            catalog.require([name], option)
    found = [name for name in (columns.image, columns.title) if name in catalog.schema.names]
    if not found:
        raise CatalogError(
            f"{catalog.path} has neither a column {columns.image!r} nor {columns.title!r}; "
            f"it has: {listing(catalog.schema.names)}",
            "name them with --image-column and --title-column",
        )
    return found
