"""The for loop: batches -> model -> predictions, a generator in constant memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from tagger.arguments import (
    check_columns,
    check_frame,
    checked_precision,
    checked_root,
    checked_tasks,
    checked_top_k,
)
from tagger.calibration import Target
from tagger.catalog import Columns
from tagger.columns import Labelling, check_precision, refuse_overwriting, task_columns
from tagger.dataframe import images_in_arrow, titles_in_arrow
from tagger.errors import CatalogError
from tagger.images import NUM_THREADS, ImageSource, ImageStatus, read_image
from tagger.previous import Previous, input_hash, picture_hash
from tagger.products import image_sources, refuse_other_letters, titles_of
from tagger.report import Stages
from tagger.runtime import Answerer, Inputs, Model
from tagger.titles import TitleStatus, title_status

READ_ROWS = 64
"""Rows that are read, and whose pictures are decoded, at a time."""
READ_AHEAD = 2
"""Batches whose pictures are decoded while a GPU works on an earlier one. A model on the CPU leaves
no core free for that: side by side, both take longer than one after the other."""
STRIDE = 8
"""Rows between one that is prepared and the next."""
HELD_BYTES, HELD_BATCHES, MOST_HELD_BATCHES = 256 << 20, 32, 128
"""Catalog rows that may wait for the model; beyond, the oldest go on in smaller batches. With each
waits its picture, decoded (150 kB of 224x224 pixels), which HELD_BYTES does not count."""
LENGTHS = 16
"""Lengths of titles that may each have a batch of the model's size waiting, where such a batch is
more than READ_ROWS."""


@dataclass(frozen=True)
class Product:
    """One product as the model will see it; `carried` is its row in an earlier output."""

    inputs: Inputs
    image_status: ImageStatus
    title_status: TitleStatus
    input_hash: bytes
    carried: int | None = None


class Tagger:
    """A trained model for use from Python."""

    def __init__(self, bundle: Model) -> None:
        self.bundle = bundle

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks that the model knows."""
        return [task.name for task in self.bundle.config.tasks]

    def predict(
        self,
        products: pd.DataFrame,
        tasks: Sequence[str] | None = None,
        image_root: str | Path = ".",
        top_k: int | None = None,
        columns: Columns = Columns(),
        min_precision: Target | None = None,
    ) -> pd.DataFrame:
        """`products` with the columns of the output added; index and order stay.

        Args:
            products: with a column of titles, or one of pictures: paths, as text or path objects,
                or the bytes of picture files.
            tasks: names, or one text of them with commas as on the command line; None: all.
            top_k: add a column with the k likeliest labels, from 1 on.
            min_precision: abstain where the calibration does not promise it, between 0 and 1;
                "default": what each task was calibrated for.

        Raises:
            ModelError: a task that the model does not know.
            CatalogError: neither picture nor title column, one of them twice, or a column that is
                there already.
            UsageError: an argument of another kind; `tasks` that name none, or one twice; a `top_k`
                or `min_precision` out of range; a `min_precision` that the model has no threshold
                for.
        """
        check_frame(products)
        check_columns(columns)
        root, top_k = checked_root(image_root), checked_top_k(top_k)
        precision = checked_precision(min_precision)
        chosen = [self.bundle.task(name) for name in checked_tasks(tasks, self.tasks)]
        there = list(map(str, products.columns))
        for name, what in ((columns.image, "image"), (columns.title, "title")):
            naming = f"columns=tagger.catalog.Columns({what}={{!r}})"
            refuse_other_letters(there, name, "the DataFrame", naming)
        given = [name for name in (columns.image, columns.title) if name in there]
        if not given:
            raise CatalogError(
                f"the DataFrame has neither column {columns.image!r} nor {columns.title!r}",
                "rename its columns, or pass tagger.catalog.Columns",
            )
        if twice := next((name for name in given if there.count(name) > 1), None):
            raise CatalogError(
                f"the DataFrame has the column {twice!r} twice", "rename one of them, or drop it"
            )
        how = Labelling(chosen, root, columns, top_k, confined=True, precision=precision)
        check_precision(self.bundle, how)
        refuse_overwriting(there, how.schema, "the DataFrame")
        in_arrow = {columns.title: titles_in_arrow, columns.image: images_in_arrow}
        parts = {name: products.iloc[:, there.index(name)] for name in given}
        table = pa.table({name: in_arrow[name](part, name) for name, part in parts.items()})
        batches = table.to_batches(max_chunksize=READ_ROWS)
        with self.bundle.answerer() as answerer:
            added = [new for _, new in label_batches(answerer, batches, how)]
        new = pa.Table.from_batches(added, how.schema).to_pandas()
        labelled: pd.DataFrame = pd.concat([products, new.set_index(products.index)], axis=1)
        return labelled


