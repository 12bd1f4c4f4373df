"""What the commands ask of a loaded model, whichever library computes its answers."""

from __future__ import annotations

import shlex
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from tagger.calibration import Calibration, Threshold
from tagger.config import BATCH_SIZE, GPU_BATCH_SIZE, Config
from tagger.errors import ModelError, closest, listing
from tagger.images import ImageStatus, Pixels
from tagger.modalities import View
from tagger.pixel_cache import PixelCache
from tagger.products import Products
from tagger.tasks import Task, label_of
from tagger.tokenizer import Tokenizer

if TYPE_CHECKING:
    from tagger.network import Features

Logits = NDArray[np.float32]
ROUND = 8
"""Batches are filled up to multiples of so many products, and titles to so many tokens. Matrix
products then take the same path for every row, and no bit of an answer hangs on what else is in the
batch (seen on CPUs with AVX-512; a GPU may choose otherwise)."""
TITLE_STEP = 2
"""Where torch computes on a CPU, titles are filled up to multiples of so many tokens instead. Only
titles of one length share a batch: less is computed for nothing, but batches are smaller, which
costs a GPU more than it gains."""
NO_WORDS: Mapping[str, frozenset[str]] = {}


@dataclass(frozen=True)
class BatchAnswers:
    """What a model says of n products: per task logits (n, labels), and modality weights
    (n, tasks, 2) in the order of `tagger.modalities`.

    Each pair of weights sums to 1, an absent modality weighs exactly 0; both are NaN where the
    model cannot tell. A product without any weighs (0, 0), and its logits say nothing.
    """

    logits: dict[str, Logits]
    modality_weights: NDArray[np.float32]

    def without_overflows(self) -> BatchAnswers:
        """These, but a product for which a number outgrew its type (a logit is infinite or not a
        number, so that no label is likelier than another) counts as one without any modality."""
        lost = np.zeros(len(self.modality_weights), dtype=bool)
        for values in self.logits.values():
            lost |= ~np.isfinite(values.max(1))
        if not lost.any():
            return self
        return BatchAnswers(
            {name: np.where(lost[:, None], 0.0, values) for name, values in self.logits.items()},
            np.where(lost[:, None, None], 0.0, self.modality_weights),
        )


@dataclass(frozen=True)
class Inputs:
    """What a model sees of one product: picture and title; the key names the picture file.

    Of a picture that is remembered there are `features` instead of pixels; `ids` are token ids,
    empty without a usable title.
    """

    image_key: bytes | None = None
    pixels: Pixels | None = None
    features: Features | None = None
    ids: Sequence[int] = ()

    @property
    def has_image(self) -> bool:
        """Whether there is a usable picture."""
        return self.pixels is not None or self.features is not None


@dataclass(frozen=True)
class Work:
    """What was computed for a run: pictures and titles that the network saw, those that a cache
    from earlier runs had, damaged ones in it, and why it was left aside, if it was."""

    encoded_images: int = 0
    encoded_titles: int = 0
    found_in_cache: int = 0
    damaged_in_cache: int = 0
    trouble: str | None = None


class Answerer(Protocol):
    """Products to answers, batch by batch.

    `look` and `read` may be called from several threads at a time, `expect` and `answer` from one.
    """

    @property
    def bundle(self) -> Model:
        """The model that answers."""
        ...

    @property
    def work(self) -> Work:
        """What it has done so far."""
        ...

    def look(self, key: bytes, data: bytes) -> tuple[Pixels | None, Features | None, ImageStatus]:
        """Pixels or remembered features of the picture file `data`, and its status."""
        ...

    def read(self, title: str | None) -> Sequence[int]:
        """Token ids of a title; none of one that cannot be used."""
        ...

    def padded_length(self, ids: Sequence[int]) -> int:
        """Tokens that a title is filled up to; only titles of one length share a batch."""
        ...

    def expect(self, products: Sequence[Inputs]) -> None:
        """`answer` will be asked about these, sooner or later and in any order."""
        ...

    def answer(self, products: Sequence[Inputs]) -> BatchAnswers:
        """The answers to products of one `padded_length`.

        Raises:
            UsageError: one product alone does not fit into the memory of the device.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Model(ABC):
    """A loaded model directory or export: all that reads products and labels them."""

    is_export: ClassVar[bool]
    """Whether it is one graph of `tagger export`: neither towers nor gradients can be had of it."""

    path: Path
    config: Config
    tokenizer: Tokenizer
    sha256: str
    calibration: Calibration | None = None

    def task(self, name: str) -> Task:
        """Raises:
        ModelError: the model does not know task `name`.
        """
        known = {task.name: task for task in self.config.tasks}
        alike = next((own for own in known if label_of(own) == label_of(name)), None)
        if name not in known and alike is not None:
            raise ModelError(
                f"{self.path.name} does not know task {name!r} in these letters, but in others "
                "that look alike (an accent may be one of its own)",
                f"copy the name from here: {shlex.quote(alike)}",
            )
        if name not in known:
            raise ModelError(
                f"{self.path.name} does not know task {name!r}; it knows: {listing(list(known))}."
                f"{closest(name, list(known))}",
                "choose among these, or train a model on labels of that task",
            )
        return known[name]

    def temperature(self, task: str) -> float:
        """What divides the logits of `task` before the softmax: 1 for a task not calibrated."""
        return 1.0 if self.calibration is None else self.calibration.temperature(task)

    def threshold(self, task: str, precision: float) -> Threshold | None:
        """What the calibration has for `precision`, if there is one and it has."""
        return None if self.calibration is None else self.calibration.find(task, precision)

    @property
    def calibrated(self) -> Collection[str]:
        """The tasks that a temperature was fitted for."""
        return () if self.calibration is None else self.calibration.tasks.keys()

    @property
    @abstractmethod
    def device_type(self) -> str:
        """What it computes on: "cpu", "cuda" ..."""

    @property
    def batch_size(self) -> int:
        """Products that it sees at once unless told otherwise, if they fit into the memory."""
        return BATCH_SIZE if self.device_type == "cpu" else GPU_BATCH_SIZE

    @property
    @abstractmethod
    def computed_in(self) -> str:
        """The type of number that its heavy parts compute in, such as "bfloat16"."""

    @property
    @abstractmethod
    def versions(self) -> dict[str, str]:
        """The packages that compute its answers, with their versions."""

    @abstractmethod
    def answerer(self, cache: Path | None = None) -> AbstractContextManager[Answerer]:
        """One that labels products, and remembers in the folder `cache` what it computed.

        Raises:
            OutputError: `cache` cannot be written.
        """

    @abstractmethod
    def answer_views(
        self,
        products: Products,
        pixels: PixelCache,
        views: Sequence[View],
        words: Mapping[str, frozenset[str]] = NO_WORDS,
    ) -> Iterator[tuple[list[int], dict[View, BatchAnswers]]]:
        """Row numbers and answers per view, batch by batch.

        For each task, the view "scrubbed" takes its `words` out of the titles; it answers only
        tasks that have some.
        """


def round_up(count: int, step: int = ROUND) -> int:
    """`count`, or the next multiple of `step`."""
    return -(-count // step) * step


def softmax(logits: Logits, temperature: float) -> NDArray[np.float64]:
    """(n, labels) probabilities at `temperature`."""
    values = logits.astype(np.float64)
    values /= temperature
    values -= values.max(1, keepdims=True)
    np.exp(values, out=values)
    values /= values.sum(1, keepdims=True)
    return values
