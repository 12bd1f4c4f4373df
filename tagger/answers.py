"""A model's answers to a catalog in memory, with picture and title shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tagger.decision import applies
from tagger.images import NUM_THREADS, ImageStatus
from tagger.modalities import IMAGE, TEXT
from tagger.pixel_cache import PixelCache
from tagger.products import Products
from tagger.runtime import BatchAnswers, Logits, Model


@dataclass(frozen=True)
class Answers:
    """What the model says of n products: per task logits (n, labels) and the weight of the picture
    (n,); applies (n,) whether it says that the task does; has_image and has_title (n,) say what
    there was to answer from, and image_statuses how many pictures had which status."""

    logits: dict[str, Logits]
    applies: dict[str, NDArray[np.bool_]]
    image_weights: dict[str, NDArray[np.float32]]
    has_image: NDArray[np.bool_]
    has_title: NDArray[np.bool_]
    image_statuses: Counter[ImageStatus]

    def take(self, rows: NDArray[np.int64]) -> Answers:
        """Those to the products at `rows`; the statuses stay those of all pictures."""
        return Answers(
            {name: values[rows] for name, values in self.logits.items()},
            {name: values[rows] for name, values in self.applies.items()},
            {name: values[rows] for name, values in self.image_weights.items()},
            self.has_image[rows],
            self.has_title[rows],
            self.image_statuses,
        )

    @property
    def answered(self) -> NDArray[np.bool_]:
        """(n,) whether there was a picture or a title."""
        return self.has_image | self.has_title

    @property
    def both(self) -> NDArray[np.bool_]:
        """(n,) whether there were both."""
        return self.has_image & self.has_title


@dataclass(frozen=True)
class Collector:
    """What a model says, batch by batch, of which the answers to `tasks` are kept."""

    bundle: Model
    tasks: Sequence[str]
    _logits: dict[str, list[Logits]] = field(default_factory=dict)
    _applies: dict[str, list[NDArray[np.bool_]]] = field(default_factory=dict)
    _weights: list[NDArray[np.float32]] = field(default_factory=list)

    def add(self, answers: BatchAnswers) -> None:
        """Those to the next batch."""
        for name in self.tasks:
            self._logits.setdefault(name, []).append(answers.logits[name])
            self._applies.setdefault(name, []).append(applies(self.bundle, name, answers))
        self._weights.append(answers.modality_weights)

    def answers(self, pixels: PixelCache) -> Answers:
        """All that were added, at least one batch, to pictures from `pixels`."""
        names = [task.name for task in self.bundle.config.tasks]
        weights = np.concatenate(self._weights)
        return Answers(
            {name: np.concatenate(parts) for name, parts in self._logits.items()},
            {name: np.concatenate(parts) for name, parts in self._applies.items()},
            {name: weights[:, names.index(name), IMAGE] for name in self.tasks},
            weights[:, 0, IMAGE] != 0,
            weights[:, 0, TEXT] != 0,
            Counter(pixels.statuses.values()),
        )


def collect_answers(
    bundle: Model,
    products: Products,
    root: Path,
    tasks: Sequence[str],
    progress: Callable[[int, int], None] = lambda rows, total: None,
) -> Answers:
    """The answers to all `products`, which need no labels."""
    collector = Collector(bundle, tasks)
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        pixels = PixelCache(products.images, root, bundle.config.preprocess, pool, max_bytes=0)
        for rows, answers in bundle.answer_views(products, pixels, ["both"]):
            collector.add(answers["both"])
            progress(rows[-1] + 1, len(products))
    return collector.answers(pixels)
