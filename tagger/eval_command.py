"""`tagger eval`: one of its four modes, chosen by its options."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tagger.config import DEFAULT_MODEL, DELTA, PRECISION
from tagger.errors import UsageError
from tagger.options import (
    CatalogArgument,
    Device,
    Fp32,
    IdColumn,
    ImageColumn,
    ImageRoot,
    LabelledTasks,
    Limit,
    Taxonomy,
    TitleColumn,
    check_outputs,
    empty_older,
)

if TYPE_CHECKING:
    from tagger.bundle import Bundle
    from tagger.products import ProductSource
    from tagger.runtime import Model as LoadedModel

CALIBRATION = "Calibration"
"""A group of options in the help."""


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
            help="Also write products whose label may be wrong to this .parquet or .csv file."
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
    from tagger.shelf import shipped
    from tagger.tasks import parse_tasks

    labels = parse_tasks(tasks)
    names, chosen = list(labels), model or [str(shipped(DEFAULT_MODEL))]
    if not calibrate and (delta is not None or per_label):
        raise UsageError("--delta and --per-label say how to calibrate", "add --calibrate")
    if tfidf is not None and model is None:
        raise UsageError(
            "--tfidf is what a model is compared with", f"name one: --model {DEFAULT_MODEL}"
        )
    compared = _what_compares(chosen, tfidf, robustness)
    files = {"--json": json, "--label-issues": label_issues, "--report": report}
    _check_mode(compared, drift, calibrate, [name for name, path in files.items() if path])
    by_name = _named(chosen)
    from tagger import load
    from tagger.catalog import Columns
    from tagger.products import ProductSource

    models = {name: load(path, device, fp32).bundle for name, path in by_name.items()}
    paths = (one.task(name).separator for one in models.values() for name in names)
    separator = next((mark for mark in paths if mark is not None), None)
    columns = Columns(image_column, title_column, id_column, labels, separator)
    source = ProductSource(catalog, columns, image_root, limit, taxonomy)
    if compared is not None:
        titles = replace(columns, image=title_column)  # no picture is read
        train = None if tfidf is None else ProductSource(tfidf, titles, taxonomy=taxonomy)
        _compare(models, source, names, precision, train, json, report, robustness)
        return
    (bundle,) = models.values()
    if drift:
        _drift(bundle, source, names)
    elif calibrate:
        if model is None or bundle.path != Path(chosen[0]):
            raise UsageError(
                f"{bundle.path.name} is a model that came with tagger, and calibrating changes it",
                f"copy it, and calibrate the copy: cp -r {shlex.quote(str(bundle.path))} mine; "
                "then --model mine",
            )
        network = _network_of(bundle, "--calibrate")
        _calibrate(network, source, names, precision, delta or DELTA, per_label)
    else:
        _evaluate(bundle, source, names, precision, json, label_issues, report)


def _what_compares(
    models: Sequence[str], tfidf: Path | None, robustness: Path | None
) -> str | None:
    """What makes a comparison of the run, as messages call it, if it is one."""
    if len(models) > 1:
        return "several models"
    if tfidf is not None:
        return "--tfidf"
    return None if robustness is None else "--robustness"


def _check_mode(compared: str | None, drift: bool, calibrate: bool, files: Sequence[str]) -> None:
    """`files`: the options given that name a file to write.

    Raises:
        UsageError: options of two modes.
    """
    alone = [name for name, asked in (("--drift", drift), ("--calibrate", calibrate)) if asked]
    if clash := [*alone, *(files if alone else [])][1:]:
        raise UsageError(
            f"{alone[0]} and {clash[0]} are two different runs", "run one after the other"
        )
    only_one = [*alone, *(name for name in files if name == "--label-issues")]
    if compared is not None and only_one:
        raise UsageError(
            f"{compared} and {only_one[0]} are two different runs",
            f"name one --model with {only_one[0]}, and nothing else",
        )


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
    from tagger.comparison_tables import show_models
    from tagger.console import Bar, say

    read = [path for path in (source.path, tfidf and tfidf.path, source.taxonomy) if path]
    written = [path for path in (json, report, robustness) if path is not None]
    check_outputs(read, written)
    # Now, not after the work: what these need may be left out beside an export.
    if robustness is not None:
        import_module("matplotlib")
    if report is not None:
        from tagger.comparison_page import write_comparison_page
    empty_older(written)
    with Bar("products") as bar:
        comparison, statuses = compare_models(
            models, source, tasks, precision, tfidf, robustness is not None, bar.move_in
        )
    if json is not None:
        write_comparison(comparison, json)
    curves = None
    if robustness is not None:
        from tagger.output import write_bytes
        from tagger.robustness_plot import draw_robustness

        held = {one.name: one.robustness for one in comparison.models if one.robustness is not None}
        curves = draw_robustness(held)
        write_bytes(robustness, curves)
    if report is not None:
        write_comparison_page(report, comparison, source.path.name, curves)
    # Last: where nobody reads what is printed, all files are there.
    show_models(comparison, statuses, source)
    if robustness is not None:
        say(f"{robustness} shows how they hold")
    if report is not None:
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
    from tagger.console import Bar, say
    from tagger.evaluate import evaluate_catalog, write_evaluation
    from tagger.evaluation_tables import show_evaluation, show_label_issues
    from tagger.label_issues import find_label_issues, write_label_issues

    network = None if report is None else _network_of(bundle, "--report")
    read = [path for path in (source.path, source.taxonomy) if path is not None]
    written = [path for path in (json, issues, report) if path is not None]
    check_outputs(read, written)
    empty_older(written)
    with Bar("products") as bar:
        done = evaluate_catalog(
            bundle, source, tasks, precision, bar.move, with_logits=bool(issues or report)
        )
    if json is not None:
        write_evaluation(done.figures, bundle, json)
    found = None
    if issues is not None or report is not None:
        found = find_label_issues(bundle, done.products, done.answers, tasks, done.trained_on)
    if found is not None and issues is not None:
        write_label_issues(found, bundle, done.products, issues)
    if found is not None and report is not None and network is not None:
        from tagger.page import write_page

        write_page(report, network, source, done, found)
    # Last: where nobody reads what is printed, all files are there.
    calibrated = bundle.calibration is not None
    show_evaluation(done.figures, calibrated, done.image_statuses, source)
    if found is not None:
        show_label_issues(found, issues)
    if report is not None:
        say(f"{report} shows it: open it in a browser")


def _calibrate(
    bundle: Bundle,
    source: ProductSource,
    tasks: Sequence[str],
    precision: float,
    delta: float,
    per_label: bool,
) -> None:
    from tagger.calibrate import Promise, calibrate
    from tagger.calibration import FILE_NAME as CALIBRATION
    from tagger.calibration import write_calibration
    from tagger.console import Bar
    from tagger.drift import write_profile
    from tagger.evaluation_tables import show_calibration
    from tagger.output import check_writable

    check_writable(bundle.path / CALIBRATION)
    with Bar("products") as bar:
        promise = Promise(precision, delta, per_label)
        calibrated = calibrate(bundle, source, tasks, promise, bar.move)
    write_calibration(calibrated.calibration, bundle.path)
    write_profile(calibrated.profile, bundle.path)
    show_calibration(calibrated, tasks, precision, bundle.path, source)


def _drift(bundle: LoadedModel, source: ProductSource, tasks: Sequence[str]) -> None:
    from tagger.console import Bar
    from tagger.drift import check_drift, find_drift
    from tagger.evaluation_tables import show_drift

    with Bar("products") as bar:
        found = find_drift(bundle, source, tasks, bar.move)
    show_drift(found, source)
    check_drift(found.findings, source.path)
