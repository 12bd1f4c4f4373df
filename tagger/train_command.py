"""`tagger train`: its options, made into a run."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from tagger.config import DEFAULT_DEFINITION, MAX_RATE, MAX_SEED, MOST, SEPARATOR
from tagger.errors import StoppedError
from tagger.options import (
    CatalogArgument,
    Device,
    ImageColumn,
    ImageRoot,
    LabelledTasks,
    Limit,
    Taxonomy,
    TitleColumn,
)


def train(
    catalog: CatalogArgument,
    tasks: LabelledTasks,
    out: Annotated[Path, typer.Option(help="Model directory to write.")],
    model: Annotated[
        str,
        typer.Option(
            help="Definition or trained model to start from: path, shelf name, or an architecture "
            "of open_clip."
        ),
    ] = DEFAULT_DEFINITION,
    validation: Annotated[
        Path | None, typer.Option(help="Catalog to validate on.", show_default="a tenth of CATALOG")
    ] = None,
    system: Annotated[
        str | None,
        typer.Option(
            help="What joins picture and title on these towers: cma-clip, embracenet ...",
            show_default="that of --model",
        ),
    ] = None,
    pretrained: Annotated[
        str | None,
        typer.Option(
            help="Tower weights: an open_clip tag, a .pt, .pth or .safetensors file, or a trained "
            "model."
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=0, max=MOST, help="Passes over the catalog.", show_default="those of --model"
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, max=MOST, help="Products a step.", show_default="that of --model"),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(min=0, max=MAX_RATE, help="Peak rate of the new layers; the others follow."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=MAX_SEED, help="Of first weights, order and variation.")
    ] = None,
    freeze_towers: Annotated[
        bool,
        typer.Option(
            "--freeze-towers", help="Train what stands on the towers alone: many times faster."
        ),
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    limit: Limit = None,
    device: Device = None,
    image_root: ImageRoot = None,
    image_column: ImageColumn = "image",
    title_column: TitleColumn = "title",
    separator: Annotated[
        str, typer.Option(help="Between the names of labels that are paths; '' if none are.")
    ] = SEPARATOR,
    taxonomy: Taxonomy = None,
) -> None:
    """Fit a model directory on a labelled catalog."""
    from tagger.catalog import Columns
    from tagger.console import Bar
    from tagger.tasks import parse_tasks
    from tagger.train import TrainOptions
    from tagger.train import train as run
    from tagger.training_messages import TrainMonitor, show_training

    labels = parse_tasks(tasks)
    options = TrainOptions(
        catalog=catalog,
        tasks=list(labels),
        out=out,
        model=model,
        validation=validation,
        image_root=image_root,
        columns=Columns(image_column, title_column, labels=labels, separator=separator or None),
        system=system,
        pretrained=pretrained,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        seed=seed,
        device=device,
        limit=limit,
        resume=resume,
        freeze_towers=freeze_towers,
        taxonomy=taxonomy,
        # A name that is not UTF-8 cannot stand in the card as it is.
        command=shlex.join(["tagger", *sys.argv[1:]]).encode(errors="backslashreplace").decode(),
    )
    try:
        with Bar("batches") as bar:
            result = run(options, TrainMonitor(bar, options.image_roots))
    except StoppedError as stopped:
        stopped.hint = "finished epochs are kept: run the same command again with --resume"
        raise
    show_training(result, out, options.products)
