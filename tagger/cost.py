"""What a model costs: its parameters, operations per product, and products per second."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import pyarrow as pa

from tagger.catalog import Catalog
from tagger.columns import Labelling
from tagger.config import BATCH_SIZE
from tagger.images import NUM_THREADS
from tagger.pixel_cache import PixelCache
from tagger.predict import READ_ROWS, label_batches
from tagger.products import Products, ProductSource, input_columns
from tagger.runtime import Model

Run = Callable[[int], None]
"""Labels so many products, the first of a catalog, from the file to the answer."""
Shape = Sequence[int]
COUNTED = 64
"""Products whose operations are counted."""
TIMED = 512
"""Products that are labelled in each round."""
ROUNDS = 3


def num_parameters(bundle: Model) -> int | None:
    """Numbers in the network that training sets, as it stands after loading; None of an export."""
    if bundle.is_export:
        return None
    from tagger.bundle import Bundle

    assert isinstance(bundle, Bundle)
    return sum(parameter.numel() for parameter in bundle.model.parameters())


def flops_per_product(bundle: Model, products: Products, root: Path) -> float | None:
    """Floating point operations of matrix products, convolutions and attention for one product with
    picture and title, two for each multiply and add, whatever the type of number; None of an
    export.

    The mean over the first COUNTED of `products`, whose titles are filled up to the longest.
    """
    if bundle.is_export:
        return None
    import torch
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

    def attention(query: Shape, key: Shape, value: Shape, *_: object, **__: object) -> int:
        return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]

    # The counter knows neither attention on a CPU nor the fused layer of inference.
    on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    counter = FlopCounterMode(display=False, custom_mapping={on_cpu: attention})
    sample = products.take(range(min(COUNTED, len(products))))
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with ThreadPoolExecutor(NUM_THREADS) as pool, counter:
            pixels = PixelCache(sample.images, root, bundle.config.preprocess, pool)
            for _ in bundle.answer_views(sample, pixels, ["both"]):
                pass
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return float(counter.get_total_flops()) / len(sample)


def first_rows(source: ProductSource, count: int) -> Iterator[pa.RecordBatch]:
    """Pictures and titles of the first `count` rows, as `predict` reads them."""
    catalog = Catalog(source.path)
    for batch in catalog.batches(READ_ROWS, columns=input_columns(catalog, source.columns)):
        yield batch.slice(0, count)
        count -= batch.num_rows
        if count <= 0:
            return


def labelling_run(bundle: Model, source: ProductSource, tasks: Sequence[str]) -> Run:
    """`predict` without writing: reading, decoding, answering; nothing is remembered from run to
    run."""
    how = Labelling(
        [bundle.task(name) for name in tasks],
        source.root,
        source.columns,
        confined=False,
    )

    def run(count: int) -> None:
        with bundle.answerer() as answerer:
            for _ in label_batches(answerer, first_rows(source, count), how):
                pass

    return run


def products_per_second(
    runs: Sequence[Run],
    num_products: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """The median over ROUNDS, in which the runs take turns on up to TIMED products, after a batch
    to warm up: what else the machine does meets all of them alike. `progress` is told the number of
    products labelled and of all, warming up aside."""
    count = min(TIMED, num_products)
    for run in runs:
        run(min(BATCH_SIZE, count))
    seconds: list[list[float]] = [[] for _ in runs]
    turns = [place for _ in range(ROUNDS) for place in range(len(runs))]
    for done, place in enumerate(turns, 1):
        started = clock()
        runs[place](count)
        seconds[place].append(clock() - started)
        progress(done * count, len(turns) * count)
    return [count / median(one) for one in seconds]
