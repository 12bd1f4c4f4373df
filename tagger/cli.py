"""Options of the commands; prints; turns errors into exit codes. Thin."""

from __future__ import annotations

import enum
import shlex
import signal
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from tagger.config import (
    BATCH_SIZE,
    DEFAULT_DEFINITION,
    DEFAULT_MODEL,
    DEFAULT_ZERO_SHOT,
    DELTA,
    GPU_BATCH_SIZE,
    PRECISION,
    SEPARATOR,
)
from tagger.errors import StoppedError, TaggerError, UsageError
from tagger.version import __version__

if TYPE_CHECKING:
    from tagger.bundle import Bundle
    from tagger.products import ProductSource
    from tagger.runtime import Model as LoadedModel

app = typer.Typer(
    help="Label product catalogs from pictures and titles.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RUNS, REPORTS, CALIBRATION = "Runs", "Messages and reports", "Calibration"
"""Groups of options in the help."""

CatalogArgument = Annotated[
    Path, typer.Argument(help="Parquet file, directory of Parquet parts, or CSV.")
]
AskedTasks = Annotated[
    str,
    typer.Option(
        help="Tasks separated by commas: color,pattern; of a contrastively trained model also any "
        "others with their labels: 'neckline=v-neck,crew neck'."
    ),
]
LabelledTasks = Annotated[
    str,
    typer.Option(
        help="Tasks separated by commas, each the name of its label column, or of a tree with its "
        "columns from the top: color,'kind=department>category'."
    ),
]
ImageRoot = Annotated[
    Path | None,
    typer.Option(help="Where image paths start.", show_default="the catalog's folder"),
]
ImageColumn = Annotated[str, typer.Option(help="Column of image paths.")]
TitleColumn = Annotated[str, typer.Option(help="Column of titles.")]
Separator = Annotated[
    str, typer.Option(help="Between the names of labels that are paths; '' if none are.")
]
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


class LogFormat(enum.StrEnum):
    """How messages look."""

    text = "text"
    json = "json"


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
    tasks: LabelledTasks,
    out: Annotated[Path, typer.Option(help="Model directory to write.")],
    model: Annotated[
        str, typer.Option(help="Definition or trained model to start from: path or shelf name.")
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
        typer.Option(min=0, help="Passes over the catalog.", show_default="those of --model"),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Products a step.", show_default="that of --model")
    ] = None,
    lr: Annotated[
        float | None, typer.Option(min=0, help="Peak rate of the new layers; the others follow.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of first weights, order and variation.")
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
    separator: Separator = SEPARATOR,
    taxonomy: Taxonomy = None,
) -> None:
    """Fit a model directory on a labelled catalog."""
    from tagger.catalog import Columns
    from tagger.console import Bar, TrainMonitor, show_training
    from tagger.tasks import parse_tasks
    from tagger.train import TrainOptions
    from tagger.train import train as run

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
        command=shlex.join(["tagger", *sys.argv[1:]]),
    )
    try:
        with Bar("batches") as bar:
            result = run(options, TrainMonitor(bar))
    except StoppedError as stopped:
        stopped.hint = "finished epochs are kept: run the same command again with --resume"
        raise
    show_training(result, out)


