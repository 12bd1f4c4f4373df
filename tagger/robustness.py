"""How the answers of a model hold when one modality gets worse."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from tagger.config import PRECISION, Frozen, Preprocess
from tagger.corruption import (
    CONDITIONS,
    NO_PICTURE,
    Condition,
    Corrupted,
    Originals,
    clean,
    corrupt,
    hit_rows,
)
from tagger.decision import Bools, Decision, Floats, Ids, applies, decide
from tagger.images import NUM_THREADS, Pixels
from tagger.metrics import mean_of_known, recall_at_precision
from tagger.pixel_cache import PixelCache
from tagger.products import Products, ProductSource
from tagger.runtime import Answerer, BatchAnswers, Inputs, Model
from tagger.scores import judged_level
from tagger.scrub import giveaways
from tagger.tasks import UNLABELED, Task

SEED = 0
MAX_BYTES = 1 << 30
"""Decoded pictures that are kept: 7,000 of 224 x 224 pixels. Those beyond are decoded again
wherever they are shown, which changes no figure."""
BLOCK = 256
"""Products that go through all conditions before the next ones do. An encoder remembers 256 MB: of
the default model 13,000 pictures, but of a ViT-B/32 only 1,700, so that if all of a catalog went
through one condition after the other, each would find the pictures forgotten that the last one
encoded. Conditions of titles come first in a block, before altered pictures push the others out."""


class Point(Frozen, frozen=True):
    """The figures at one strength, in 0..1; null for a task without labels, and for no task."""

    strength: float
    accuracy: dict[str, float | None]
    recall_at_precision: dict[str, float | None]
    mean_accuracy: float | None
    mean_recall: float | None


class Robustness(Frozen, frozen=True):
    """`conditions[kind]` is a curve from strength 0, the catalog as it is, to the worst;
    `precision` is the target of the recall. Equal seeds and catalogs make equal corruptions."""

    num_products: int
    precision: float
    seed: int
    conditions: dict[str, tuple[Point, ...]]


@dataclass(frozen=True)
class Shown:
    """What is shown of one product; equal pictures have equal keys."""

    title: str | None
    pixels: Pixels | None = None
    image_key: bytes | None = None


@dataclass(frozen=True)
class Said:
    """What was said of one task for n products; (n,) each: whether there was anything to answer
    from, and whether the task was said to apply."""

    decision: Decision
    answered: Bools
    applies: Bools


class Subject(Protocol):
    """What is put to the test: a model (see `ModelSubject`), or anything else that decides."""

    @property
    def tasks(self) -> Sequence[Task]:
        """Those that it is tested on, with its own labels."""
        ...

    @property
    def preprocess(self) -> Preprocess | None:
        """The pixels that it is shown; None if it reads no pictures, and is shown none."""
        ...

    def ask(self, products: Sequence[Shown], tasks: Sequence[str]) -> Mapping[str, Said]:
        """What it says of each of `tasks`, some of its own, in the order of `products`."""
        ...


@dataclass(frozen=True)
class ModelSubject:
    """A model or an export of any system; it sees `batch_size` products at a time at most."""

    answerer: Answerer
    tasks: Sequence[Task]
    batch_size: int

    @property
    def preprocess(self) -> Preprocess:
        return self.answerer.bundle.config.preprocess

    def ask(self, products: Sequence[Shown], tasks: Sequence[str]) -> Mapping[str, Said]:
        bundle = self.answerer.bundle
        answers = self._answers(products)
        names = [task.name for task in bundle.config.tasks]
        answered = (answers.modality_weights != 0).any(2)
        return {
            task.name: Said(
                decide(task, answers.logits[task.name], bundle.temperature(task.name)),
                answered[:, names.index(task.name)],
                applies(bundle, task.name, answers),
            )
            for task in self.tasks
            if task.name in tasks
        }

    def _answers(self, products: Sequence[Shown]) -> BatchAnswers:
        """In the order of `products`, but only titles of one padded length share a batch."""
        by_length: dict[int, list[int]] = {}
        inputs = []
        for row, product in enumerate(products):
            ids = self.answerer.read(product.title)
            inputs.append(Inputs(product.image_key, product.pixels, None, ids))
            by_length.setdefault(self.answerer.padded_length(ids), []).append(row)
        batches = [
            rows[start : start + self.batch_size]
            for rows in by_length.values()
            for start in range(0, len(rows), self.batch_size)
        ]
        parts = [self.answerer.answer([inputs[row] for row in rows]) for rows in batches]
        back = np.argsort(np.concatenate(batches))
        return BatchAnswers(
            {
                name: np.concatenate([p.logits[name] for p in parts])[back]
                for name in parts[0].logits
            },
            np.concatenate([part.modality_weights for part in parts])[back],
        )


@dataclass(frozen=True)
class Marks:
    """What answers to one task are worth, (n,) each: whether the one at the depth of the label is
    right, its confidence (0 where there is none), and whether the task was said to apply."""

    correct: Bools
    confidence: Floats
    applies: Bools

    @classmethod
    def blank(cls, size: int) -> Marks:
        """To be filled in."""
        return cls(np.zeros(size, np.bool_), np.zeros(size), np.zeros(size, np.bool_))

    @classmethod
    def of(cls, said: Said, truth: Ids, applies: Bools) -> Marks:
        """Of n answers beside the label_ids `truth` (n,)."""
        decision, given = said.decision, said.answered & applies
        row = np.arange(len(truth))
        level = judged_level(decision.task, truth, decision.chain)
        right = decision.chain[row, level] == truth
        return cls(right & given, decision.confidences[row, level] * given, applies)

    def take(self, rows: Ids | Bools) -> Marks:
        """Those of `rows`."""
        return Marks(self.correct[rows], self.confidence[rows], self.applies[rows])

    def put(self, rows: Ids, marks: Marks) -> None:
        """Write `marks` into `rows`."""
        self.correct[rows] = marks.correct
        self.confidence[rows] = marks.confidence
        self.applies[rows] = marks.applies

    def where(self, hit: Bools, other: Marks) -> Marks:
        """Those of `other` for products that are `hit` (n,)."""
        return Marks(
            np.where(hit, other.correct, self.correct),
            np.where(hit, other.confidence, self.confidence),
            np.where(hit, other.applies, self.applies),
        )


class Trial:
    """A labelled catalog and all that is to be done to it, the same for every subject.

    Subjects of one `preprocess`, one after the other, share the decoded pictures.
    """

    def __init__(
        self,
        products: Products,
        root: Path,
        pool: ThreadPoolExecutor,
        conditions: Sequence[Condition] = CONDITIONS,
        seed: int = SEED,
    ) -> None:
        self.products, self.conditions, self.seed = products, conditions, seed
        self.pool = pool
        self._root = root
        self._decoded: tuple[Preprocess, PixelCache] | None = None
        self._has_picture: Bools | None = None

    def run(
        self,
        subject: Subject,
        precision: float = PRECISION,
        words: Mapping[str, frozenset[str]] | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Robustness:
        """The curves of `subject`.

        Args:
            precision: target of the recall, 0..1.
            words: by task, what titles_scrubbed takes out, so that it can be the same for subjects
                with different labels; for tasks without, the words of the subject's own labels.
            progress: is called with the number of products gone through, in whatever condition, and
                that of all.

        Raises:
            UsageError: one product alone does not fit into the memory of the device.
        """
        own = {task.name: giveaways(task.nodes) for task in subject.tasks}
        own |= {task: given for task, given in (words or {}).items() if task in own}
        pixels = None if subject.preprocess is None else self._pixels(subject.preprocess)
        run = _Run(self, subject, own, pixels, self._originals(pixels))
        size, done = len(self.products), 0
        for start in range(0, size, BLOCK):
            rows = np.arange(start, min(start + BLOCK, size))
            for variant in run.variants:
                run.mark(variant, rows)
                done += len(rows)
                progress(done, size * len(run.variants))
        return Robustness(
            num_products=size,
            precision=precision,
            seed=self.seed,
            conditions={c.kind: tuple(run.curve(c, precision)) for c in self.conditions},
        )

    def _pixels(self, preprocess: Preprocess) -> PixelCache:
        """The decoded pictures; those of the last `preprocess` alone are kept."""
        if self._decoded is None or self._decoded[0] != preprocess:
            pictures = self.products.images
            cache = PixelCache(pictures, self._root, preprocess, self.pool, MAX_BYTES)
            self._decoded = preprocess, cache
        return self._decoded[1]

    def _originals(self, pixels: PixelCache | None) -> Originals:
        """Which pictures can be used is found out once, so that no subject draws others."""
        size = len(self.products)
        has_picture = np.zeros(size, np.bool_) if pixels is None else self._has_picture
        if pixels is not None and has_picture is None:
            blocks = [range(start, min(start + BLOCK, size)) for start in range(0, size, BLOCK)]
            usable = [picture is not None for rows in blocks for picture in pixels.get(rows)]
            has_picture = self._has_picture = np.array(usable, np.bool_)
        assert has_picture is not None, "it has just been found out"
        return Originals(self.products.titles, self.products.images, has_picture)


@dataclass(frozen=True)
class _Variant:
    """A catalog that is shown for the figures of some tasks, and the marks of these."""

    kind: str
    strength: float
    corrupted: Corrupted
    marks: dict[str, Marks]


@dataclass(frozen=True)
class _Run:
    """One subject in a trial; `words` (by task) are those that its titles are scrubbed of."""

    trial: Trial
    subject: Subject
    words: Mapping[str, frozenset[str]]
    pixels: PixelCache | None
    originals: Originals

    @cached_property
    def plain(self) -> _Variant:
        """The catalog as it is."""
        return self._variant("clean", 0.0, clean(self.originals), self.words)

    @cached_property
    def variants(self) -> list[_Variant]:
        """All that is shown, first the catalog as it is. Of a condition `by_share` only the worst:
        at a lower strength some products answer as there, the others as if nothing were done."""
        made, seed = [self.plain], self.trial.seed
        for condition in self.trial.conditions:
            kind, worst = condition.kind, condition.worst
            if kind == "titles_scrubbed":
                for task, own in self.words.items():
                    scrubbed = corrupt(self.originals, condition, worst, seed, own)
                    made.append(self._variant(kind, worst, scrubbed, [task]))
                continue
            for strength in (worst,) if condition.by_share else condition.strengths[1:]:
                corrupted = corrupt(self.originals, condition, strength, seed)
                made.append(self._variant(kind, strength, corrupted, self.words))
        return made

    def _variant(
        self, kind: str, strength: float, corrupted: Corrupted, tasks: Iterable[str]
    ) -> _Variant:
        size = len(self.trial.products)
        return _Variant(kind, strength, corrupted, {task: Marks.blank(size) for task in tasks})

    @cached_property
    def truth(self) -> dict[str, Ids]:
        """By task the label_id (n,) of each product."""
        labels = self.trial.products.labels
        return {task.name: task.label_ids(labels[task.name]) for task in self.subject.tasks}

    def mark(self, variant: _Variant, rows: Ids) -> None:
        """Ask about `rows`, and write down what the answers are worth. Products that show the same
        as in the catalog as it is have the same answer; it must have been marked before."""
        changed = rows
        if variant is not self.plain:
            changed = rows[variant.corrupted.differs(self.plain.corrupted, rows)]
            for task, marks in variant.marks.items():
                marks.put(rows, self.plain.marks[task].take(rows))
        if not len(changed):
            return
        shown = self._shown(variant.corrupted, changed)
        for task, said in self.subject.ask(shown, list(variant.marks)).items():
            # Without the words of a task the title still says what kind of product it is.
            kept = variant.kind == "titles_scrubbed"
            applies = self.plain.marks[task].applies[changed] if kept else said.applies
            marks = Marks.of(said, self.truth[task][changed], applies)
            variant.marks[task].put(changed, marks)

    def _shown(self, corrupted: Corrupted, rows: Ids) -> list[Shown]:
        """What `rows` look like."""
        whose = corrupted.pictures[rows].tolist()
        there = [row for row in whose if row != NO_PICTURE]
        known = {} if self.pixels is None else dict(zip(there, self.pixels.get(there), strict=True))

        def show(row: int, other: int) -> Shown:
            picture = known.get(other)
            if picture is None:
                return Shown(corrupted.titles[row])
            if corrupted.edit is not None:
                picture = corrupted.edit(picture, row)
            # Not by the row: an answerer may be shown two catalogs.
            key = hashlib.sha256(np.ascontiguousarray(picture).data).digest()
            return Shown(corrupted.titles[row], picture, key)

        return list(self.trial.pool.map(show, rows.tolist(), whose))

    def curve(self, condition: Condition, precision: float) -> Iterator[Point]:
        """The figures at each strength of `condition`."""
        marked = [variant for variant in self.variants if variant.kind == condition.kind]
        eligible = self.originals.of(condition)
        for strength in condition.strengths:
            marks = dict(self.plain.marks)
            asked = condition.worst if condition.by_share else strength
            for variant in marked:
                if variant.strength == asked:
                    marks |= variant.marks
            if condition.by_share:
                hit = hit_rows(condition.kind, eligible, strength, self.trial.seed)
                marks = {task: self.plain.marks[task].where(hit, marks[task]) for task in marks}
            yield self._point(strength, marks, precision)

    def _point(self, strength: float, marks: Mapping[str, Marks], precision: float) -> Point:
        accuracy: dict[str, float | None] = {}
        recall: dict[str, float | None] = {}
        for task, of_all in marks.items():
            # As in the other figures, a label that the model does not know counts, and is wrong.
            labelled = self.truth[task] != UNLABELED
            mine, some = of_all.take(labelled), bool(labelled.any())
            at_precision = recall_at_precision(mine.correct, mine.confidence, precision)
            accuracy[task] = float(mine.correct.mean()) if some else None
            recall[task] = at_precision if some else None
        return Point(
            strength=strength,
            accuracy=accuracy,
            recall_at_precision=recall,
            mean_accuracy=mean_of_known(accuracy.values()),
            mean_recall=mean_of_known(recall.values()),
        )


@contextmanager
def trial(
    source: ProductSource,
    tasks: Sequence[str],
    conditions: Sequence[Condition] = CONDITIONS,
    seed: int = SEED,
) -> Iterator[Trial]:
    """A trial on a catalog with labels of `tasks`, to run subjects in.

    Raises:
        CatalogError: a task that the catalog has no labels of, or see `Catalog`.
    """
    products = source.read(tasks)
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        yield Trial(products, source.root, pool, conditions, seed)


@contextmanager
def model_subject(
    bundle: Model, tasks: Sequence[str], batch_size: int | None = None
) -> Iterator[ModelSubject]:
    """`bundle` as a subject; `batch_size` changes no figure on a CPU.

    Raises:
        ModelError: a task that it does not know.
    """
    known = [bundle.task(name) for name in tasks]
    with bundle.answerer() as answerer:
        yield ModelSubject(answerer, known, batch_size or bundle.batch_size)
