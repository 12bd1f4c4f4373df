"""Several models on one labelled catalog: their figures, what sets them apart, what they cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tagger.config import PRECISION, Frozen
from tagger.cost import (
    Run,
    first_rows,
    flops_per_product,
    labelling_run,
    num_parameters,
    products_per_second,
)
from tagger.errors import UsageError
from tagger.evaluate import Evaluated, evaluate_catalog
from tagger.images import ImageStatus
from tagger.metrics import (
    Rated,
    difference_interval,
    mean_of_known,
    resampled,
    rightly_published,
)
from tagger.modalities import VIEWS, View
from tagger.output import write_json
from tagger.products import Products, ProductSource, titles_of
from tagger.robustness import Robustness, Subject, model_subject, trial
from tagger.runtime import Model
from tagger.scores import Judged, Score, score
from tagger.scrub import giveaways
from tagger.tfidf import TitleModel, TitleSubject, fit_titles, judge_titles
from tagger.version import __version__

MEAN = "mean"
"""Stands for the mean over tasks, beside the names of the tasks."""
TFIDF = "tfidf"
"""Name of the row of TF-IDF with logistic regression."""
Interval = tuple[float, float]
Progress = Callable[[int, int, str], None]
LEAST_JUDGED_OTHERWISE = 6
"""Products that tell two models apart: of 6 or more, all for one of them, McNemar's exact test
(1947) says p < .05, and of fewer never, though every resample of them may lean one way."""


class Difference(Frozen, frozen=True):
    """A rate minus that of the first model, -1..1, with the interval that holds 95% of paired
    bootstrap resamples of the products. It rests on `judged_otherwise` of the products, which count
    for one of the two models alone, in any of the tasks; files of earlier versions do not say."""

    difference: float
    interval: Interval
    judged_otherwise: int = LEAST_JUDGED_OTHERWISE

    @property
    def is_noise(self) -> bool:
        """Whether it may as well be none."""
        few = self.judged_otherwise < LEAST_JUDGED_OTHERWISE
        return few or self.interval[0] <= 0 <= self.interval[1]


class Differences(Frozen, frozen=True):
    """Of one task, or of the mean over tasks, in one view."""

    accuracy: Difference
    recall_at_precision: Difference


class Means(Frozen, frozen=True):
    """Over the tasks that products carry labels of, in one view; null if there is none."""

    accuracy: float | None
    macro_f1: float | None
    recall_at_precision: float | None


class ModelFigures(Frozen, frozen=True):
    """One model. `means[view]`, `scores[view][task]`, `differences[view][task or "mean"]` to the
    first model, empty for that itself and without tasks that have no label.

    It learned from `trained_on` of the products. `parameters` and `flops_per_product` are null of
    an export, `sha256` and `flops_per_product` of TF-IDF, whose path is that of its catalog;
    `robustness` is null where it was not asked for.
    """

    name: str
    path: str
    sha256: str | None
    system: str
    trained_on: int
    parameters: int | None
    flops_per_product: float | None
    products_per_second: float
    means: dict[str, Means]
    scores: dict[str, dict[str, Score]]
    differences: dict[str, dict[str, Differences]]
    robustness: Robustness | None = None


class ModelComparison(Frozen, frozen=True):
    """The models, the first of which the others are measured by; at least one of them learned from
    `trained_on` of the products. `precision` is the target of recall at precision."""

    tagger_version: str
    num_products: int
    trained_on: int
    precision: float
    models: tuple[ModelFigures, ...]


@dataclass(frozen=True)
class _Entry:
    """One model, judged: all that its figures are made of. trained_on: (n,)."""

    name: str
    path: Path
    sha256: str | None
    system: str
    parameters: int | None
    flops: float | None
    run: Run
    trained_on: NDArray[np.bool_]
    scores: Mapping[str, Mapping[str, Score]]
    judged: Mapping[View, Mapping[str, Judged]]
    subject: AbstractContextManager[Subject]


def compare_models(
    models: Mapping[str, Model],
    source: ProductSource,
    tasks: Sequence[str],
    precision: float = PRECISION,
    tfidf: ProductSource | None = None,
    robustness: bool = False,
    progress: Progress = lambda done, total, what: None,
) -> tuple[ModelComparison, Counter[ImageStatus]]:
    """The figures of the `models` by name, and how many pictures had which status.

    The first model is the baseline. All see the same titles: in the scrubbed view they lack the
    words of all labels that any of the models knows for the task. With `tfidf`, a catalog with
    titles and labels, TF-IDF with logistic regression is fitted on it and comes last. With
    `robustness` each is also shown the catalog with worse titles and worse pictures.

    Raises:
        ModelError: a task that one of the models does not know.
        UsageError: a task whose name stands for the mean.
        TrainingError, CatalogError: see `fit_titles` and `evaluate_catalog`.
    """
    if MEAN in tasks:
        raise UsageError(f"a task named {MEAN!r} cannot be compared", "rename its column")
    known = {name: [bundle.task(task) for task in tasks] for name, bundle in models.items()}
    words = {
        task: giveaways(node for own in known.values() for node in own[place].nodes)
        for place, task in enumerate(tasks)
    }
    # Before the models' minutes: what is wrong with that catalog is known after seconds.
    titles = None if tfidf is None else fit_titles(tfidf, next(iter(known.values())))
    entries: list[_Entry] = []
    for name, bundle in models.items():
        done = evaluate_catalog(bundle, source, tasks, precision, _of(progress, name), words)
        entries.append(_model_entry(name, bundle, source, tasks, done))
    products, statuses = done.products, done.image_statuses
    if tfidf is not None and titles is not None:
        entries.append(_title_entry(tfidf, *titles, source, products, words, precision))
    runs = [entry.run for entry in entries]
    rates = products_per_second(runs, len(products), _of(progress, "speed"))
    held: list[Robustness | None] = [None] * len(entries)
    if robustness:
        held = _robustness(entries, source, tasks, precision, words, progress)
    comparison = ModelComparison(
        tagger_version=__version__,
        num_products=len(products),
        trained_on=int(np.any([entry.trained_on for entry in entries], axis=0).sum()),
        precision=precision,
        models=_figures(entries, rates, held, len(products), precision),
    )
    return comparison, statuses


def points(difference: float) -> str:
    """0.0132 -> '+1.3', percentage points for people; no zero has a sign."""
    text = f"{100 * difference:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text


def short_count(number: float | None) -> str:
    """2923651 -> '2.9 M', None -> '-'."""
    if number is None:
        return "-"
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.{1 if number < 100 * size else 0}f} {unit}"
    return f"{number:.0f}"


def _of(progress: Progress, what: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(done, total, what)


def write_comparison(comparison: ModelComparison, path: Path) -> None:
    """The figures as JSON.

    Raises:
        DiskFullError, OutputError: `path` cannot be written.
    """
    write_json(path, comparison)


def _model_entry(
    name: str, bundle: Model, source: ProductSource, tasks: Sequence[str], done: Evaluated
) -> _Entry:
    return _Entry(
        name=name,
        path=bundle.path,
        sha256=bundle.sha256,
        system=bundle.config.fusion.system,
        parameters=num_parameters(bundle),
        flops=flops_per_product(bundle, done.products, source.root),
        run=labelling_run(bundle, source, tasks),
        trained_on=done.trained_on,
        scores=done.figures.scores,
        judged=done.judged,
        subject=model_subject(bundle, tasks),
    )


def _title_entry(
    train: ProductSource,
    models: Sequence[TitleModel],
    learned: set[str],
    source: ProductSource,
    products: Products,
    words: Mapping[str, frozenset[str]],
    precision: float,
) -> _Entry:
    judged = judge_titles(models, products, words)
    scores: dict[str, dict[str, Score]] = {
        view: {task: score(one, precision) for task, one in by_task.items()}
        for view, by_task in judged.items()
    }

    def run(count: int) -> None:
        for batch in first_rows(source, count):
            titles = titles_of(batch, source.columns.title)
            for model in models:
                model.decide(titles)

    return _Entry(
        name=TFIDF,
        path=train.path,
        sha256=None,
        system=TFIDF,
        parameters=sum(model.num_parameters for model in models),
        flops=None,
        run=run,
        trained_on=np.array([title in learned for title in products.titles], dtype=bool),
        scores=scores,
        judged=judged,
        subject=nullcontext(TitleSubject(models)),
    )


def _robustness(
    entries: Sequence[_Entry],
    source: ProductSource,
    tasks: Sequence[str],
    precision: float,
    words: Mapping[str, frozenset[str]],
    progress: Progress,
) -> list[Robustness | None]:
    """Of each entry, all shown the same."""
    held: list[Robustness | None] = []
    with trial(source, tasks) as tried:
        for entry in entries:
            with entry.subject as subject:
                say = _of(progress, f"{entry.name}, made worse")
                held.append(tried.run(subject, precision, words, say))
    return held


def _figures(
    entries: Sequence[_Entry],
    rates: Sequence[float],
    held: Sequence[Robustness | None],
    num_products: int,
    precision: float,
) -> tuple[ModelFigures, ...]:
    differences = differences_to_first([entry.judged for entry in entries], num_products, precision)
    return tuple(
        ModelFigures(
            name=entry.name,
            path=str(entry.path),
            sha256=entry.sha256,
            system=entry.system,
            trained_on=int(entry.trained_on.sum()),
            parameters=entry.parameters,
            flops_per_product=entry.flops,
            products_per_second=rate,
            means={view: _means(by_task.values()) for view, by_task in entry.scores.items()},
            scores={view: dict(by_task) for view, by_task in entry.scores.items()},
            differences=own,
            robustness=robustness,
        )
        for entry, rate, own, robustness in zip(entries, rates, differences, held, strict=True)
    )


def _means(scores: Iterable[Score]) -> Means:
    there = [one for one in scores if one.num_products]
    return Means(
        accuracy=mean_of_known(one.accuracy for one in there),
        macro_f1=mean_of_known(one.macro_f1 for one in there),
        recall_at_precision=mean_of_known(one.recall_at_precision for one in there),
    )


def differences_to_first(
    judged: Sequence[Mapping[View, Mapping[str, Judged]]], num_products: int, precision: float
) -> list[dict[str, dict[str, Differences]]]:
    """Per model `[view][task or MEAN]`, of the rates of `judged` models on the same products;
    empty for the first."""
    found: list[dict[str, dict[str, Differences]]] = [{} for _ in judged]
    for view in VIEWS:
        tasks = [task for task, one in judged[0][view].items() if len(one.rows)]
        first, *others = (
            _Rates.of([model[view][task] for task in tasks], num_products, precision)
            for model in judged
        )
        for place, other in enumerate(others, 1):
            found[place][view] = _differences(first, other, tasks)
    return found


@dataclass(frozen=True)
class _Rates:
    """Accuracy and recall at precision of one model in one view: (tasks, 2), and in bootstrap
    resamples (resamples, tasks, 2). counted (tasks, 2, n): the products that make up either."""

    here: NDArray[np.float64]
    drawn: NDArray[np.float64]
    counted: NDArray[np.bool_]

    @classmethod
    def of(cls, judged: Sequence[Judged], num_products: int, precision: float) -> _Rates:
        here, counted = [], np.zeros((len(judged), 2, num_products), dtype=bool)
        for one, (right, recalled) in zip(judged, counted, strict=True):
            right[one.rows] = one.correct
            recalled[one.rows] = rightly_published(one.correct, one.confidence, precision)
            here.append((right.sum() / len(one.rows), recalled.sum() / len(one.rows)))
        rated = [Rated(one.rows, one.correct, one.confidence) for one in judged]
        return cls(np.array(here), resampled(rated, num_products, precision), counted)


def _differences(first: _Rates, other: _Rates, tasks: Sequence[str]) -> dict[str, Differences]:
    """Of each task, and of the mean over those that a resample has products of."""
    found = {
        task: Differences(
            accuracy=_difference(first, other, [place], 0),
            recall_at_precision=_difference(first, other, [place], 1),
        )
        for place, task in enumerate(tasks)
    }
    every = range(len(tasks))
    if tasks:
        found[MEAN] = Differences(
            accuracy=_difference(first, other, every, 0),
            recall_at_precision=_difference(first, other, every, 1),
        )
    return found


def _difference(first: _Rates, other: _Rates, tasks: Sequence[int], rate: int) -> Difference:
    """Of the mean over `tasks`; `rate` is 0 for accuracy, 1 for recall."""
    before, after = (rates.drawn[:, list(tasks), rate] for rates in (first, other))
    otherwise = (first.counted != other.counted)[list(tasks), rate].any(0)
    there = ~np.isnan(before)
    count = np.where(there.any(1), there.sum(1), np.nan)
    return Difference(
        difference=float((other.here - first.here)[list(tasks), rate].mean()),
        interval=difference_interval(
            np.nansum(before, axis=1) / count, np.nansum(after, axis=1) / count
        ),
        judged_otherwise=int(otherwise.sum()),
    )
