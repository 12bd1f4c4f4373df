"""The for loop: batches -> model -> predictions, a generator in constant memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from tagger import bundle as bundles
from tagger.bundle import Bundle
from tagger.catalog import Columns
from tagger.columns import Labelling, check_precision, refuse_overwriting, task_columns
from tagger.device import choose_device
from tagger.errors import CatalogError, listing
from tagger.images import ImageSource, ImageStatus, Pixels, decode, read_image
from tagger.preprocess import collate, title_status
from tagger.previous import Previous, input_hash
from tagger.products import image_sources, titles_of
from tagger.report import Stages

READ_ROWS = 64
"""Rows that are read, and whose pictures are decoded, at a time."""
NUM_THREADS = 8
READ_AHEAD = 2
"""Times READ_ROWS whose pictures are decoded while the model works on earlier ones."""
HELD_BYTES = 256 << 20
"""Catalog rows that may wait for the model; beyond, it takes a batch that is not full."""


@dataclass(frozen=True)
class Product:
    """One product as the model will see it; `carried` is its row in an earlier output."""

    title: str | None
    pixels: Pixels | None
    image_status: ImageStatus
    input_hash: bytes
    carried: int | None = None


class Tagger:
    """A trained model for use from Python."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    @classmethod
    def load(cls, model: str | Path, device: str | None = None) -> Tagger:
        """Raises:
        ModelError, UsageError: see `tagger.load`.
        """
        return cls(bundles.load(model, choose_device(device)))

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
        min_precision: float | None = None,
    ) -> pd.DataFrame:
        """`products` with the columns of the output added; index and order stay.

        Args:
            min_precision: abstain where the calibration does not promise it, 0..1.

        Raises:
            ModelError: a task that the model does not know.
            CatalogError: neither picture nor title column, or a column that is there already.
        """
        chosen = [self.bundle.task(name) for name in tasks or self.tasks]
        given = [name for name in (columns.image, columns.title) if name in products.columns]
        if not given:
            raise CatalogError(
                f"the DataFrame has neither column {columns.image!r} nor {columns.title!r}",
                "rename its columns, or pass tagger.catalog.Columns",
            )
        how = Labelling(
            chosen, Path(image_root), columns, top_k, confined=True, precision=min_precision
        )
        check_precision(self.bundle, how)
        refuse_overwriting(list(map(str, products.columns)), how.schema, "the DataFrame")
        try:
            table = pa.Table.from_pandas(products[given], preserve_index=False)
        except pa.ArrowException as error:
            raise CatalogError(
                f"the DataFrame's columns {listing(given)} are not text or bytes: {error.args[-1]}",
                "convert them: dataframe[column] = dataframe[column].astype(str)",
            ) from error
        batches = table.to_batches(max_chunksize=READ_ROWS)
        added = [new for _, new in label_batches(self.bundle, batches, how)]
        new = pa.Table.from_batches(added, how.schema).to_pandas()
        labelled: pd.DataFrame = pd.concat([products, new.set_index(products.index)], axis=1)
        return labelled


def label_batches(
    bundle: Bundle,
    batches: Iterable[pa.RecordBatch],
    how: Labelling,
    previous: Previous | None = None,
    stages: Stages | None = None,
) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
    """Each batch of rows with its new columns, in order, while later pictures are being decoded.

    The model sees `how.batch_size` products at a time, whatever the size of `batches`. Products
    that `previous` has answers for cost it nothing.
    """
    stages = stages or Stages()
    source = (batch for batch in batches if batch.num_rows)
    decoding: deque[_Rows] = deque()  # read
    unfinished: deque[_Rows] = deque()  # decoded, some products without an answer
    products: deque[Product] = deque()  # those, in order
    held = 0  # bytes of the rows in `unfinished`
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        while True:
            with stages.time("read"):
                for batch in islice(source, READ_AHEAD + 1 - len(decoding)):
                    decoding.append(_Rows.read(batch, bundle, how, previous, pool))
            if decoding:
                rows = decoding.popleft()
                with stages.time("decode"):
                    products += rows.collect(previous)
                unfinished.append(rows)
                held += rows.given.nbytes
            elif not unfinished:
                return
            full = how.batch_size if decoding and held < HELD_BYTES else 1
            while len(products) >= full:
                count = min(how.batch_size, len(products))
                with stages.time("model"):
                    new = label(bundle, [products.popleft() for _ in range(count)], how)
                stages.computed_rows += count
                for rows in unfinished:
                    new = new.slice(rows.answer(new))
            while unfinished and unfinished[0].num_unanswered == 0:
                rows = unfinished.popleft()
                held -= rows.given.nbytes
                yield rows.given, rows.new_columns(how.schema)


