"""Fit temperatures and thresholds on a labelled catalog; report them on products kept back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tagger.answers import Logits, collect_answers, softmax
from tagger.bundle import WEIGHTS, Bundle, file_digest
from tagger.calibration import (
    DEFAULT_PRECISION,
    DELTA,
    PRECISIONS,
    Calibration,
    Outcomes,
    TaskCalibration,
    Threshold,
    fit_by_label,
    fit_temperature,
    fit_threshold,
)
from tagger.catalog import Catalog, Columns, folder_of
from tagger.products import Products, read_products
from tagger.scrub import giveaways
from tagger.split import validation_rows
from tagger.tasks import UNLABELED, Task

REPORT_SHARE, GUIDE_SHARE = 0.3, 0.25
"""Share of the catalog that is only reported on; share of the rest that temperature and the start
of the search are fitted on. The thresholds are tested on what is left."""


@dataclass(frozen=True)
class CalibrateOptions:
    """What the command line says."""

    catalog: Path
    tasks: Sequence[str]
    columns: Columns = field(default_factory=Columns)
    image_root: Path | None = None
    precision: float = DEFAULT_PRECISION
    delta: float = DELTA
    by_label: bool = False
    limit: int | None = None


def calibrate(
    bundle: Bundle,
    options: CalibrateOptions,
    progress: Callable[[int, int], None] = lambda rows, total: None,
) -> Calibration:
    """Thresholds of each task for each of PRECISIONS and the one asked for.

    The products are parted in three, near-duplicates on one side: one for the temperature and the
    start of the search, one for the tests behind the thresholds, one to report on.

    Raises:
        ModelError: a task that the model does not know.
        CatalogError: a task that the catalog has no labels of, or see `Catalog`.
    """
    tasks = [bundle.task(name) for name in options.tasks]
    products = read_products(options.catalog, options.columns, options.tasks, options.limit)
    root = options.image_root or folder_of(options.catalog)
    answers = collect_answers(bundle, products, root, options.tasks, progress)
    reported, guiding = _parts(products)
    targets = sorted({*PRECISIONS, options.precision})
    fitted = {}
    for task in tasks:
        truth = np.array(task.label_ids(products.labels[task.name]))
        known = (truth != UNLABELED) & answers.answered
        parts = [known & guiding, known & ~guiding & ~reported, known & reported]
        temperature = fit_temperature(answers.logits[task.name][parts[0]], truth[parts[0]])
        outcomes = [
            outcomes_of(task, answers.logits[task.name][rows], truth[rows], temperature)
            for rows in parts
        ]
        fitted[task.name] = TaskCalibration(
            temperature=temperature,
            thresholds=tuple(
                _threshold(outcomes, target, options.delta, options.by_label) for target in targets
            ),
        )
    return Calibration(
        precision=options.precision,
        catalog=options.catalog.name,
        catalog_sha256=Catalog(options.catalog).sha256,
        weights_sha256=file_digest(bundle.path / WEIGHTS),
        delta=options.delta,
        tasks=fitted,
    )


def outcomes_of(
    task: Task, logits: Logits, truth: NDArray[np.int64], temperature: float
) -> Outcomes:
    """What the model says of n products at `temperature`, and whether it is right."""
    probabilities = softmax(logits, temperature)
    guess = logits.argmax(1)
    return Outcomes(np.array(task.labels)[guess], probabilities.max(1), guess == truth)


def _threshold(
    outcomes: Sequence[Outcomes], precision: float, delta: float, by_label: bool
) -> Threshold:
    guide, test, report = outcomes
    labels: dict[str, float | None] = {}
    if by_label:
        threshold, labels = fit_by_label(guide, test, precision, delta)
    else:
        threshold = fit_threshold(guide, test, precision, delta)
    fitted = Threshold(
        precision=precision,
        threshold=threshold,
        by_label=labels,
        num_products=len(guide) + len(test),
        reported_products=len(report),
        published=0,
        reported_precision=None,
    )
    needed = np.array([fitted.of(str(label)) for label in report.predicted], dtype=np.float64)
    published = report.confidence >= needed
    if not published.any():
        return fitted
    return Threshold(
        precision=precision,
        threshold=threshold,
        by_label=labels,
        num_products=len(guide) + len(test),
        reported_products=len(report),
        published=int(published.sum()),
        reported_precision=float(report.correct[published].mean()),
    )


def _parts(products: Products) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(n,) each: the products to report on; those of the others that guide."""
    words = giveaways(
        {label for labels in products.labels.values() for label in labels if label is not None}
    )

    def choose(rows: list[int], share: float) -> NDArray[np.bool_]:
        part = products.take(rows)
        chosen = np.zeros(len(products), dtype=bool)
        chosen[rows] = validation_rows(part.titles, part.images, share, 0, words)
        return chosen

    reported = choose(list(range(len(products))), REPORT_SHARE)
    return reported, choose(np.flatnonzero(~reported).tolist(), GUIDE_SHARE)
