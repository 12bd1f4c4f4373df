"""Score a model on a labelled catalog, with and without each modality."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from tagger.bundle import Bundle
from tagger.catalog import Columns, folder_of
from tagger.config import Frozen
from tagger.errors import OutputError
from tagger.metrics import accuracy, macro_f1, recall_at_precision
from tagger.model import Output
from tagger.pixel_cache import PixelCache
from tagger.products import Products, read_products
from tagger.scrub import giveaways
from tagger.tasks import UNKNOWN_LABEL, UNLABELED, Task
from tagger.version import __version__
from tagger.views import NO_ANSWER, VIEWS, predict_views

NUM_THREADS = 8
SCRUBBED_TASKS = ("color", "pattern")
"""Tasks whose words the scrubbed view takes out of the titles: those that titles mostly name."""


class Score(Frozen, frozen=True):
    """One task in one view. Rates are in 0..1 and null where no product has a label.

    `num_products` carry a label; `unknown_labels` counts those that the model does not know (they
    are wrong in every rate). A product that the view leaves nothing to answer from is wrong too,
    and never published. `image_weight` is the mean weight of the picture over the others.
    """

    num_products: int
    accuracy: float | None
    macro_f1: float | None
    recall_at_90_precision: float | None
    image_weight: float | None
    unknown_labels: dict[str, int]


class Evaluation(Frozen, frozen=True):
    """`scores[view][task]`."""

    num_products: int
    scores: dict[str, dict[str, Score]]


@dataclass
class Answers:
    """Predictions of one task in one view, collected over batches."""

    label_ids: list[NDArray[np.int64]] = field(default_factory=list)
    confidences: list[NDArray[np.float64]] = field(default_factory=list)
    image_weights: list[NDArray[np.float64]] = field(default_factory=list)


def evaluate_catalog(
    bundle: Bundle,
    catalog: Path,
    tasks: Sequence[str],
    columns: Columns = Columns(),
    image_root: Path | None = None,
    limit: int | None = None,
    progress: Callable[[int, int], None] = lambda rows, total: None,
) -> Evaluation:
    """Every task in every view, in fp32; labels that the model does not know count as wrong.

    `progress` is called with the number of rows done and of all. A product that a view leaves
    without any modality has confidence 0.

    Raises:
        ModelError: a task that the model does not know.
        CatalogError: a task that the catalog has no labels of, or see `Catalog`.
    """
    known = [bundle.task(name) for name in tasks]
    products = read_products(catalog, columns, tasks, limit)
    root = image_root or folder_of(catalog)
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        pixels = PixelCache(products.images, root, bundle.config.preprocess, pool, max_bytes=0)
        return evaluate(bundle, products, pixels, known, progress)


def evaluate(
    bundle: Bundle,
    products: Products,
    pixels: PixelCache,
    tasks: Sequence[Task],
    progress: Callable[[int, int], None],
) -> Evaluation:
    """Score `tasks` on `products` in every view.

    The scrubbed view loses the words of SCRUBBED_TASKS; there is none if the model has no such.
    """
    words = giveaways(
        label
        for task in bundle.config.tasks
        if task.name in SCRUBBED_TASKS
        for label in task.labels
    )
    views = [view for view in VIEWS if words or view != "scrubbed"]
    answers = {view: {task.name: Answers() for task in tasks} for view in views}
    names = [task.name for task in bundle.config.tasks]
    for rows, outputs in predict_views(
        bundle.model, bundle.tokenizer, products, pixels, bundle.device, views, words
    ):
        for view, output in outputs.items():
            for task in tasks:
                _collect(answers[view][task.name], output, task.name, names.index(task.name))
        progress(rows[-1] + 1, len(products))
    scores = {
        str(view): {
            task.name: _score(task, products.labels[task.name], answers[view][task.name])
            for task in tasks
        }
        for view in views
    }
    return Evaluation(num_products=len(products), scores=scores)


def write_evaluation(evaluation: Evaluation, bundle: Bundle, path: Path) -> None:
    """The figures as JSON, with what they were measured with.

    Raises:
        OutputError: `path` cannot be written.
    """
    document = {
        "tagger_version": __version__,
        "model_sha256": bundle.sha256,
        **msgspec.to_builtins(evaluation),
    }
    try:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror}", "name another --json"
        ) from error


def _collect(answers: Answers, output: Output, name: str, index: int) -> None:
    probabilities = output.logits[name].softmax(-1)
    confidence, label_ids = probabilities.max(-1)
    weights = output.modality_weights[:, index]
    answered = weights.sum(-1) > 0
    answers.label_ids.append(label_ids.masked_fill(~answered, NO_ANSWER).cpu().numpy())
    answers.confidences.append(confidence.masked_fill(~answered, 0).double().cpu().numpy())
    answers.image_weights.append(weights[:, 0].double().cpu().numpy())


def _score(task: Task, labels: list[str | None], answers: Answers) -> Score:
    truth = np.array(task.label_ids(labels))
    known = truth != UNLABELED
    predicted = np.concatenate(answers.label_ids)[known]
    confidence = np.concatenate(answers.confidences)[known]
    truth = truth[known]
    unknown: dict[str, int] = {}
    for label in labels:
        if label is not None and task.label_id(label) == UNKNOWN_LABEL:
            unknown[label] = unknown.get(label, 0) + 1
    if not len(truth):
        return Score(
            num_products=0,
            accuracy=None,
            macro_f1=None,
            recall_at_90_precision=None,
            image_weight=None,
            unknown_labels={},
        )
    named = np.array([label for label in labels if label is not None])
    guessed = np.array([task.labels[i] if i >= 0 else "" for i in predicted])
    return Score(
        num_products=len(truth),
        accuracy=accuracy(truth, predicted),
        macro_f1=macro_f1(named, guessed),
        recall_at_90_precision=recall_at_precision(truth == predicted, confidence),
        image_weight=_mean_weight(np.concatenate(answers.image_weights)[known][predicted >= 0]),
        unknown_labels=dict(sorted(unknown.items(), key=lambda item: -item[1])),
    )


def _mean_weight(weights: NDArray[np.float64]) -> float | None:
    return float(weights.mean()) if len(weights) else None
