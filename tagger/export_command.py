"""`tagger export`: its options, made into an export."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from tagger.errors import StoppedError
from tagger.options import ImageColumn, ImageRoot, TitleColumn


class ExportFormat(enum.StrEnum):
    """What a model is exported to."""

    onnx = "onnx"
    pt2 = "pt2"
    aoti = "aoti"
    open_clip = "open_clip"


class ExportPrecision(enum.StrEnum):
    """In which type an export computes (fp32, fp16) or holds its matrices (bf16, int8)."""

    fp32 = "fp32"
    fp16 = "fp16"
    bf16 = "bf16"
    int8 = "int8"


def export(
    model: Annotated[str, typer.Argument(help="Trained model: path or shelf name.")],
    format: Annotated[
        ExportFormat,
        typer.Option(
            help="onnx; pt2, a torch.export file; aoti, the same compiled for this kind of "
            "machine; or open_clip, the towers alone as its checkpoint.",
            metavar="<format>",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Directory to write; it must not be there.")],
    precision: Annotated[
        ExportPrecision,
        typer.Option(help="fp16 computes in it; bf16 and int8 store matrices so."),
    ] = ExportPrecision.fp32,
    check: Annotated[
        Path | None,
        typer.Option(
            help="Catalog of sample products to compare the answers on, beside the golden vectors."
        ),
    ] = None,
    image_root: ImageRoot = None,
    image_column: ImageColumn = "image",
    title_column: TitleColumn = "title",
) -> None:
    """Write a model for other runtimes; refused unless it answers as its source does."""
    from tagger.catalog import Columns
    from tagger.comparison_tables import show_comparison
    from tagger.console import Bar, say
    from tagger.export import Comparison, ExportOptions
    from tagger.export import export as run
    from tagger.products import ProductSource

    columns = Columns(image_column, title_column)
    source = None if check is None else ProductSource(check, columns, image_root)
    options = ExportOptions(model, format.value, out, precision.value, source)
    found: list[Comparison] = []
    try:
        with Bar("products") as bar:
            run(options, found.append, bar.move)
    except StoppedError as stopped:
        stopped.hint = "nothing was written: run the same command again"
        raise
    finally:
        for comparison in found:  # also what was refused, and below the bar
            show_comparison(comparison)
    say(f"{out} is ready; its README.md tells what goes in and what comes out")
