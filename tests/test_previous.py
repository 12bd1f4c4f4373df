"""Answers of an earlier output are found by what the model saw, and by nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tagger.catalog import Catalog
from tagger.previous import DIGEST_BYTES, HASH_COLUMN, Previous, digest_of, input_hash

SCHEMA = pa.schema([("color_label", pa.string()), (HASH_COLUMN, pa.string())])


def open_previous(folder: Path, digests: list[bytes]) -> Previous:
    labels = [f"label {n}" for n in range(len(digests))]
    table = pa.table([labels, [d.hex() for d in digests]], schema=SCHEMA)
    pq.write_table(table, folder / "old.parquet", row_group_size=7)
    return Previous(Catalog(folder / "old.parquet"), SCHEMA, folder / "scratch")


@pytest.mark.parametrize("high", [2, 256])
def test_every_digest_is_found_at_its_row_and_no_other(tmp_path: Path, high: int) -> None:
    rng = np.random.default_rng(0)
    # With two byte values, many digests begin, end and differ in zeros.
    raw = rng.integers(0, high, (300, DIGEST_BYTES), dtype=np.uint8)
    digests = list({row.tobytes() for row in raw} | {bytes(DIGEST_BYTES), b"\1" + bytes(15)})
    known, unknown = digests[:200], digests[200:]
    previous = open_previous(tmp_path, known)
    assert [previous.find(d) for d in known] == list(range(200))
    assert [previous.find(d) for d in unknown] == [None] * len(unknown)
    rows = [int(row) for row in rng.permutation(200)[:50]]
    assert previous.take(rows)["color_label"].to_pylist() == [f"label {row}" for row in rows]
    previous.close()
    assert not (tmp_path / "scratch").exists()


@pytest.mark.parametrize("text", [None, "", "not hexadecimal", "abc"])
def test_damaged_hash_matches_no_product(text: str | None) -> None:
    assert digest_of(text) == b""
    assert len(input_hash(None, "missing", None)) == DIGEST_BYTES


def test_hash_tells_apart_what_the_model_could() -> None:
    seen = [
        input_hash(None, "missing", None),
        input_hash(None, "missing", ""),
        input_hash(None, "missing", "red"),
        input_hash(None, "not_found", "red"),
        input_hash(b"", "ok", "red"),
        input_hash(b"red", "ok", None),
        input_hash(b"red", "ok", "red"),
        input_hash(b"redr", "ok", "ed"),
        input_hash(None, "missing", "gr\udcf6n"),
    ]
    assert len(set(seen)) == len(seen)
    assert input_hash(b"x", "ok", "a") == input_hash(b"x", "ok", "a")
