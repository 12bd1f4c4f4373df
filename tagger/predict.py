"""The for loop: batches -> model -> predictions, a generator in constant memory."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor

from tagger import bundle as bundles
from tagger.bundle import Bundle
from tagger.catalog import Catalog, Columns, ParquetOutput, strings
from tagger.device import choose_device
from tagger.errors import CatalogError, OutputError, UsageError, listing
from tagger.images import ImageStatus, Pixels, load_pixels
from tagger.model import IMAGE, TEXT, Output
from tagger.preprocess import collate, title_status
from tagger.products import input_columns
from tagger.tasks import Task
from tagger.version import __version__

BATCH_SIZE = 64
NUM_THREADS = 8
READ_AHEAD = 2
"""Batches whose pictures are decoded while the model works on an earlier one."""

NUM_EXAMPLES = 3
"""Ids that the summary names per status."""

Decoded = tuple[Pixels | None, ImageStatus]


@dataclass
class Summary:
    """What a run did: rows, products by status, and a few ids of each status that is not ok."""

    num_rows: int = 0
    image_status: Counter[str] = field(default_factory=Counter)
    title_status: Counter[str] = field(default_factory=Counter)
    task_status: dict[str, Counter[str]] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(
        self, ids: Sequence[str | None], columns: pa.RecordBatch, tasks: Sequence[Task]
    ) -> None:
        """Count the statuses of one batch of new columns; a product without id goes by its row."""
        images = columns.column("image_status").to_pylist()
        for number, (name, status) in enumerate(zip(ids, images, strict=True), self.num_rows + 1):
            if status != "ok" and len(self.examples.setdefault(status, [])) < NUM_EXAMPLES:
                self.examples[status].append(name or f"row {number}")
        self.num_rows += columns.num_rows
        self.image_status.update(images)
        self.title_status.update(columns.column("title_status").to_pylist())
        for task in tasks:
            counts = self.task_status.setdefault(task.name, Counter())
            counts.update(columns.column(f"{task.name}_status").to_pylist())


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
    ) -> pd.DataFrame:
        """`products` with the columns of the output added; index and order stay.

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
        schema = output_schema(chosen, top_k)
        refuse_overwriting(list(map(str, products.columns)), schema, "the DataFrame")
        try:
            table = pa.Table.from_pandas(products[given], preserve_index=False)
        except pa.ArrowException as error:
            raise CatalogError(
                f"the DataFrame's columns {listing(given)} are not all text: {error.args[-1]}",
                "convert them: dataframe[column] = dataframe[column].astype(str)",
            ) from error
        batches = table.to_batches(max_chunksize=BATCH_SIZE)
        added = [
            new
            for _, new in label_batches(
                self.bundle, batches, chosen, columns, Path(image_root), top_k
            )
        ]
        new = pa.Table.from_batches(added, schema).to_pandas()
        labelled: pd.DataFrame = pd.concat([products, new.set_index(products.index)], axis=1)
        return labelled


def predict_catalog(
    bundle: Bundle,
    catalog: Catalog,
    out: Path,
    tasks: Sequence[str],
    columns: Columns = Columns(),
    image_root: Path | None = None,
    top_k: int | None = None,
    limit: int | None = None,
    progress: Callable[[int], None] = lambda rows: None,
) -> Summary:
    """Label `catalog` and write it with the new columns to `out`: N rows in, N rows out, in order.

    A picture or title that cannot be used is a status, never an exception. `out` appears when it
    is whole. `progress` is called with the rows of each batch.

    Raises:
        ModelError: a task that the model does not know.
        CatalogError: see `Catalog` and `refuse_overwriting`.
        OutputError: `out` cannot be written.
    """
    chosen = [bundle.task(name) for name in tasks]
    input_columns(catalog, columns)
    if columns.id != Columns().id:
        catalog.require([columns.id], "--id-column")
    new_schema = output_schema(chosen, top_k)
    refuse_overwriting(catalog.schema.names, new_schema, str(catalog.path))
    check_out(catalog, out)
    metadata = {
        **(catalog.schema.metadata or {}),
        b"tagger_version": __version__.encode(),
        b"tagger_model": bundle.path.name.encode(),
        b"tagger_model_sha256": bundle.sha256.encode(),
    }
    schema = pa.schema([*catalog.schema, *new_schema], metadata)
    batches = catalog.batches(BATCH_SIZE)
    if limit is not None:
        batches = _first_rows(batches, limit)
    summary = Summary()
    root = image_root or catalog.folder
    with ParquetOutput(out, schema) as output:
        for given, new in label_batches(bundle, batches, chosen, columns, root, top_k):
            rows = pa.RecordBatch.from_arrays([*given.columns, *new.columns], schema=schema)
            output.write(rows)
            summary.add(_column(given, columns.id), new, chosen)
            progress(given.num_rows)
    return summary


def label_batches(
    bundle: Bundle,
    batches: Iterable[pa.RecordBatch],
    tasks: Sequence[Task],
    columns: Columns,
    root: Path,
    top_k: int | None,
) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
    """Each batch with its new columns, in order, while later pictures are being decoded."""
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        waiting: deque[tuple[pa.RecordBatch, list[str | None], list[Future[Decoded]]]] = deque()
        source = iter(batches)
        while True:
            for batch in islice(source, READ_AHEAD + 1 - len(waiting)):
                images = _column(batch, columns.image)
                titles = _column(batch, columns.title)
                decoding = [
                    pool.submit(load_pixels, path, root, bundle.config.preprocess)
                    for path in images
                ]
                waiting.append((batch, titles, decoding))
            if not waiting:
                return
            batch, titles, decoding = waiting.popleft()
            yield batch, label(bundle, [f.result() for f in decoding], titles, tasks, top_k)


