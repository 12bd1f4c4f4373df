"""Score a model on a labelled catalog, with and without each modality."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from tagger.answers import Answers, Collector
from tagger.config import PRECISION, Frozen
from tagger.images import NUM_THREADS
from tagger.metrics import Labels, squared_error
from tagger.modalities import IMAGE, VIEWS, View
from tagger.output import write_json
from tagger.pixel_cache import PixelCache
from tagger.products import Products, ProductSource
from tagger.runtime import BatchAnswers, Model, softmax
from tagger.scores import Judged, Predictions, Score, judge, score
from tagger.scrub import giveaways
from tagger.tasks import NO_ANSWER
from tagger.trained_on import was_trained_on
from tagger.version import __version__


class Evaluation(Frozen, frozen=True):
    """`scores[view][task]`; `precision` is the target of recall and coverage at precision. The
    model learned from `trained_on` of the products, which flatters it."""

    num_products: int
    trained_on: int
    precision: float
    scores: dict[str, dict[str, Score]]


@dataclass(frozen=True)
class Evaluated:
    """The figures, and what they were made of: the products, which of them (n,) the model learned
    from, each view's and task's predictions beside the labels, and the answers to picture and title
    together."""

    figures: Evaluation
    products: Products
    trained_on: NDArray[np.bool_]
    judged: dict[View, dict[str, Judged]]
    answers: Answers


def evaluate_catalog(
    bundle: Model,
    source: ProductSource,
    tasks: Sequence[str],
    precision: float = PRECISION,
    progress: Callable[[int, int], None] = lambda rows, total: None,
) -> Evaluated:
    """Every task in every view; labels that the model does not know count as wrong.

    In the scrubbed view the title loses the words of all labels of the task itself. A product that
    a view leaves without any modality has confidence 0. `progress` is called with the number of
    rows done and of all.

    Raises:
        ModelError: a task that the model does not know.
        CatalogError: a task that the catalog has no labels of, or see `Catalog`.
    """
    known = [bundle.task(name) for name in tasks]
    products = source.read(tasks)
    words = {task.name: giveaways(task.labels) for task in known}
    predictions = {view: {task.name: Predictions() for task in known} for view in VIEWS}
    truth = {t.name: np.array(t.label_ids(products.labels[t.name])) for t in known}
    collector = Collector(bundle, tasks)
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        preprocess = bundle.config.preprocess
        pixels = PixelCache(products.images, source.root, preprocess, pool, max_bytes=0)
        for rows, by_view in bundle.answer_views(products, pixels, VIEWS, words):
            collector.add(by_view["both"])
            for view, answers in by_view.items():
                for name in truth:
                    _collect(predictions[view][name], answers, bundle, name, truth[name][rows])
            progress(rows[-1] + 1, len(products))
    judged: dict[View, dict[str, Judged]] = {
        view: {t.name: judge(t, products.labels[t.name], by_task[t.name]) for t in known}
        for view, by_task in predictions.items()
    }
    trained_on = was_trained_on(bundle.path, products)
    figures = Evaluation(
        num_products=len(products),
        trained_on=int(trained_on.sum()),
        precision=precision,
        scores={
            view: {
                name: score(
                    one, precision, bundle.threshold(name, precision) if view == "both" else None
                )
                for name, one in by_task.items()
            }
            for view, by_task in judged.items()
        },
    )
    return Evaluated(figures, products, trained_on, judged, collector.answers(pixels))


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


def _collect(
    predictions: Predictions, answers: BatchAnswers, bundle: Model, name: str, truth: Labels
) -> None:
    """Add what `answers` say of task `name`, whose true labels are `truth` (n,)."""
    index = [task.name for task in bundle.config.tasks].index(name)
    probabilities = softmax(answers.logits[name], bundle.temperature(name))
    weights = answers.modality_weights[:, index].astype(np.float64)
    answered = weights.sum(1) > 0
    held = probabilities * answered[:, None]
    predictions.label_ids.append(np.where(answered, probabilities.argmax(1), NO_ANSWER))
    predictions.confidences.append(held.max(1))
    predictions.squared_errors.append(squared_error(held, truth))
    predictions.image_weights.append(weights[:, IMAGE])
