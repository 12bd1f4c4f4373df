"""Decoded pictures of a training set, kept in memory up to a bound."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tagger.config import Preprocess
from tagger.images import ImageSource, ImageStatus, Pixels, load_pixels

MAX_BYTES = 4 << 30


class PixelCache:
    """Pictures by row number: decoded on first use, kept while they fit into `max_bytes`.

    A picture that cannot be used is None; `statuses` has the status of each row met so far.
    """

    def __init__(
        self,
        sources: Sequence[ImageSource],
        root: Path,
        preprocess: Preprocess,
        pool: ThreadPoolExecutor,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._sources = sources
        self._root = root
        self._preprocess = preprocess
        self._pool = pool
        self._kept: dict[int, Pixels | None] = {}
        self._room = max_bytes // (preprocess.height * preprocess.width * 3)
        self.statuses: dict[int, ImageStatus] = {}

    def get(self, rows: Sequence[int]) -> list[Pixels | None]:
        """The pictures of `rows`, in that order."""
        absent = [row for row in rows if row not in self._kept]
        loaded: dict[int, Pixels | None] = {}
        for row, (pixels, status) in zip(absent, self._pool.map(self._load, absent), strict=True):
            loaded[row] = pixels
            self.statuses[row] = status
        result = [self._kept[row] if row in self._kept else loaded[row] for row in rows]
        room = self._room - len(self._kept)
        self._kept.update(dict(list(loaded.items())[:room]))
        return result

    def _load(self, row: int) -> tuple[Pixels | None, ImageStatus]:
        return load_pixels(self._sources[row], self._root, self._preprocess)
