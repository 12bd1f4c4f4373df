"""Options of the commands; prints; turns errors into exit codes. Thin."""

from __future__ import annotations

import shlex
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from tagger.config import DEFAULT_DEFINITION, DEFAULT_MODEL
from tagger.errors import TaggerError
from tagger.version import __version__

app = typer.Typer(
    help="Label product catalogs from pictures and titles.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

CatalogArgument = Annotated[
    Path, typer.Argument(help="Parquet file, directory of Parquet parts, or CSV.")
]
TasksOption = Annotated[str, typer.Option(help="Tasks separated by commas: color,pattern.")]
ImageRoot = Annotated[
    Path | None, typer.Option(help="Where image paths start.  [default: the catalog's folder]")
]
ImageColumn = Annotated[str, typer.Option(help="Column of image paths.")]
TitleColumn = Annotated[str, typer.Option(help="Column of titles.")]
IdColumn = Annotated[str, typer.Option(help="Column of product ids, named in messages.")]
Model = Annotated[str, typer.Option(help="Trained model: path or shelf name.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...  [default: a GPU if any]")]
Limit = Annotated[int | None, typer.Option(min=1, help="Read only the first rows.")]


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"tagger {__version__}")
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Label product catalogs from pictures and titles."""


@app.command()
def train(
    catalog: CatalogArgument,
    tasks: TasksOption,
    out: Annotated[Path, typer.Option(help="Model directory to write.")],
    model: Annotated[
        str, typer.Option(help="Definition or trained model to start from: path or shelf name.")
    ] = DEFAULT_DEFINITION,
    validation: Annotated[
        Path | None, typer.Option(help="Catalog to validate on.  [default: a tenth of CATALOG]")
    ] = None,
    pretrained: Annotated[
        str | None,
        typer.Option(help="Tower weights: an open_clip tag, a .pt or .safetensors file."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1)] = None,
    batch_size: Annotated[int | None, typer.Option(min=1)] = None,
    lr: Annotated[
        float | None, typer.Option(min=0, help="Peak rate of the new layers; the others follow.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    limit: Limit = None,
    device: Device = None,
    image_root: ImageRoot = None,
    image_column: ImageColumn = "image",
    title_column: TitleColumn = "title",
) -> None:
    """Fit a model directory on a labelled catalog."""
    from tagger.catalog import Columns
    from tagger.console import Bar, TrainMonitor, show_training
    from tagger.tasks import parse_names
    from tagger.train import TrainOptions
    from tagger.train import train as run

    options = TrainOptions(
        catalog,
        parse_names(tasks),
        out,
        model,
        validation,
        image_root,
        Columns(image_column, title_column),
        pretrained,
        epochs,
        batch_size,
        lr,
        seed,
        device,
        limit,
        resume,
        command=shlex.join(["tagger", *sys.argv[1:]]),
    )
    with Bar("batches") as bar:
        result = run(options, TrainMonitor(bar))
    show_training(result, out)


@app.command()
def predict(
    catalog: CatalogArgument,
    tasks: TasksOption,
    model: Model = DEFAULT_MODEL,
    out: Annotated[
        Path | None, typer.Option(help="Parquet file to write.  [default: NAME.labeled.parquet]")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(min=1, help="Add a column with the k likeliest labels.")
    ] = None,
    limit: Limit = None,
    device: Device = None,
    image_root: ImageRoot = None,
    image_column: ImageColumn = "image",
    title_column: TitleColumn = "title",
    id_column: IdColumn = "id",
) -> None:
    """Label a catalog: the same rows come out with a label and a confidence per task."""
    from tagger.catalog import Catalog, Columns
    from tagger.tasks import parse_names

    # The catalog is checked before the seconds that importing torch takes.
    names, source = parse_names(tasks), Catalog(catalog)
    from tagger import load
    from tagger.console import Bar, show_prediction
    from tagger.predict import default_out, predict_catalog

    target = out or default_out(catalog)
    bundle = load(model, device).bundle
    with Bar("products", source.num_rows if limit is None else limit) as bar:
        summary = predict_catalog(
            bundle,
            source,
            target,
            names,
            Columns(image_column, title_column, id_column),
            image_root,
            top_k,
            limit,
            bar.advance,
        )
    show_prediction(summary, target)


@app.command("eval")
def evaluate(
    catalog: CatalogArgument,
    tasks: TasksOption,
    model: Model = DEFAULT_MODEL,
    json: Annotated[Path | None, typer.Option(help="Also write the figures to this file.")] = None,
    limit: Limit = None,
    device: Device = None,
    image_root: ImageRoot = None,
    image_column: ImageColumn = "image",
    title_column: TitleColumn = "title",
) -> None:
    """Score a model on a labelled catalog, also with the picture or the title withheld."""
    from tagger.tasks import parse_names

    names = parse_names(tasks)
    from tagger import load
    from tagger.catalog import Columns
    from tagger.console import Bar, show_evaluation
    from tagger.evaluate import evaluate_catalog, write_evaluation

    bundle = load(model, device).bundle
    with Bar("products") as bar:
        evaluation = evaluate_catalog(
            bundle, catalog, names, Columns(image_column, title_column), image_root, limit, bar.move
        )
    show_evaluation(evaluation)
    if json is not None:
        write_evaluation(evaluation, bundle, json)


def main() -> None:
    """Entry point: a TaggerError is two lines on stderr and its exit code."""
    # Pillow warns of pictures that the image status tells about already.
    warnings.filterwarnings("ignore", module="PIL")
    try:
        app()
    except TaggerError as error:
        from tagger.console import show_error

        show_error(error)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
