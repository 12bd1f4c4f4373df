"""Products that a model cannot tell apart: one picture file and one title."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tagger.images import NUM_THREADS, ImageSource, read_image
from tagger.previous import picture_hash
from tagger.products import Products


def groups_of(products: Products, root: Path) -> NDArray[np.int64]:
    """(n,) a number that products of equal picture files, wherever these lie below `root`, and
    equal titles share.

    Only the pictures of titles that come again are read. Of a picture that cannot be, nothing is
    seen, as where there is none.
    """
    times = Counter(products.titles)
    again = [row for row, title in enumerate(products.titles) if times[title] > 1]
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        sources = [products.images[row] for row in again]
        digests = pool.map(_digest, sources, [root] * len(again))
        pictures = dict(zip(again, digests, strict=True))
    numbers: dict[Hashable, int] = {}
    keys = ((title, pictures.get(row)) for row, title in enumerate(products.titles))
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def first_of_each(groups: NDArray[np.int64], among: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(n,) whether a row is the first of its group (n,) of those `among` (n,) them."""
    rows = np.flatnonzero(among)
    _, first = np.unique(groups[rows], return_index=True)
    chosen = np.zeros(len(groups), dtype=bool)
    chosen[rows[first]] = True
    return chosen


def _digest(source: ImageSource, root: Path) -> bytes | None:
    data, _ = read_image(source, root)
    return None if data is None else picture_hash(data)