@app.command()
def predict(
    catalog: CatalogArgument,
    tasks: AskedTasks,
    model: Annotated[
        str | None,
        typer.Option(
            help="Trained model, or ONNX export: path or shelf name.",
            show_default=f"{DEFAULT_MODEL}, or {DEFAULT_ZERO_SHOT} if all tasks come with labels",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="A .parquet or .csv file; any other name is a directory of Parquet parts.",
            show_default="NAME.labeled.parquet",
        ),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(min=1, help="Add a column with the k likeliest labels.")
    ] = None,
    min_precision: Annotated[
        str | None,
        typer.Option(
            help="Label only where this precision is promised, such as 0.95; or 'default', that of "
            "the calibration."
        ),
    ] = None,
    limit: Limit = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Products that the network sees at once; halved where memory is short.",
            show_default=f"{BATCH_SIZE}, on a GPU {GPU_BATCH_SIZE}",
        ),
    ] = None,
    device: Device = None,
    fp32: Fp32 = False,
    image_root: ImageRoot = None,
    allow_outside_root: Annotated[
        bool, typer.Option("--allow-outside-root", help="Image paths may leave the image root.")
    ] = False,
    image_column: Annotated[str, typer.Option(help="Column of image paths, or bytes.")] = "image",
    title_column: TitleColumn = "title",
    id_column: IdColumn = "id",
    shard: Annotated[
        str,
        typer.Option(
            help="i/n: label every n-th part from the i-th on, into a directory --out that the "
            "n shares have in common.",
            rich_help_panel=RUNS,
        ),
    ] = "1/1",
    incremental: Annotated[
        Path | None,
        typer.Option(
            help="Earlier output: products that have not changed are carried over.",
            rich_help_panel=RUNS,
        ),
    ] = None,
    retry_failed: Annotated[
        bool,
        typer.Option(
            "--retry-failed", help="Label again what failed in the output.", rich_help_panel=RUNS
        ),
    ] = False,
    max_failures: Annotated[
        str | None,
        typer.Option(help="N or P%: publish nothing if more products fail.", rich_help_panel=RUNS),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Replace the output of another run.", rich_help_panel=RUNS
        ),
    ] = False,
    overwrite_own_columns: Annotated[
        bool,
        typer.Option(
            "--overwrite-own-columns",
            help="CATALOG is an output of tagger: replace the columns that tagger added.",
            rich_help_panel=RUNS,
        ),
    ] = False,
    map: Annotated[
        Path | None,
        typer.Option(help="CSV of from,to: put out the nodes of another tree instead."),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            help="Folder that keeps what the towers say of pictures and titles, for later runs.",
            rich_help_panel=RUNS,
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Check everything on a sample, estimate time and size, write nothing.",
            rich_help_panel=RUNS,
        ),
    ] = False,
    review: Annotated[
        Path | None,
        typer.Option(
            help="Write abstained and doubtful products to this .csv, or .json for Label Studio.",
            rich_help_panel=REPORTS,
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="Write what the run did to this JSON file.", rich_help_panel=REPORTS),
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Say nothing but errors.", rich_help_panel=REPORTS)
    ] = False,
    log_format: Annotated[
        LogFormat,
        typer.Option(
            help="How messages on stderr look: for people or for programs.", rich_help_panel=REPORTS
        ),
    ] = LogFormat.text,
) -> None:
    """Label a catalog: the same rows come out with a label and a confidence per task."""
    from tagger.catalog import Catalog, Columns
    from tagger.console import Bar, set_style, show_estimate, show_prediction, show_review
    from tagger.review import check_review, write_review
    from tagger.run_directory import Shard
    from tagger.tasks import parse_asked

    set_style(quiet, log_format is LogFormat.json)
    if review is not None:
        check_review(review)
    # The catalog is checked before the seconds that importing torch takes.
    asked, part, source = parse_asked(tasks), Shard.parse(shard), Catalog(catalog)
    names = list(asked)
    labels = {name: given for name, given in asked.items() if given is not None}
    from tagger import load
    from tagger.job import Job, JobOptions, MaxFailures, default_out, parse_precision
    from tagger.report import write_report
    from tagger.run import dry_run as estimate
    from tagger.run import run

    unlearned = DEFAULT_ZERO_SHOT if len(labels) == len(names) else DEFAULT_MODEL
    bundle = load(model or unlearned, device, fp32, labels).bundle
    options = JobOptions(
        catalog=catalog,
        tasks=names,
        out=out or default_out(catalog),
        columns=Columns(image_column, title_column, id_column),
        image_root=image_root,
        confined=not allow_outside_root,
        top_k=top_k,
        limit=limit,
        batch_size=batch_size,
        min_precision=parse_precision(min_precision, bundle),
        shard=part,
        incremental=incremental,
        retry_failed=retry_failed,
        overwrite=overwrite,
        overwrite_own_columns=overwrite_own_columns,
        max_failures=MaxFailures() if max_failures is None else MaxFailures.parse(max_failures),
        cache=cache,
        mapping=map,
    )
    job = Job(bundle, options, source)
    written = [path for path in (review, report) if path is not None]
    _check_outputs([catalog, options.out], written)
    if dry_run:
        show_estimate(estimate(job), options.out)
        return
    with Bar("products", sum(job.part_sizes.values())) as bar:
        result = run(job, bar.advance)
    show_prediction(result, options.out)
    if review is not None and result.finished:
        model_version = f"{bundle.path.name} {bundle.sha256[:16]}"
        count = write_review(options.out, job.how.tasks, options.columns, review, model_version)
        show_review(count, review)
    if report is not None:
        write_report(result.report(job), report)


