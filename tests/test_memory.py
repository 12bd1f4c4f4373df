"""What was computed before is there again, within its bound, and computed by one thread alone."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from tagger.memory import Memory, Once
from tagger.network import Features


def features(rows: int) -> Features:
    """A batch of 40 bytes a row."""
    return Features(torch.rand(rows, 2), torch.rand(rows, 4, 2))


def rows_of(batch: Features, keys: str) -> dict[bytes, Features]:
    return {
        key.encode(): Features(batch.pooled[row], batch.tokens[row]) for row, key in enumerate(keys)
    }


def remembered(memory: Memory, keys: str) -> str:
    return "".join(key for key in keys if memory.get(key.encode()) is not None)


def test_oldest_batch_is_forgotten_first_and_whole() -> None:
    memory, batch = Memory(max_bytes=160), features(2)
    memory.put(rows_of(batch, "ab"), batch)
    memory.put(rows_of(batch, "cd"), batch)
    found = memory.get(b"a")
    assert found is not None
    torch.testing.assert_close(found.tokens, batch.tokens[0])
    assert remembered(memory, "abcd") == "abcd"
    memory.put(rows_of(batch, "e"), features(1))
    assert remembered(memory, "abcde") == "cde"


def test_key_of_a_later_batch_outlives_the_earlier_one() -> None:
    memory, one, other = Memory(max_bytes=160), features(2), features(2)
    memory.put(rows_of(one, "ab"), one)
    memory.put(rows_of(other, "ac"), other)
    memory.put(rows_of(one, "de"), one)
    assert remembered(memory, "abcde") == "acde"
    found = memory.get(b"a")
    assert found is not None
    torch.testing.assert_close(found.pooled, other.pooled[0])


def test_batch_beyond_the_bound_is_remembered_until_the_next_one() -> None:
    memory, batch, other = Memory(max_bytes=100), features(3), features(1)
    memory.put(rows_of(batch, "abc"), batch)
    assert remembered(memory, "abc") == "abc"
    memory.put(rows_of(other, "d"), other)
    assert remembered(memory, "abcd") == "d"


def test_a_thread_waits_for_what_another_computes() -> None:
    once: Once[str, int] = Once(size=4)
    calls: list[int] = []

    def compute() -> int:
        calls.append(1)
        time.sleep(0.05)
        return 7

    results: list[int] = []
    threads = [
        threading.Thread(target=lambda: results.append(once.get("k", compute))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [7] * 8
    assert calls == [1]
    for key in "abcd":
        once.get(key, lambda: 0)
    once.get("k", compute)
    assert calls == [1, 1], "beyond its size it forgets"


def test_what_a_computation_raises_everybody_gets() -> None:
    once: Once[str, int] = Once(size=4)

    def fail() -> int:
        raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            once.get("k", fail)
