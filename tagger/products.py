"""A labelled catalog in memory: what training and evaluation read of it."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import takewhile
from pathlib import Path

import pyarrow as pa

from tagger.arrow_types import has_text_form, is_bytes, valid_text
from tagger.catalog import Catalog, Columns, check_image_root, folder_of, strings, with_commas
from tagger.errors import CatalogError, UsageError, listing
from tagger.images import ImageSource
from tagger.tasks import label_of
from tagger.taxonomy import Taxonomy, read_taxonomy
from tagger.tree import split_path

_CATALOG = Path("the catalog")


@dataclass(frozen=True)
class Products:
    """Columns of n products; None is an absent picture, title, label or id."""

    images: list[ImageSource]
    titles: list[str | None]
    labels: dict[str, list[str | None]] = field(default_factory=dict)
    ids: list[str | None] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: Sequence[int]) -> Products:
        """The products at `rows`, in that order."""
        return Products(
            [self.images[r] for r in rows],
            [self.titles[r] for r in rows],
            {task: [values[r] for r in rows] for task, values in self.labels.items()},
            [self.ids[r] for r in rows] if self.ids else [],
        )

    def digest(self) -> str:
        """A hash of paths, or pictures that are there as bytes, titles and labels; no file is
        read."""
        columns: list[Sequence[ImageSource]]
        columns = [self.images, self.titles, *(self.labels[t] for t in sorted(self.labels))]
        digest = hashlib.sha256(repr(sorted(self.labels)).encode())
        for column in columns:
            digest.update(b"[")
            for value in column:
                # In pieces: a column of pictures is large, and its repr is three times that.
                digest.update(
                    hashlib.sha256(value).digest()
                    if isinstance(value, bytes)
                    else repr(value).encode()
                )
                digest.update(b",")
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class ProductSource:
    """A catalog file with all that says how to read it; image paths start at `image_root`, or the
    catalog's folder. At most `limit` rows. Labels of the first task may be ids of `taxonomy`."""

    path: Path
    columns: Columns = field(default_factory=Columns)
    image_root: Path | None = None
    limit: int | None = None
    taxonomy: Path | None = None

    def __post_init__(self) -> None:
        """Raises:
        UsageError: see `check_image_root`.
        """
        check_image_root(self.image_root)

    @property
    def root(self) -> Path:
        """Where image paths start."""
        return self.image_root or folder_of(self.path)

    def has_labels(self, task: str) -> bool:
        """Whether the catalog has the columns that `task` is read from, and they can be labels."""
        schema = Catalog(self.path).schema
        return all(
            name in schema.names and has_text_form(schema.field(name).type)
            for name in self.columns.of(task)
        )

    def read(self, tasks: Sequence[str] = ()) -> Products:
        """The products, with the labels of `tasks`, those of the first as nodes of the taxonomy if
        there is one; raises as `read_products`, `read_taxonomy` and `resolve` do."""
        products = read_products(self.path, self.columns, tasks, self.limit)
        return (
            resolve(products, tasks[0], self.tree, self.columns, self.path) if tasks else products
        )

    def image_sources(self) -> Iterator[ImageSource]:
        """The image column alone, row by row; raises as `Catalog` does."""
        catalog, column = Catalog(self.path), self.columns.image
        if column in catalog.schema.names:
            for batch in catalog.batches(64, columns=[column]):
                yield from image_sources(batch, column, self.path)

    @cached_property
    def tree(self) -> Taxonomy | None:
        """The taxonomy, read once; raises as `read_taxonomy` does."""
        return None if self.taxonomy is None else read_taxonomy(self.taxonomy)


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
    label_columns = [column for task in tasks for column in columns.of(task)]
    missing = [name for name in label_columns if name not in catalog.schema.names]
    if missing:
        raise CatalogError(
            f"{path} has no label column {missing[0]!r}; it has: {listing(catalog.schema.names)}",
            "labels are columns named after the task: name some of these with --tasks",
        )
    schema = catalog.schema
    has_ids = columns.id in schema.names and has_text_form(schema.field(columns.id).type)
    named = [columns.id] if has_ids else []
    table = catalog.read(list(dict.fromkeys([*inputs, *label_columns, *named])), limit)
    return Products(
        image_sources(table, columns.image, path),
        titles_of(table, columns.title, path),
        {task: labels_of(table, task, columns, path) for task in tasks},
        strings(table, columns.id, path) if named else [None] * len(table),
    )


def labels_of(table: pa.Table, task: str, columns: Columns, path: Path) -> list[str | None]:
    """The labels of a task; where they stand in several columns, as paths down to the first empty
    one.

    Raises:
        UsageError: several columns, and no separator to write paths with.
        CatalogError: a level that holds the separator.
    """
    levels = [
        [name and label_of(valid_text(name)) for name in strings(table, column, path)]
        for column in columns.of(task)
    ]
    if len(levels) == 1:
        return levels[0]
    if columns.separator is None:
        raise UsageError(
            f"task {task!r} has its labels in {len(levels)} columns, and there is no separator to "
            "write them as paths",
            "leave --separator out; a model that was trained without one knows no paths",
        )
    for column, names in zip(columns.of(task), levels, strict=True):
        for row, name in enumerate(names, 1):
            if name is not None and len(split_path(name, columns.separator)) != 1:
                raise CatalogError(
                    f"{path}, row {row}, column {column!r}: {name!r} holds the separator "
                    f"{columns.separator!r}, so it cannot be one level of a path",
                    "train with a --separator that is in no name",
                )
    rows = (takewhile(lambda name: name is not None, row) for row in zip(*levels, strict=True))
    return [columns.separator.join(map(str, names)) or None for names in rows]


