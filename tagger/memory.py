"""What was computed before: features of earlier batches, and pictures that are being decoded."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

from tagger.feature_cache import FeatureCache
from tagger.network import Features

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Remembered:
    """Features by what they were computed from: those of this run, and those in a cache.

    `context` is all else that decides them, such as the weights.
    """

    def __init__(self, max_bytes: int, cache: FeatureCache | None, context: bytes) -> None:
        self._memory = Memory(max_bytes)
        self._cache, self._context = cache, context

    def recent(self, key: bytes) -> Features | None:
        """The features, if they are of this run."""
        return self._memory.get(key)

    def get(self, key: bytes) -> Features | None:
        """The features, if they are remembered."""
        features = self.recent(key)
        if features is None and self._cache is not None:
            features = self._cache.get(self._context + key)
            if features is not None:
                self._memory.put({key: features}, features)
        return features

    def put(self, keys: Sequence[bytes], features: Features) -> Mapping[bytes, Features]:
        """Remember each row of `features` by its key; returns them so."""
        rows = _by_key(keys, features)
        self._memory.put(rows, features)
        if self._cache is not None:
            # From a GPU as a whole: row by row, it would be waited for as many times.
            stored = Features(features.pooled.cpu(), features.tokens.cpu())
            self._cache.put(_by_key([self._context + key for key in keys], stored))
        return rows


def _by_key(keys: Sequence[bytes], features: Features) -> dict[bytes, Features]:
    return {
        key: Features(features.pooled[row], features.tokens[row]) for row, key in enumerate(keys)
    }


class Memory:
    """Features by key, the oldest batch forgotten beyond `max_bytes`, but never the newest; for
    several threads.

    Batches are kept and forgotten whole, however often a row is asked for: rows copied one by one
    would leave the heap full of holes (it grew to four times the features in it), and a row that
    is a view holds its batch anyway.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._lock = threading.Lock()
        self._values: dict[bytes, Features] = {}
        self._batches: deque[tuple[Mapping[bytes, Features], int]] = deque()

    def get(self, key: bytes) -> Features | None:
        """The features, if they are remembered."""
        with self._lock:
            return self._values.get(key)

    def put(self, rows: Mapping[bytes, Features], batch: Features) -> None:
        """Remember `rows`, which are views of `batch`."""
        size = batch.pooled.nbytes + batch.tokens.nbytes
        with self._lock:
            self._bytes += size
            self._batches.append((rows, size))
            self._values.update(rows)
            # The newest stays, however large: on a GPU a batch may be more than all that is meant
            # to be remembered, and the products that repeat it come next.
            while self._bytes > self._max_bytes and len(self._batches) > 1:
                oldest, freed = self._batches.popleft()
                self._bytes -= freed
                for key, features in oldest.items():
                    if self._values.get(key) is features:  # not of a later batch
                        del self._values[key]


class Once(Generic[Key, Value]):
    """Results of a function by key: computed once while among the last `size`, by whichever thread
    asks first; the others wait for it."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._futures: OrderedDict[Key, Future[Value]] = OrderedDict()

    def get(self, key: Key, compute: Callable[[], Value]) -> Value:
        """The result of `compute` for `key`; what it raises, all who wait for it get."""
        with self._lock:
            future = self._futures.get(key)
            first = future is None
            if future is None:
                future = self._futures[key] = Future()
                if len(self._futures) > self._size:
                    self._futures.popitem(last=False)
        if first:
            try:
                future.set_result(compute())
            except BaseException as error:
                future.set_exception(error)
        return future.result()
