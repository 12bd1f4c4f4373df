"""Fit temperatures and thresholds on a labelled catalog; report them on products kept back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from tagger.answers import Answers, answer_batches, pictures
from tagger.bundle import Bundle
from tagger.calibration import (
    PRECISIONS,
    Calibration,
    Outcomes,
    TaskCalibration,
    Threshold,
    fit_by_label,
    fit_temperature,
    fit_threshold,
    in_blocks,
)
from tagger.catalog import Catalog
from tagger.config import DELTA, PRECISION
from tagger.copies import first_of_each, groups_of
from tagger.decision import decide, is_whole, outcomes_of
from tagger.drift import Profile, profile_of
from tagger.errors import CatalogError
from tagger.hashes import file_digest
from tagger.images import ImageStatus
from tagger.products import Products, ProductSource
from tagger.shelf import WEIGHTS
from tagger.split import HELD_BACK, LEARNED
from tagger.tasks import UNLABELED, Task
from tagger.trained_on import past_of

REPORT_SHARE, GUIDE_SHARE = 0.3, 0.25
"""Share of the catalog that is only reported on; share of the rest that temperature and the start
of the search are fitted on. The thresholds are tested on what is left."""


@dataclass(frozen=True)
class Promise:
    """`precision`, kept with probability 1 - `delta`: by all labels of a task together, or, where
    there are enough products, by each label on its own."""

    precision: float = PRECISION
    delta: float = DELTA
    by_label: bool = False


@dataclass(frozen=True)
class Calibrated:
    """What was fitted, what the products look like to the model that it makes, how many pictures
    had which status, and how many of the products chose the epoch when the model was trained.
    `num_different` of the `num_new` products that the model can answer, and was not trained on,
    are none another's copy."""

    calibration: Calibration
    profile: Profile
    image_statuses: Counter[ImageStatus]
    num_held_back: int
    num_new: int
    num_different: int


def calibrate(
    bundle: Bundle,
    source: ProductSource,
    tasks: Sequence[str],
    promise: Promise = Promise(),
    progress: Callable[[int, int], None] = lambda rows, total: None,
) -> Calibrated:
    """Thresholds of each of `tasks` for each of PRECISIONS and the one asked for; what was fitted
    for other tasks stays, and so does the precision that was meant there.

    Products that the model was trained on are left out. Of copies, products of one picture file
    and one title, only the first that has a label of the task is used: the model answers all alike,
    so that they tell no more than one. The others are parted in three: one for the temperature and
    the start of the search, one for the tests behind the thresholds, one to report on.

    Raises:
        ModelError: a task that the model does not know.
        CatalogError: a task that the catalog has no labels of, no product that the model was not
            trained on, or too few for any promise; or see `Catalog`.
    """
    known = [bundle.task(name) for name in tasks]
    products = source.read(tasks)
    names = [task.name for task in bundle.config.tasks]
    answers = Answers.blank(bundle, names, len(products))
    with pictures(bundle, products, source.root) as pixels:
        for rows, batch in answer_batches(bundle, products, pixels, names, progress):
            answers.put(rows, batch)
    past = past_of(products, [bundle.path])
    new = past != LEARNED
    if not new.any():
        raise CatalogError(
            f"{bundle.path.name} was trained on all products of {source.path}, so its mistakes on "
            "others cannot be seen there",
            "calibrate on labelled products that it has not seen",
        )
    groups, fair = groups_of(products, source.root), new & answers.answered
    num_different = len(np.unique(groups[fair]))
    parts = _parts(new)
    origin = Catalog(source.path).sha256
    fitted = {}
    for task in known:
        temperature, by_target = _fit(task, products, answers, groups, parts, promise)
        fitted[task.name] = TaskCalibration(
            temperature=temperature,
            thresholds=by_target,
            delta=promise.delta,
            catalog=source.path.name,
            catalog_sha256=origin,
            precision=promise.precision,
            left_out=int((~new).sum()),
        )
    if not any(threshold.promises for one in fitted.values() for threshold in one.thresholds):
        raise _no_promise(source.path, num_different, int((~new).sum()))
    calibration = Calibration(
        precision=promise.precision,
        weights_sha256=file_digest(bundle.path / WEIGHTS),
        tasks={**_earlier(bundle), **fitted},
    )
    calibrated = replace(bundle, calibration=calibration)
    seen = np.flatnonzero(new)
    profile = profile_of(
        calibrated, products.take(seen.tolist()), map(answers.take, in_blocks(seen))
    )
    statuses = Counter(pixels.statuses.values())
    return Calibrated(
        calibration,
        profile,
        statuses,
        num_held_back=int((past == HELD_BACK).sum()),
        num_new=int(fair.sum()),
        num_different=num_different,
    )


