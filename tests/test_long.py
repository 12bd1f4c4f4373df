"""Long runs, not in the default suite: `pytest -m slow -s` prints their figures.

Mutated pictures and catalogs in the thousands; memory over a million rows.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tagger.bundle import Bundle
from tagger.catalog import Catalog
from tagger.errors import TaggerError
from tagger.images import IMAGE_STATUSES, decode
from tagger.job import Job, JobOptions
from tagger.run import run

from .conftest import mixed_rows, random_titles, tiny_config

pytestmark = pytest.mark.slow

NUM_PICTURES, NUM_CATALOGS = 10_000, 1_000
SLOW_SECONDS = 5.0
"""No small file may take longer than this, however it is damaged."""


def pictures() -> list[bytes]:
    """Small pictures in every format and mode that is read."""
    rng = np.random.default_rng(0)
    pixels = Image.fromarray(rng.integers(0, 256, (48, 36, 3), dtype=np.uint8))
    made = []
    for form, modes in {
        "JPEG": ("RGB", "L", "CMYK"),
        "PNG": ("RGB", "RGBA", "P", "L", "I;16", "1"),
        "WEBP": ("RGB", "RGBA"),
        "GIF": ("P",),
        "BMP": ("RGB", "L"),
    }.items():
        for mode in modes:
            # Pillow has no way from RGB to 16 bits but through grey.
            image = pixels.convert("L").convert("I;16") if mode == "I;16" else pixels.convert(mode)
            for options in ({}, {"progressive": True}) if form == "JPEG" else ({},):
                sink = io.BytesIO()
                image.save(sink, form, **options)
                made.append(sink.getvalue())
    return made


def mutated(data: bytes, rng: np.random.Generator, most: int) -> bytes:
    """`data` with bytes flipped, cut, doubled, removed or replaced by noise, 1 to `most` times."""
    content = bytearray(data)
    for _ in range(int(rng.integers(1, most + 1))):
        if not content:
            break
        at = int(rng.integers(len(content)))
        length = int(rng.integers(1, 1 + max(1, len(content) // 4)))
        match int(rng.integers(6)):
            case 0:
                content[at] ^= 1 << int(rng.integers(8))
            case 1:
                del content[at:]
            case 2:
                content[at:at] = content[at : at + length]
            case 3:
                del content[at : at + length]
            case 4:
                content[at : at + length] = rng.bytes(length)
            case _:
                # Sizes and lengths are where decoders are tricked.
                content[at : at + 4] = int(rng.integers(2**32)).to_bytes(4, "big")
    return bytes(content)


def test_no_mutated_picture_crashes_or_hangs_the_decoder() -> None:
    rng = np.random.default_rng(1)
    originals, preprocess = pictures(), tiny_config().preprocess
    counts: dict[str, int] = {}
    slowest = 0.0
    for number in range(NUM_PICTURES):
        data = mutated(originals[number % len(originals)], rng, 5)
        started = time.monotonic()
        pixels, status = decode(data, preprocess)
        slowest = max(slowest, time.monotonic() - started)
        assert status in IMAGE_STATUSES
        assert (pixels is not None) == (status == "ok")
        if pixels is not None:
            assert pixels.shape == (preprocess.height, preprocess.width, 3)
        counts[status] = counts.get(status, 0) + 1
    print(f"{NUM_PICTURES} mutated pictures: {counts}, slowest {slowest * 1000:.0f} ms")
    assert slowest < SLOW_SECONDS


def test_no_mutated_catalog_crashes_hangs_or_loses_a_row(tiny: Bundle, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    rows = mixed_rows(tmp_path, 30)
    table = pa.Table.from_pylist(rows)
    sink = io.BytesIO()
    pq.write_table(table, sink)
    lines = [",".join(rows[0])]
    lines += [",".join('"' + str(v).replace('"', '""') + '"' for v in r.values()) for r in rows]
    originals = {"parquet": sink.getvalue(), "csv": ("\n".join(lines) + "\n").encode()}
    refused = labelled = 0
    slowest = 0.0
    for number in range(NUM_CATALOGS):
        kind = ("csv", "parquet")[number % 2]
        feed, out = tmp_path / f"feed.{kind}", tmp_path / "out.parquet"
        feed.write_bytes(mutated(originals[kind], rng, 1))
        started = time.monotonic()
        try:
            given = sum(batch.num_rows for batch in Catalog(feed).batches(64))
            run(Job(tiny, JobOptions(feed, ["color", "pattern"], out, overwrite=True)))
        except TaggerError:
            refused += 1
        else:
            assert pq.read_metadata(out).num_rows == given
            labelled += 1
        slowest = max(slowest, time.monotonic() - started)
    print(
        f"{NUM_CATALOGS} mutated catalogs: {labelled} labelled with all their rows, {refused} "
        f"refused, slowest {slowest * 1000:.0f} ms"
    )
    assert slowest < SLOW_SECONDS
    assert labelled > 50
    assert refused > 50


PEAK = """
import json, resource, sys, time
sys.argv = sys.argv[1:]
from tagger.cli import main
started = time.monotonic()
try:
    main()
finally:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"peak_mb": peak / 1024, "seconds": time.monotonic() - started}))
"""


def measure(feed: Path, model_dir: Path, num_rows: int) -> dict[str, float]:
    """Peak memory and seconds of one command in a process of its own."""
    out = feed.with_name(f"{num_rows}.parquet")
    options = ["--tasks", "color,pattern", "--model", str(model_dir), "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-c", PEAK, "tagger", "predict", str(feed), *options, "--quiet"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
    )
    assert pq.read_metadata(out).num_rows == num_rows
    out.unlink()
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_memory_does_not_grow_with_rows(model_dir: Path, tmp_path: Path, kind: str) -> None:
    pictures = [row["image"] for row in mixed_rows(tmp_path, 40)]
    peaks = {}
    for count in (50_000, 1_000_000):
        titles = random_titles(1000) * (count // 1000)
        # One product in twenty has a picture; decoding a million would take the tiny model's hour.
        images = [pictures[n % 40] if n % 20 == 0 else None for n in range(count)]
        table = pa.table({"id": range(count), "image": images, "title": titles})
        feed = tmp_path / f"feed{count}.{kind}"
        if kind == "csv":
            pa.csv.write_csv(table, feed)
        else:
            # One row group, the worst case of a reader that takes a group at a time.
            pq.write_table(table, feed, row_group_size=count)
        del titles, images, table
        peaks[count] = measure(feed, model_dir, count)
        feed.unlink()
    print(f"{kind}: {peaks}")
    assert peaks[1_000_000]["peak_mb"] < 1.1 * peaks[50_000]["peak_mb"]