def require_labels(products: Products, tasks: Sequence[str], source: ProductSource) -> None:
    """Raises:
    CatalogError: no product of `source` has a label of any of `tasks`.
    """
    if any(label is not None for task in tasks for label in products.labels[task]):
        return
    columns = [column for task in tasks for column in source.columns.of(task)]
    raise CatalogError(
        f"{source.path}: none of {len(products):,} products has a label of {listing(tasks)}; "
        f"empty columns: {listing(columns)}",
        f"fill them, or name others: --tasks {shlex.quote(f'{tasks[0]}=COLUMN')}",
    )


def resolve(
    products: Products, task: str, taxonomy: Taxonomy | None, columns: Columns, path: Path
) -> Products:
    """`products` with the labels of `task`, which may be ids of `taxonomy`, as paths.

    Raises:
        TaxonomyError: a label that is no node of it.
        UsageError: no separator to write paths with.
    """
    if taxonomy is None:
        return products
    if columns.separator is None:
        raise UsageError(
            f"--taxonomy is for a task whose labels are paths, and {task!r} is flat",
            "name the tree first in --tasks, and leave --separator out where you train",
        )
    where = f"{path}, task {task!r}"
    paths = taxonomy.resolve(products.labels[task], columns.separator, where)
    return replace(products, labels={**products.labels, task: paths})


def image_sources(
    rows: pa.Table | pa.RecordBatch, column: str, path: Path = _CATALOG
) -> list[ImageSource]:
    """Paths or bytes of pictures; all None where there is no such column.

    Bytes stand in a binary column, or in the struct<bytes, path> that Hugging Face datasets
    writes; where its bytes are null, its path counts.

    Raises:
        CatalogError: a column that holds neither text nor bytes.
    """
    if column not in rows.schema.names:
        return [None] * rows.num_rows
    kind = rows.schema.field(column).type
    if is_bytes(kind):
        return rows.column(column).to_pylist()  # type: ignore[no-any-return]
    if pa.types.is_struct(kind) and {"bytes", "path"} <= {field.name for field in kind}:
        pairs = rows.column(column).to_pylist()
        return [p and (p["path"] if p["bytes"] is None else p["bytes"]) for p in pairs]
    return [*strings(rows, column, path)]


def titles_of(
    rows: pa.Table | pa.RecordBatch, column: str, path: Path = _CATALOG
) -> list[str | None]:
    """Titles; None where there is none, or no such column.

    Raises:
        CatalogError: a column without a text form.
    """
    there = column in rows.schema.names
    return strings(rows, column, path) if there else [None] * rows.num_rows


def refuse_other_letters(there: Sequence[str], name: str, where: str, naming: str) -> None:
    """`naming` says how to name another column, with {} for that name.

    Raises:
        CatalogError: of the columns `there` none is called `name`, but one is in other letters.
    """
    alike = [other for other in there if other.strip().lower() == name.lower()]
    if alike and name not in there:
        raise CatalogError(
            f"{where} has no column {name!r}, but {alike[0]!r}",
            f"rename it, or add {naming.format(shlex.quote(alike[0]))}",
        )


def check_inputs(catalog: Catalog, columns: Columns) -> None:
    """Raises:
    CatalogError: the image or title column of `catalog` holds what no picture or title can be.
    """
    none = catalog.schema.empty_table()
    image_sources(none, columns.image, catalog.path)
    titles_of(none, columns.title, catalog.path)


def input_columns(catalog: Catalog, columns: Columns) -> list[str]:
    """Which of the image and title column `catalog` has.

    Raises:
        CatalogError: neither, one that the user named is not there, or one that is there in other
            letters, which would be left out in silence.
    """
    defaults, there = Columns(), catalog.schema.names
    for name, default, option in (
        (columns.image, defaults.image, "--image-column"),
        (columns.title, defaults.title, "--title-column"),
    ):
        if name != default:
            catalog.require([name], option)
        refuse_other_letters(there, name, str(catalog.path), f"{option} {{}}")
    found = [name for name in (columns.image, columns.title) if name in there]
    if not found and len(there) == 1 and (mark := next((m for m in ";\t|" if m in there[0]), None)):
        raise CatalogError(
            f"{catalog.path} has one column, {there[0]!r}, whose fields are parted by {mark!r}",
            f"write it with commas: {with_commas(catalog.path, mark)}",
        )
    if not found:
        raise CatalogError(
            f"{catalog.path} has neither a column {columns.image!r} nor {columns.title!r}; "
            f"it has: {listing(there)}",
            "name them with --image-column and --title-column",
        )
    return found
