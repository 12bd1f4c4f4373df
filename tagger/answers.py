"""A model's answers to a catalog in memory, with picture and title shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tagger.decision import applies
from tagger.images import NUM_THREADS
from tagger.modalities import IMAGE, TEXT
from tagger.pixel_cache import PixelCache
from tagger.products import Products
from tagger.runtime import BatchAnswers, Logits, Model


@dataclass(frozen=True)
class Answers:
    """What the model says of n products: per task logits (n, labels) and the weight of the picture
    (n,); applies (n,) whether it says that the task does; has_image and has_title (n,) say what
    there was to answer from."""

    logits: dict[str, Logits]
    applies: dict[str, NDArray[np.bool_]]
    image_weights: dict[str, NDArray[np.float32]]
    has_image: NDArray[np.bool_]
    has_title: NDArray[np.bool_]

    @classmethod
    def of(cls, bundle: Model, tasks: Sequence[str], batch: BatchAnswers) -> Answers:
        """What `batch` says of `tasks`."""
        places = {task.name: place for place, task in enumerate(bundle.config.tasks)}
        weights = batch.modality_weights
        return cls(
            {name: batch.logits[name] for name in tasks},
            {name: applies(bundle, name, batch) for name in tasks},
            {name: weights[:, places[name], IMAGE] for name in tasks},
            weights[:, 0, IMAGE] != 0,
            weights[:, 0, TEXT] != 0,
        )

    @classmethod
    def blank(
        cls, bundle: Model, tasks: Sequence[str], size: int, with_logits: bool = True
    ) -> Answers:
        """To be filled in. Logits take by far the most memory, 4 bytes a label and product."""
        labels = {name: len(bundle.task(name).labels) for name in tasks}
        return cls(
            {n: np.zeros((size, m), np.float32) for n, m in labels.items() if with_logits},
            {name: np.zeros(size, np.bool_) for name in tasks},
            {name: np.zeros(size, np.float32) for name in tasks},
            np.zeros(size, np.bool_),
            np.zeros(size, np.bool_),
        )

    def put(self, rows: Sequence[int], answers: Answers) -> None:
        """Write `answers` to `rows`."""
        for name, values in self.logits.items():
            values[rows] = answers.logits[name]
        for name in self.applies:
            self.applies[name][rows] = answers.applies[name]
            self.image_weights[name][rows] = answers.image_weights[name]
        self.has_image[rows] = answers.has_image
        self.has_title[rows] = answers.has_title

    def take(self, rows: NDArray[np.int64]) -> Answers:
        """Those to the products at `rows`."""
        return Answers(
            {name: values[rows] for name, values in self.logits.items()},
            {name: values[rows] for name, values in self.applies.items()},
            {name: values[rows] for name, values in self.image_weights.items()},
            self.has_image[rows],
            self.has_title[rows],
        )

    @property
    def answered(self) -> NDArray[np.bool_]:
        """(n,) whether there was a picture or a title."""
        return self.has_image | self.has_title

    @property
    def both(self) -> NDArray[np.bool_]:
        """(n,) whether there were both."""
        return self.has_image & self.has_title


@contextmanager
def pictures(bundle: Model, products: Products, root: Path) -> Iterator[PixelCache]:
    """Those of `products` as the model sees them, none of which is kept."""
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        yield PixelCache(products.images, root, bundle.config.preprocess, pool, max_bytes=0)


def answer_batches(
    bundle: Model,
    products: Products,
    pixels: PixelCache,
    tasks: Sequence[str],
    progress: Callable[[int, int], None] = lambda rows, total: None,
) -> Iterator[tuple[Sequence[int], Answers]]:
    """Rows and the answers to them, of all `products`, which need no labels."""
    for rows, by_view in bundle.answer_views(products, pixels, ["both"]):
        yield rows, Answers.of(bundle, tasks, by_view["both"])
        progress(rows[-1] + 1, len(products))


def collect_answers(bundle: Model, products: Products, root: Path, tasks: Sequence[str]) -> Answers:
    """The answers to all `products`."""
    answers = Answers.blank(bundle, tasks, len(products))
    with pictures(bundle, products, root) as pixels:
        for rows, batch in answer_batches(bundle, products, pixels, tasks):
            answers.put(rows, batch)
    return answers