def _no_promise(catalog: Path, num_different: int, num_learned: int) -> CatalogError:
    return CatalogError(
        f"{catalog} has too few labelled products for any promise, or the model is wrong too "
        f"often: {num_different:,} different products were tried, {num_learned:,} it was trained "
        "on were left out; nothing was stored",
        "calibrate on a few hundred labelled products at least that it has not seen",
    )


def _earlier(bundle: Bundle) -> dict[str, TaskCalibration]:
    """What was fitted before, each task with the precision that was meant then: a file of an
    earlier version has one for all, and the next calibration may mean another."""
    before = bundle.calibration
    if before is None:
        return {}
    return {
        name: msgspec.structs.replace(one, precision=before.meant(name))
        for name, one in before.tasks.items()
    }


def _fit(
    task: Task,
    products: Products,
    answers: Answers,
    groups: NDArray[np.int64],
    parts: Sequence[NDArray[np.bool_]],
    promise: Promise,
) -> tuple[float, tuple[Threshold, ...]]:
    """Temperature and thresholds. `groups` (n,) number the copies; `parts` are masks (n,): the
    products that guide, those that are tested on, those that are reported on. A label that is an
    inner node of a tree says nothing of the nodes below, so such products are left out."""
    labels = products.labels[task.name]
    there = np.array([label is not None for label in labels]) & answers.answered
    known = there & is_whole(task, labels) & np.any(parts, axis=0)
    known = first_of_each(groups, known)
    truth = np.where(known & parts[0], task.label_ids(labels), UNLABELED)
    temperature = fit_temperature(answers.logits[task.name], truth)
    outcomes = [
        _outcomes(task, answers, labels, np.flatnonzero(part & known), temperature)
        for part in parts
    ]
    targets = sorted({*PRECISIONS, promise.precision})
    return temperature, tuple(_threshold(outcomes, target, promise) for target in targets)


def _outcomes(
    task: Task,
    answers: Answers,
    labels: Sequence[str | None],
    rows: NDArray[np.int64],
    temperature: float,
) -> Outcomes:
    """What the model says of `rows` at `temperature`; of a product that it says the task does not
    apply to, nothing can be published."""
    logits, given = answers.logits[task.name], answers.applies[task.name][rows]
    chains, confidences = [], []
    for some in in_blocks(rows):
        decision = decide(task, logits[some], temperature)
        chains.append(decision.chain)
        confidences.append(decision.confidences)
    sure = np.concatenate(confidences) * given[:, None]
    return outcomes_of(task, [labels[row] for row in rows], np.concatenate(chains), sure)


def _threshold(outcomes: Sequence[Outcomes], precision: float, promise: Promise) -> Threshold:
    guide, test, report = outcomes
    labels: dict[str, float | None] = {}
    if promise.by_label:
        threshold, labels = fit_by_label(guide, test, precision, promise.delta)
    else:
        threshold = fit_threshold(guide, test, precision, promise.delta)
    fitted = Threshold(
        precision=precision,
        threshold=threshold,
        by_label=labels,
        num_products=len(guide) + len(test),
        reported_products=len(report),
        published=0,
        reported_precision=None,
    )
    level, right = report.published(fitted.needed(report.predicted))
    if not (level >= 0).any():
        return fitted
    return msgspec.structs.replace(
        fitted,
        published=int((level >= 0).sum()),
        reported_precision=float(right.sum() / (level >= 0).sum()),
    )


def _parts(new: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], ...]:
    """(n,) each, of the products that are `new` (n,): those that guide, those that are tested on,
    those that are reported on.

    By chance product by product: near-duplicates on one side would make the tests see a sample of
    titles, each with all its products, and promise what they cannot know. The model has learned
    from none of these products, so that no side knows anything of another one.
    """
    rows = np.random.default_rng(0).permutation(np.flatnonzero(new))
    num_reported = round(REPORT_SHARE * len(rows))
    num_guiding = round(GUIDE_SHARE * (len(rows) - num_reported))
    parts = []
    for part in np.split(rows, [num_guiding, len(rows) - num_reported]):
        chosen = np.zeros(len(new), dtype=bool)
        chosen[part] = True
        parts.append(chosen)
    return tuple(parts)
