"""`tagger predict`: its options, made into a run."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from tagger.config import BATCH_SIZE, DEFAULT_MODEL, DEFAULT_ZERO_SHOT, GPU_BATCH_SIZE
from tagger.errors import UsageError
from tagger.options import (
    CatalogArgument,
    Device,
    Fp32,
    IdColumn,
    ImageRoot,
    Limit,
    TitleColumn,
    check_outputs,
    empty_older,
    real_path,
)

RUNS, REPORTS = "Runs", "Messages and reports"
"""Groups of options in the help."""


class LogFormat(enum.StrEnum):
    """How messages look."""

    text = "text"
    json = "json"


FILE_ENDINGS = (
    *(".parquet", ".pq", ".csv", ".tsv", ".tab", ".txt", ".json", ".jsonl", ".ndjson"),
    *(".xlsx", ".xls", ".ods", ".feather", ".arrow", ".gz", ".zip"),
)
"""Nobody who ends a name so, in whatever letters, asks for a directory."""


def check_ending(out: Path) -> None:
    """Raises:
    UsageError: the name of `out` is that of a file that tagger does not write.
    """
    is_file = out.suffix.lower() in FILE_ENDINGS and out.suffix not in (".parquet", ".csv")
    if is_file and not out.is_dir():  # an earlier output of that name may go on
        raise UsageError(
            f"--out {out}: tagger writes no {out.suffix}",
            "end it in .parquet or .csv for a file; a name without such an ending is a directory "
            "of Parquet parts",
        )


def predict(
    catalog: CatalogArgument,
    tasks: Annotated[
        str,
        typer.Option(
            help="Tasks separated by commas: color,pattern; of a contrastively trained model also "
            "any others with their labels: 'neckline=v-neck,crew neck'."
        ),
    ],
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
            help="Label only where this precision is promised, such as 0.95; or 'default', what "
            "each task was calibrated for."
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
    from tagger.console import Bar, set_style
    from tagger.job import Job, JobOptions, MaxFailures, default_out, parse_precision
    from tagger.prediction_messages import show_estimate, show_prediction, show_review
    from tagger.report import failures_into, write_report
    from tagger.review import check_review, write_review
    from tagger.run_directory import Shard
    from tagger.shelf import shipped
    from tagger.tasks import parse_asked

    set_style(quiet, log_format is LogFormat.json)
    if review is not None:
        check_review(review)
    if out is not None:
        check_ending(out)
    out = out or default_out(catalog)
    used = [path for path in (catalog, out, incremental, map) if path is not None]
    written = [path for path in (review, report) if path is not None]
    check_outputs(used, written)
    # In the directory of a run that has not begun, it would be taken for a stranger's file.
    tells = report is not None and (
        report.exists() or real_path(out) not in real_path(report).parents
    )
    with failures_into(report if tells and not dry_run else None):
        # The catalog is checked before the seconds that importing torch takes.
        asked, part, source = parse_asked(tasks), Shard.parse(shard), Catalog(catalog)
        names = list(asked)
        labels = {name: given for name, given in asked.items() if given is not None}
        from tagger import load
        from tagger.dry_run import dry_run as estimate
        from tagger.products import ProductSource
        from tagger.run import run

        unlearned = DEFAULT_ZERO_SHOT if len(labels) == len(names) else DEFAULT_MODEL
        bundle = load(model or shipped(unlearned), device, fp32, labels).bundle
        options = JobOptions(
            catalog=catalog,
            tasks=names,
            out=out,
            columns=Columns(image_column, title_column, id_column),
            image_root=image_root,
            confined=not allow_outside_root,
            top_k=top_k,
            limit=limit,
            batch_size=batch_size,
            min_precision=parse_precision(min_precision),
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
        products = ProductSource(catalog, options.columns, image_root)
        if dry_run:
            show_estimate(estimate(job), options.out, products)
            return
        empty_older(written)
        with Bar("products", sum(job.part_sizes.values())) as bar:
            result = run(job, bar.advance)
        count = None
        if review is not None and result.finished:
            model_version = f"{bundle.path.name} {bundle.sha256[:16]}"
            count = write_review(options.out, job.how, review, model_version)
        if report is not None:
            write_report(result.report(job), report)
    # Last: where nobody reads what is said, all files are there.
    show_prediction(result, out, products)
    if review is not None and count is not None:
        show_review(count, review)