def label(
    bundle: Bundle,
    decoded: Sequence[Decoded],
    titles: Sequence[str | None],
    tasks: Sequence[Task],
    top_k: int | None,
) -> pa.RecordBatch:
    """The new columns of one batch of products, with the schema of `output_schema`."""
    pixels = [image for image, _ in decoded]
    batch = collate(
        pixels, titles, bundle.config.preprocess, bundle.tokenizer, bundle.fixed_length
    ).to(bundle.device)
    with torch.inference_mode():
        output = bundle.model(batch.pixels, batch.image_present, batch.ids, batch.text_mask)
    answerable = (batch.image_present | batch.text_mask.any(1)).cpu().numpy()
    arrays = [
        pa.array([status for _, status in decoded], pa.string()),
        pa.array([title_status(title) for title in titles], pa.string()),
    ]
    names = [task.name for task in bundle.config.tasks]
    for task in tasks:
        weights = output.modality_weights[:, names.index(task.name)]
        arrays += task_columns(task, output, weights, answerable, top_k)
    return pa.RecordBatch.from_arrays(arrays, schema=output_schema(tasks, top_k))


def task_columns(
    task: Task, output: Output, weights: Tensor, answerable: np.ndarray, top_k: int | None
) -> list[pa.Array]:
    """label, confidence, image weight, text weight, status and, if asked for, the top k.

    weights (n, 2) in the order image, text; a product that is not `answerable` (n,) gets nulls.
    """
    probabilities = output.logits[task.name].float().softmax(-1)
    k = min(top_k or 1, len(task.labels))
    confidences, label_ids = (t.cpu().numpy() for t in probabilities.topk(k, dim=-1))
    absent = ~answerable
    labels = [task.labels[i] for i in label_ids[:, 0]]

    def floats(values: np.ndarray) -> pa.Array:
        return pa.array(values.astype(np.float32), pa.float32(), mask=absent)

    columns = [
        pa.array(labels, pa.string(), mask=absent),
        floats(confidences[:, 0]),
        floats(weights[:, IMAGE].cpu().numpy()),
        floats(weights[:, TEXT].cpu().numpy()),
        pa.array(np.where(answerable, "ok", "error"), pa.string()),
    ]
    if top_k is not None:
        ranked = [
            [
                {"label": task.labels[i], "confidence": float(c)}
                for i, c in zip(row_ids, row, strict=True)
            ]
            if there
            else None
            for row_ids, row, there in zip(label_ids, confidences, answerable, strict=True)
        ]
        columns.append(pa.array(ranked, _TOP_K))
    return columns


_TOP_K = pa.list_(pa.struct([("label", pa.string()), ("confidence", pa.float32())]))


def output_schema(tasks: Sequence[Task], top_k: int | None) -> pa.Schema:
    """The columns that prediction adds, in order."""
    fields = [("image_status", pa.string()), ("title_status", pa.string())]
    for task in tasks:
        fields += [
            (f"{task.name}_label", pa.string()),
            (f"{task.name}_confidence", pa.float32()),
            (f"{task.name}_image_weight", pa.float32()),
            (f"{task.name}_text_weight", pa.float32()),
            (f"{task.name}_status", pa.string()),
        ]
        if top_k is not None:
            fields.append((f"{task.name}_top_k", _TOP_K))
    return pa.schema(fields)


def refuse_overwriting(existing: Sequence[str], new: pa.Schema, where: str) -> None:
    """Raises:
    CatalogError: a column that prediction would add is there already.
    """
    there = [name for name in new.names if name in existing]
    if there:
        raise CatalogError(
            f"{where} has a column {there[0]!r} already",
            "is it an output of tagger? label the original catalog, or rename the column",
        )


def check_out(catalog: Catalog, out: Path) -> None:
    """Raises:
    UsageError: `out` is the catalog itself or inside it, or not a Parquet file.
    OutputError: `out` is a directory.
    """
    if out.suffix != ".parquet":
        raise UsageError(f"--out {out} does not end in .parquet", "name a .parquet file")
    if out.is_dir():
        raise OutputError(f"--out {out} is a directory", "name a .parquet file")
    target, source = out.resolve(), catalog.path.resolve()
    if target == source or source in target.parents:
        raise UsageError(f"--out {out} would overwrite the catalog", "name another file")


def default_out(catalog: Path) -> Path:
    """feed/catalog.csv -> feed/catalog.labeled.parquet."""
    named = catalog if catalog.name not in ("", "..") else catalog.resolve()
    return named.with_name(named.stem + ".labeled.parquet")


def _column(batch: pa.RecordBatch, name: str) -> list[str | None]:
    """A text column of `batch`; all None where there is no such column."""
    if name not in batch.schema.names:
        return [None] * batch.num_rows
    return strings(batch, name, Path("the catalog"))


def _first_rows(batches: Iterable[pa.RecordBatch], limit: int) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        if limit <= 0:
            return
        yield batch.slice(0, limit)
        limit -= batch.num_rows