@dataclass
class _Rows:
    """Rows of the catalog on their way: read, decoded, answered."""

    given: pa.RecordBatch
    futures: list[Future[Product]]
    order: list[int] = field(default_factory=list)
    """Rows of `given` in the order of `answers`: those carried over first."""
    answers: list[pa.RecordBatch] = field(default_factory=list)
    num_unanswered: int = 0

    @classmethod
    def read(
        cls,
        batch: pa.RecordBatch,
        bundle: Bundle,
        how: Labelling,
        previous: Previous | None,
        pool: ThreadPoolExecutor,
    ) -> _Rows:
        """Start decoding the pictures of `batch`."""
        images = image_sources(batch, how.columns.image)
        titles = titles_of(batch, how.columns.title)
        return cls(
            batch,
            [
                pool.submit(prepare, image, title, bundle, how, previous)
                for image, title in zip(images, titles, strict=True)
            ],
        )

    def collect(self, previous: Previous | None) -> list[Product]:
        """Wait for the pictures; take over what `previous` knows and return the other products."""
        products = [future.result() for future in self.futures]
        carried = [row for row, product in enumerate(products) if product.carried is not None]
        if previous is not None and carried:
            known = [row for p in products if (row := p.carried) is not None]
            self.answers = previous.take(known).combine_chunks().to_batches()
        waiting = [row for row, product in enumerate(products) if product.carried is None]
        self.order = carried + waiting
        self.num_unanswered = len(waiting)
        self.futures = []
        return [products[row] for row in waiting]

    def answer(self, new: pa.RecordBatch) -> int:
        """Take what is ours from the front of `new`; returns how many rows that were."""
        count: int = min(self.num_unanswered, new.num_rows)
        if count:
            self.answers.append(new.slice(0, count))
            self.num_unanswered -= count
        return count

    def new_columns(self, schema: pa.Schema) -> pa.RecordBatch:
        """The answers in the order of the rows."""
        if len(self.answers) == 1 and self.order == sorted(self.order):
            return self.answers[0]
        table = pa.Table.from_batches(self.answers, schema)
        return table.take(np.argsort(self.order)).combine_chunks().to_batches()[0]


def prepare(
    image: ImageSource,
    title: str | None,
    bundle: Bundle,
    how: Labelling,
    previous: Previous | None,
) -> Product:
    """Read and decode one product's picture, unless `previous` has an answer for these bytes."""
    data, status = read_image(image, how.root, how.confined)
    digest = input_hash(data, status, title)
    carried = None if previous is None else previous.find(digest)
    if carried is not None or data is None:
        return Product(title, None, status, digest, carried)
    pixels, status = decode(data, bundle.config.preprocess)
    return Product(title, pixels, status, digest)


def label(bundle: Bundle, products: Sequence[Product], how: Labelling) -> pa.RecordBatch:
    """The new columns of one batch of products, with the schema of `how`."""
    batch = collate(
        [product.pixels for product in products],
        [product.title for product in products],
        bundle.config.preprocess,
        bundle.tokenizer,
        bundle.fixed_length,
    ).to(bundle.device)
    with torch.inference_mode():
        output = bundle.model(batch.pixels, batch.image_present, batch.ids, batch.text_mask)
    answerable = (batch.image_present | batch.text_mask.any(1)).cpu().numpy()
    arrays = [
        pa.array([product.image_status for product in products], pa.string()),
        pa.array([title_status(product.title) for product in products], pa.string()),
    ]
    names = [task.name for task in bundle.config.tasks]
    for task in how.tasks:
        weights = output.modality_weights[:, names.index(task.name)]
        logits = output.logits[task.name].float()
        arrays += task_columns(task, logits, weights, answerable, how, bundle)
    arrays.append(pa.array([product.input_hash.hex() for product in products], pa.string()))
    return pa.RecordBatch.from_arrays(arrays, schema=how.schema)