def label_batches(
    answerer: Answerer,
    batches: Iterable[pa.RecordBatch],
    how: Labelling,
    previous: Previous | None = None,
    stages: Stages | None = None,
) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
    """Each batch of rows with its new columns, in order.

    The model sees up to `how.batch_size` products (or as many as usual) with titles of about one
    length at a time, whatever the size of `batches`. Products that `previous` has answers for cost
    it nothing, and pictures and titles that `answerer` remembers little.
    """
    stages = stages or Stages()
    source = (batch for batch in batches if batch.num_rows)
    decoding: deque[_Rows] = deque()  # read
    unfinished: deque[_Rows] = deque()  # decoded, some products without an answer
    batch_size = how.batch_size or answerer.bundle.batch_size
    waiting = _Waiting(answerer, batch_size)
    held = 0  # bytes of `unfinished`
    ahead = 0
    if answerer.bundle.device_type != "cpu":
        ahead = min(READ_AHEAD * -(-batch_size // READ_ROWS), HELD_BATCHES)
    most_held = min(max(HELD_BATCHES, LENGTHS * batch_size // READ_ROWS), MOST_HELD_BATCHES)
    with _decoders() as pool:
        while True:
            with stages.time("read"):
                for batch in islice(source, ahead + 1 - len(decoding)):
                    decoding.append(_Rows.read(batch, answerer, how, previous, pool))
            at_end = not decoding
            if not at_end:
                rows = decoding.popleft()
                with stages.time("decode"):
                    waiting.add(rows, rows.collect(previous))
                unfinished.append(rows)
                held += rows.given.nbytes
            elif not unfinished:
                return
            late: _Rows | None = None
            while True:
                for slots in waiting.take(at_end, late):
                    with stages.time("model"):
                        new = label(answerer, [slot.product for slot in slots], how)
                    stages.computed_rows += len(slots)
                    _hand_out(new, slots)
                while unfinished and unfinished[0].num_unanswered == 0:
                    rows = unfinished.popleft()
                    held -= rows.given.nbytes
                    yield rows.given, rows.new_columns(how.schema)
                if held < HELD_BYTES and len(unfinished) < most_held:
                    break
                late = unfinished[0]


@contextmanager
def _decoders() -> Iterator[ThreadPoolExecutor]:
    """Threads that decode pictures. Whoever stops in the middle waits for none of those that are
    queued: a batch of large ones takes minutes."""
    pool = ThreadPoolExecutor(NUM_THREADS)
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True)
class _Slot:
    """A product without an answer, and where its answer belongs."""

    rows: _Rows
    row: int
    product: Product


class _Waiting:
    """Products without an answer, by the length that their titles are filled up to."""

    def __init__(self, answerer: Answerer, batch_size: int) -> None:
        self._answerer, self._batch_size = answerer, batch_size
        self._slots: dict[int, deque[_Slot]] = {}

    def add(self, rows: _Rows, products: Mapping[int, Product]) -> None:
        """Products of `rows` by their row."""
        self._answerer.expect([product.inputs for product in products.values()])
        for row, product in products.items():
            length = self._answerer.padded_length(product.inputs.ids)
            self._slots.setdefault(length, deque()).append(_Slot(rows, row, product))

    def take(self, at_end: bool, late: _Rows | None) -> Iterator[list[_Slot]]:
        """Batches of batch_size; also smaller ones if they are all that is left, or hold a product
        of `late`, the oldest rows."""
        for slots in self._slots.values():
            while len(slots) >= self._batch_size or (slots and (at_end or slots[0].rows is late)):
                count = min(self._batch_size, len(slots))
                yield [slots.popleft() for _ in range(count)]


def _hand_out(new: pa.RecordBatch, slots: Sequence[_Slot]) -> None:
    """Give each product its row of `new`."""
    by_rows: dict[int, list[int]] = {}
    for place, slot in enumerate(slots):
        by_rows.setdefault(id(slot.rows), []).append(place)
    for places in by_rows.values():
        mine = [slots[place] for place in places]
        answers = new if len(places) == len(slots) else new.take(pa.array(places))
        mine[0].rows.answer(answers, [slot.row for slot in mine])


@dataclass
class _Rows:
    """Rows of the catalog on their way: read, decoded, answered."""

    given: pa.RecordBatch
    futures: list[Future[Product]]
    order: list[int] = field(default_factory=list)
    """Rows of `given` in the order of `answers`."""
    answers: list[pa.RecordBatch] = field(default_factory=list)

    @property
    def num_unanswered(self) -> int:
        """Rows without an answer."""
        return int(self.given.num_rows) - len(self.order)

    @classmethod
    def read(
        cls,
        batch: pa.RecordBatch,
        answerer: Answerer,
        how: Labelling,
        previous: Previous | None,
        pool: ThreadPoolExecutor,
    ) -> _Rows:
        """Start decoding the pictures of `batch`."""
        images = image_sources(batch, how.columns.image)
        titles = titles_of(batch, how.columns.title)
        futures: dict[int, Future[Product]] = {}
        # Not in order: neighbours often share a picture, and one thread would wait for the other.
        for row in (n for first in range(STRIDE) for n in range(first, len(images), STRIDE)):
            futures[row] = pool.submit(prepare, images[row], titles[row], answerer, how, previous)
        return cls(batch, [futures[row] for row in range(len(images))])

    def collect(self, previous: Previous | None) -> dict[int, Product]:
        """Wait for the pictures; take over what `previous` knows, return the others by row."""
        products = dict(enumerate(future.result() for future in self.futures))
        self.futures = []
        carried = {row: p.carried for row, p in products.items() if p.carried is not None}
        if previous is not None and carried:
            known = previous.take(list(carried.values())).combine_chunks().to_batches()
            self.answer(known[0], list(carried))
        return {row: p for row, p in products.items() if row not in carried}

    def answer(self, new: pa.RecordBatch, rows: Sequence[int]) -> None:
        """The answers to `rows`, in that order."""
        self.answers.append(new)
        self.order += rows

    def new_columns(self, schema: pa.Schema) -> pa.RecordBatch:
        """The answers in the order of the rows."""
        if len(self.answers) == 1 and self.order == sorted(self.order):
            return self.answers[0]
        table = pa.Table.from_batches(self.answers, schema)
        return table.take(np.argsort(self.order)).combine_chunks().to_batches()[0]


def prepare(
    image: ImageSource,
    title: str | None,
    answerer: Answerer,
    how: Labelling,
    previous: Previous | None = None,
) -> Product:
    """Read one product's picture and title; decode it, unless an answer or its features are there.

    An answer is one of `previous` to the same picture file and title.
    """
    data, status = read_image(image, how.root, how.confined)
    key = None if data is None else picture_hash(data)
    digest = input_hash(key, status, title)
    words = title_status(title)
    carried = None if previous is None else previous.find(digest)
    if carried is not None:
        return Product(Inputs(), status, words, digest, carried)
    ids = answerer.read(title)
    if data is None or key is None:
        return Product(Inputs(ids=ids), status, words, digest)
    pixels, features, status = answerer.look(key, data)
    return Product(Inputs(key, pixels, features, ids), status, words, digest)


def label(answerer: Answerer, products: Sequence[Product], how: Labelling) -> pa.RecordBatch:
    """The new columns of products of one padded length, with the schema of `how`."""
    bundle = answerer.bundle
    answers = answerer.answer([product.inputs for product in products])
    answered = np.array([p.inputs.has_image or len(p.inputs.ids) > 0 for p in products])
    arrays = [
        pa.array([product.image_status for product in products], pa.string()),
        pa.array([product.title_status for product in products], pa.string()),
    ]
    for task in how.tasks:
        arrays += task_columns(task, answers, answered, how, bundle)
    arrays.append(pa.array([product.input_hash.hex() for product in products], pa.string()))
    return pa.RecordBatch.from_arrays(arrays, schema=how.schema)