@app.command("eval")
def evaluate(
    catalog: CatalogArgument,
    tasks: LabelledTasks,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Trained model, or ONNX export: path or shelf name. Several are compared, each "
            "with the first.",
            show_default=DEFAULT_MODEL,
        ),
    ] = None,
    tfidf: Annotated[
        Path | None,
        typer.Option(
            help="Labelled catalog: compare also with TF-IDF and logistic regression, fitted on "
            "its titles."
        ),
    ] = None,
    robustness: Annotated[
        Path | None,
        typer.Option(
            help="Also show the models worse titles and worse pictures, and draw how they hold "
            "into this PNG file."
        ),
    ] = None,
    precision: Annotated[
        float,
        typer.Option(
            min=0.01,
            max=0.999,
            help="Target of recall at precision; with --calibrate, the precision to promise.",
        ),
    ] = PRECISION,
    json: Annotated[Path | None, typer.Option(help="Also write the figures to this file.")] = None,
    label_issues: Annotated[
        Path | None,
        typer.Option(
            help="Also write products whose label is probably wrong to this Parquet file."
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="Also write a page to look at: curves, errors, doubts, label issues."),
    ] = None,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate",
            help="Fit temperatures and thresholds on CATALOG, into the model directory.",
            rich_help_panel=CALIBRATION,
        ),
    ] = False,
    delta: Annotated[
        float | None,
        typer.Option(
            min=1e-6,
            max=0.5,
            help="Chance of a broken promise.",
            show_default=str(DELTA),
            rich_help_panel=CALIBRATION,
        ),
    ] = None,
    per_label: Annotated[
        bool,
        typer.Option(
            "--per-label",
            help="Promise it for each label with enough products.",
            rich_help_panel=CALIBRATION,
        ),
    ] = False,
    drift: Annotated[
        bool,
        typer.Option(
            "--drift",
            help="Instead compare CATALOG, which needs no labels, with what the model was fitted "
            "on; exit code 13 if it has drifted.",
        ),
    ] = False,
    limit: Limit = None,
    device: Device = None,
    fp32: Fp32 = False,
    image_root: ImageRoot = None,
    image_column: ImageColumn = "image",
    title_column: TitleColumn = "title",
    id_column: IdColumn = "id",
    taxonomy: Taxonomy = None,
) -> None:
    """Score a model on a labelled catalog, also with the picture or the title withheld, or compare
    several."""
    from tagger.tasks import parse_tasks

    labels = parse_tasks(tasks)
    names = list(labels)
    _refuse(drift and calibrate, "--drift", "--calibrate")
    for option, given in (("--json", json), ("--label-issues", label_issues), ("--report", report)):
        _refuse(drift and given is not None, "--drift", option)
        _refuse(calibrate and given is not None, "--calibrate", option)
    if not calibrate and (delta is not None or per_label):
        raise UsageError("--delta and --per-label say how to calibrate", "add --calibrate")
    chosen = model or [DEFAULT_MODEL]
    if tfidf is not None and model is None:
        raise UsageError(
            "--tfidf is what a model is compared with", f"name one: --model {DEFAULT_MODEL}"
        )
    if compared := len(chosen) > 1 or tfidf is not None or robustness is not None:
        which = "several models" if len(chosen) > 1 else "--tfidf" if tfidf else "--robustness"
        for option, asked in (
            ("--drift", drift),
            ("--calibrate", calibrate),
            ("--label-issues", label_issues is not None),
        ):
            _refuse(asked, which, option, f"name one --model with {option}, and nothing else")
    by_name = _named(chosen)
    from tagger import load
    from tagger.catalog import Columns
    from tagger.products import ProductSource

    models = {name: load(path, device, fp32).bundle for name, path in by_name.items()}
    paths = (one.task(name).separator for one in models.values() for name in names)
    separator = next((mark for mark in paths if mark is not None), None)
    columns = Columns(image_column, title_column, id_column, labels, separator)
    source = ProductSource(catalog, columns, image_root, limit, taxonomy)
    if compared:
        train = None if tfidf is None else ProductSource(tfidf, columns, taxonomy=taxonomy)
        _compare(models, source, names, precision, train, json, report, robustness)
        return
    (bundle,) = models.values()
    if drift:
        _drift(bundle, source, names)
    elif calibrate:
        if bundle.path != Path(chosen[0]):
            raise UsageError(
                f"{chosen[0]} is the model that came with tagger; a calibration would change it",
                f"copy it, and calibrate the copy: cp -r {shlex.quote(str(bundle.path))} mine; "
                "then --model mine",
            )
        network = _network_of(bundle, "--calibrate")
        _calibrate(network, source, names, precision, delta or DELTA, per_label)
    else:
        _evaluate(bundle, source, names, precision, json, label_issues, report)


