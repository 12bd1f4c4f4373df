"""Options that several commands have, and a check of the files that they write."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from tagger.errors import OutputError, UsageError
from tagger.paths import is_there

CatalogArgument = Annotated[
    # Whether it can be read is asked where the exit code is that of a catalog.
    Path,
    typer.Argument(help="Parquet file, directory of Parquet parts, or CSV.", readable=False),
]
LabelledTasks = Annotated[
    str,
    typer.Option(
        help="Tasks separated by commas, each the name of its label column, or of a tree with its "
        "columns from the top: 'kind=dept>category'."
    ),
]
ImageRoot = Annotated[
    Path | None,
    typer.Option(help="Where image paths start.", show_default="the catalog's folder"),
]
ImageColumn = Annotated[str, typer.Option(help="Column of image paths, or bytes.")]
TitleColumn = Annotated[str, typer.Option(help="Column of titles.")]
Taxonomy = Annotated[
    Path | None,
    typer.Option(
        help="Tree of the first task, whose labels may be its ids: Google's or Shopify's file, or "
        "a CSV of parent,child."
    ),
]
IdColumn = Annotated[str, typer.Option(help="Column of product ids, named in messages.")]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1 ...", show_default="a GPU if any")
]
Fp32 = Annotated[bool, typer.Option("--fp32", help="Compute in float32 even where bf16 is faster.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Read only the first rows.")]


def check_outputs(others: Sequence[Path], paths: Sequence[Path]) -> None:
    """Before the work: each of `paths` can be written, and is no other one, nor one of `others`,
    which the command reads or writes, nor a part in a folder of them.

    Raises:
        UsageError: it is.
        OutputError: it cannot be written.
    """
    from tagger.output import check_writable  # pyarrow takes its time
    from tagger.run_directory import MANIFEST, SUCCESS

    taken = [real_path(path) for path in others]
    for path in paths:
        is_there(path, OutputError)
        real = real_path(path)
        inside = any(folder in real.parents for folder in taken)
        is_part = inside and (
            path.suffix in (".parquet", ".pq") or path.name in (MANIFEST, SUCCESS)
        )
        if real in taken or path.is_dir() or is_part:
            what = "a folder" if path.is_dir() else "read or written by this command already"
            raise UsageError(f"{path} is {what}", "name another file")
        check_writable(path)
        taken.append(real)


def empty_older(paths: Sequence[Path]) -> None:
    """When the work begins: files of an older run would be taken for those of one that fails.

    Raises:
        DiskFullError, OutputError: one cannot be written.
    """
    from tagger.output import write_bytes

    for path in paths:
        if path.is_file():
            write_bytes(path, b"")


def real_path(path: Path) -> Path:
    """`path.resolve()`, which links in a circle do not stop."""
    return Path(os.path.realpath(path))
