"""Score a model on a labelled catalog, with and without each modality."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from tagger.answers import Answers, pictures
from tagger.applicability import mask
from tagger.catalog import Catalog
from tagger.config import PRECISION, Frozen
from tagger.decision import applies, decide
from tagger.images import ImageStatus
from tagger.modalities import VIEWS, View
from tagger.output import write_json
from tagger.products import Products, ProductSource, require_labels
from tagger.runtime import Model
from tagger.scores import (
    ApplicabilityScore,
    Judged,
    Predictions,
    Published,
    Score,
    applicability_score,
    judge,
    published,
    score,
)
from tagger.scrub import giveaways
from tagger.split import HELD_BACK, LEARNED
from tagger.tasks import Task
from tagger.trained_on import past_of
from tagger.version import __version__


class Evaluation(Frozen, frozen=True):
    """`scores[view][task]`; `precision` is the target of recall and coverage at precision. The
    model learned from `trained_on` of the products, which flatters it, and its epoch was chosen on
    `held_back` others. On this very catalog the tasks `calibrated_on` were calibrated."""

    num_products: int
    trained_on: int
    held_back: int
    calibrated_on: tuple[str, ...]
    precision: float
    scores: dict[str, dict[str, Score]]


@dataclass(frozen=True)
class Evaluated:
    """The figures, and what they were made of: the products, which of them (n,) the model learned
    from, each view's and task's predictions beside the labels, the answers to picture and title
    together, and how many pictures had which status."""

    figures: Evaluation
    products: Products
    trained_on: NDArray[np.bool_]
    judged: dict[View, dict[str, Judged]]
    answers: Answers
    image_statuses: Counter[ImageStatus]


def evaluate_catalog(
    bundle: Model,
    source: ProductSource,
    tasks: Sequence[str],
    precision: float = PRECISION,
    progress: Callable[[int, int], None] = lambda rows, total: None,
    words: Mapping[str, frozenset[str]] | None = None,
    with_logits: bool = False,
) -> Evaluated:
    """Every task in every view; labels that the model does not know count as wrong.

    In the scrubbed view the title loses the words of all labels of the task itself, or those that
    `words` has for it. A product that a view leaves without any modality has confidence 0.
    `progress` is called with the number of rows done and of all. Label issues and a page need the
    logits of the answers, no figure does.

    Raises:
        ModelError: a task that the model does not know.
        CatalogError: a task that the catalog has no column of, none that it has labels of, or see
            `Catalog`.
    """
    known = [bundle.task(name) for name in tasks]
    names = [task.name for task in bundle.config.tasks]
    rule = bundle.config.applicability
    deciding = [rule.task] if rule is not None and source.has_labels(rule.task) else []
    products = source.read(list(dict.fromkeys([*tasks, *deciding])))
    # What a task does not apply to is also told by the labels of the one that decides it.
    ruled = rule is not None and any(name in rule.not_for for name in tasks)
    require_labels(products, [*tasks, *deciding] if ruled else tasks, source)
    words = words or {task.name: giveaways(task.nodes) for task in known}
    predictions = {view: {task.name: Predictions() for task in known} for view in VIEWS}
    truth = {t.name: t.label_ids(products.labels[t.name]) for t in known}
    collected = Answers.blank(bundle, tasks, len(products), with_logits)
    with pictures(bundle, products, source.root) as pixels:
        for rows, by_view in bundle.answer_views(products, pixels, VIEWS, words):
            collected.put(rows, Answers.of(bundle, tasks, by_view["both"]))
            for view, answers in by_view.items():
                # Without the words of a task the title still says what kind of product it is.
                kind = by_view["both"] if view == "scrubbed" else answers
                for task in known:
                    decision = decide(
                        task, answers.logits[task.name], bundle.temperature(task.name)
                    )
                    weights = answers.modality_weights[:, names.index(task.name)]
                    given = (weights != 0).any(1) & applies(bundle, task.name, kind)
                    predictions[view][task.name].add(
                        decision, given, truth[task.name][rows], weights.astype(np.float64)
                    )
            progress(rows[-1] + 1, len(products))
    judged: dict[View, dict[str, Judged]] = {
        view: {t.name: judge(t, products.labels[t.name], by_task[t.name]) for t in known}
        for view, by_task in predictions.items()
    }
    past = past_of(products, [bundle.path])
    trained_on = past == LEARNED
    scores: dict[str, dict[str, Score]] = {
        view: {name: score(one, precision) for name, one in by_task.items()}
        for view, by_task in judged.items()
    }
    for task in known:
        scores["both"][task.name] = msgspec.structs.replace(
            scores["both"][task.name],
            published=_published(judged["both"][task.name], bundle, task, precision),
            applicability=_applicability(bundle, task, products, collected),
        )
    figures = Evaluation(
        num_products=len(products),
        trained_on=int(trained_on.sum()),
        held_back=int((past == HELD_BACK).sum()),
        calibrated_on=_calibrated_on(bundle, source, tasks),
        precision=precision,
        scores=scores,
    )
    statuses = Counter(pixels.statuses.values())
    return Evaluated(figures, products, trained_on, judged, collected, statuses)


def _calibrated_on(bundle: Model, source: ProductSource, tasks: Sequence[str]) -> tuple[str, ...]:
    """Those of `tasks` that were calibrated on the files of `source`."""
    if bundle.calibration is None:
        return ()
    fitted, origin = bundle.calibration.tasks, Catalog(source.path).sha256
    return tuple(t for t in tasks if t in fitted and fitted[t].catalog_sha256 == origin)


def _published(judged: Judged, bundle: Model, task: Task, precision: float) -> Published | None:
    threshold = bundle.threshold(task.name, precision)
    return None if threshold is None or not len(judged.rows) else published(judged, threshold)


def _applicability(
    bundle: Model, task: Task, products: Products, answers: Answers
) -> ApplicabilityScore | None:
    """None for a task that applies to everything. True nodes are those of the catalog's labels; a
    product whose node has leaves of either kind is not judged."""
    allowed, rule = mask(bundle.config, task.name), bundle.config.applicability
    if allowed is None or rule is None:
        return None
    there = answers.answered
    excluded = np.full(len(there), np.nan)
    if rule.task in products.labels:
        tree = bundle.task(rule.task).tree
        nodes = bundle.task(rule.task).nearest_ids(products.labels[rule.task])
        share = np.array([allowed[first:end].mean() for first, end in tree.spans])
        # Where the task applies to some leaves below a node and not to others, nobody knows.
        by_node = np.where((share > 0) & (share < 1), np.nan, share == 0)
        excluded = np.where(nodes >= 0, by_node[nodes], np.nan)
    filled = np.array([label is not None for label in products.labels[task.name]])
    return applicability_score(~answers.applies[task.name][there], filled[there], excluded[there])


def write_evaluation(evaluation: Evaluation, bundle: Model, path: Path) -> None:
    """The figures as JSON, with what they were measured with.

    Raises:
        DiskFullError, OutputError: `path` cannot be written.
    """
    document = {
        "tagger_version": __version__,
        "model_sha256": bundle.sha256,
        **msgspec.to_builtins(evaluation),
    }
    write_json(path, document)