def _refuse(both: bool, mode: str, option: str, hint: str = "run one after the other") -> None:
    if both:
        raise UsageError(f"{mode} and {option} are two different runs", hint)


def _named(models: Sequence[str]) -> dict[str, Path]:
    """The directory of each model, by what tables call it.

    Raises:
        ModelError: no such model.
        UsageError: one of them twice.
    """
    from tagger.shelf import resolve, short_names

    paths = [resolve(model) for model in models]
    real = [path.resolve() for path in paths]
    for place, path in enumerate(real):
        if path in real[:place]:
            raise UsageError(
                f"--model {models[place]} is the same model as --model {models[real.index(path)]}",
                "name each model once",
            )
    return dict(zip(short_names(paths, ["tfidf"]), paths, strict=True))


def _compare(
    models: Mapping[str, LoadedModel],
    source: ProductSource,
    tasks: Sequence[str],
    precision: float,
    tfidf: ProductSource | None,
    json: Path | None,
    report: Path | None,
    robustness: Path | None,
) -> None:
    from tagger.compare import compare_models, write_comparison
    from tagger.console import Bar, say, show_models

    _check_outputs([source.path], [path for path in (json, report, robustness) if path is not None])
    with Bar("products") as bar:
        comparison, statuses = compare_models(
            models, source, tasks, precision, tfidf, robustness is not None, bar.move
        )
    show_models(comparison, statuses)
    if json is not None:
        write_comparison(comparison, json)
    if robustness is not None:
        from tagger.robustness_plot import draw_robustness

        held = {one.name: one.robustness for one in comparison.models if one.robustness is not None}
        draw_robustness(held, robustness)
        say(f"{robustness} shows how they hold")
    if report is not None:
        from tagger.comparison_page import write_comparison_page

        curves = None if robustness is None else robustness.read_bytes()
        write_comparison_page(report, comparison, source.path.name, curves)
        say(f"{report} shows it: open it in a browser")


def _network_of(bundle: LoadedModel, option: str) -> Bundle:
    """`bundle` itself, if it is a model directory.

    Raises:
        UsageError: it is an export.
    """
    if bundle.is_export:
        raise UsageError(
            f"{option} needs the network itself, and {bundle.path} is an export",
            "run it on the model that the export was made from; what it changes there must be "
            "exported again",
        )
    from tagger.bundle import Bundle

    assert isinstance(bundle, Bundle)
    return bundle


