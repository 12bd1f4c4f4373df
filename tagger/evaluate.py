"""Score a model on a labelled catalog, with and without each modality."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np

from tagger.bundle import Bundle
from tagger.calibration import DEFAULT_PRECISION
from tagger.catalog import Columns, folder_of
from tagger.config import Frozen
from tagger.metrics import Labels, squared_error
from tagger.model import Output
from tagger.output import write_json
from tagger.pixel_cache import PixelCache
from tagger.products import Products, read_products
from tagger.scores import Answers, Score, score
from tagger.scrub import giveaways
from tagger.tasks import Task
from tagger.version import __version__
from tagger.views import NO_ANSWER, VIEWS, predict_views

NUM_THREADS = 8
SCRUBBED_TASKS = ("color", "pattern")
"""Tasks whose words the scrubbed view takes out of the titles: those that titles mostly name."""


class Evaluation(Frozen, frozen=True):
    """`scores[view][task]`; `precision` is the target of recall and coverage at precision."""

    num_products: int
    precision: float
    scores: dict[str, dict[str, Score]]


def evaluate_catalog(
    bundle: Bundle,
    catalog: Path,
    tasks: Sequence[str],
    columns: Columns = Columns(),
    image_root: Path | None = None,
    limit: int | None = None,
    progress: Callable[[int, int], None] = lambda rows, total: None,
    precision: float = DEFAULT_PRECISION,
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
        return evaluate(bundle, products, pixels, known, progress, precision)


def evaluate(
    bundle: Bundle,
    products: Products,
    pixels: PixelCache,
    tasks: Sequence[Task],
    progress: Callable[[int, int], None],
    precision: float,
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
    truth = {t.name: np.array(t.label_ids(products.labels[t.name])) for t in tasks}
    for rows, outputs in predict_views(
        bundle.model, bundle.tokenizer, products, pixels, bundle.device, views, words
    ):
        for view, output in outputs.items():
            for name in truth:
                _collect(
                    answers[view][name],
                    output,
                    name,
                    names.index(name),
                    bundle.temperature(name),
                    truth[name][rows],
                )
        progress(rows[-1] + 1, len(products))
    scores = {
        str(view): {
            task.name: score(task, products.labels[task.name], answers[view][task.name], precision)
            for task in tasks
        }
        for view in views
    }
    return Evaluation(num_products=len(products), precision=precision, scores=scores)


def write_evaluation(evaluation: Evaluation, bundle: Bundle, path: Path) -> None:
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
    answers: Answers, output: Output, name: str, index: int, temperature: float, truth: Labels
) -> None:
    probabilities = (output.logits[name].double() / temperature).softmax(-1)
    confidence, label_ids = probabilities.max(-1)
    weights = output.modality_weights[:, index]
    answered = weights.sum(-1) > 0
    held = (probabilities * answered[:, None]).cpu().numpy()
    answers.label_ids.append(label_ids.masked_fill(~answered, NO_ANSWER).cpu().numpy())
    answers.confidences.append(confidence.masked_fill(~answered, 0).cpu().numpy())
    answers.squared_errors.append(squared_error(held, truth))
    answers.image_weights.append(weights[:, 0].double().cpu().numpy())