def _evaluate(
    bundle: LoadedModel,
    source: ProductSource,
    tasks: Sequence[str],
    precision: float,
    json: Path | None,
    issues: Path | None,
    report: Path | None,
) -> None:
    from tagger.console import Bar, say, show_evaluation, show_label_issues
    from tagger.evaluate import evaluate_catalog, write_evaluation
    from tagger.label_issues import find_label_issues, write_label_issues

    network = None if report is None else _network_of(bundle, "--report")
    _check_outputs([source.path], [path for path in (json, issues, report) if path is not None])
    with Bar("products") as bar:
        done = evaluate_catalog(bundle, source, tasks, precision, bar.move)
    calibrated = bundle.calibration is not None
    show_evaluation(done.figures, calibrated, done.answers.image_statuses)
    if json is not None:
        write_evaluation(done.figures, bundle, json)
    if issues is None and report is None:
        return
    found = find_label_issues(bundle, done.products, done.answers, tasks, done.trained_on)
    if issues is not None:
        write_label_issues(found, bundle, done.products, issues)
    show_label_issues(found, issues)
    if report is not None and network is not None:
        from tagger.page import write_page

        write_page(report, network, source, done, found)
        say(f"{report} shows it: open it in a browser")


def _check_outputs(others: Sequence[Path], paths: Sequence[Path]) -> None:
    """Before the work: each of `paths` can be written, and is no other one, nor one of `others`,
    the catalog first."""
    from tagger.output import check_writable

    taken = [path.resolve() for path in others]
    for path in paths:
        if path.resolve() in taken or path.is_dir():
            what = "a folder" if path.is_dir() else "the catalog or the output, or named twice"
            raise UsageError(f"{path} is {what}", "name another file")
        check_writable(path)
        taken.append(path.resolve())


def _calibrate(
    bundle: Bundle,
    source: ProductSource,
    tasks: Sequence[str],
    precision: float,
    delta: float,
    per_label: bool,
) -> None:
    from tagger.calibrate import Promise, calibrate
    from tagger.calibration import write_calibration
    from tagger.console import Bar, show_calibration
    from tagger.drift import write_profile

    with Bar("products") as bar:
        promise = Promise(precision, delta, per_label)
        calibrated = calibrate(bundle, source, tasks, promise, bar.move)
    write_calibration(calibrated.calibration, bundle.path)
    write_profile(calibrated.profile, bundle.path)
    show_calibration(calibrated, tasks, precision, bundle.path)


def _drift(bundle: LoadedModel, source: ProductSource, tasks: Sequence[str]) -> None:
    from tagger.console import Bar, show_drift
    from tagger.drift import check_drift, find_drift

    with Bar("products") as bar:
        found = find_drift(bundle, source, tasks, bar.move)
    show_drift(found)
    check_drift(found.findings, source.path)


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


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="Trained model: path or shelf name.")],
    format: Annotated[
        ExportFormat,
        typer.Option(
            help="ONNX; a torch.export file; aoti, the same compiled for this kind of machine; or "
            "the towers alone as an open_clip checkpoint."
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
    from tagger.console import Bar, say, show_comparison
    from tagger.export import ExportOptions
    from tagger.export import export as run
    from tagger.products import ProductSource

    columns = Columns(image_column, title_column)
    source = None if check is None else ProductSource(check, columns, image_root)
    options = ExportOptions(model, format.value, out, precision.value, source)
    try:
        with Bar("products") as bar:
            run(options, show_comparison, bar.move)
    except StoppedError as stopped:
        stopped.hint = "nothing was written: run the same command again"
        raise
    say(f"{out} is ready; its README.md tells what goes in and what comes out")


NO_TORCH = UsageError(
    "torch is not installed here; without it, only predict and eval run, and only ONNX exports",
    "name one with --model, or install all of tagger: pip install . in its source folder",
)


def _stop(number: int, frame: FrameType | None) -> None:
    raise StoppedError(number)


def main() -> None:
    """Entry point: a TaggerError is two lines on stderr and its exit code."""
    # Pillow warns of pictures that the image status tells about already.
    warnings.filterwarnings("ignore", module="PIL")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        app()
    except TaggerError as error:
        from tagger.console import show_error

        show_error(error)
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        from tagger.console import show_error

        show_error(NO_TORCH)
        sys.exit(NO_TORCH.exit_code)
    except StoppedError as stopped:
        from tagger.console import show_stopped

        show_stopped(stopped)
        sys.exit(stopped.exit_code)


if __name__ == "__main__":
    main()
