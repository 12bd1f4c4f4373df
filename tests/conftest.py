"""Fixtures: a tiny seeded model directory, a factory of small catalogs; nothing is downloaded."""

from __future__ import annotations

import json
import resource
import tracemalloc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from tagger import bundle
from tagger.answers import collect_answers
from tagger.bundle import Bundle
from tagger.calibration import Calibration, TaskCalibration, Threshold, write_calibration
from tagger.config import Architecture, Config, ConvTower, Fusion, Preprocess, TokenTower
from tagger.drift import profile_of, write_profile
from tagger.export import ExportOptions, export
from tagger.hashes import file_digest
from tagger.network import Network
from tagger.products import Products
from tagger.systems import build_network
from tagger.tasks import Task
from tagger.tokenizer import learn_pieces
from tagger.trained_on import write_trained_on

torch.set_num_threads(1)

WORDS = ("red", "blue", "green", "striped", "plain", "dotted", "shirt", "shoe", "bag", "women")
TASKS = (Task("color", ("Blue", "Green", "Red")), Task("pattern", ("Dots", "Plain", "Stripe", "X")))

Cell = str | int | float | None
Row = Mapping[str, Cell]


class MakeCatalog(Protocol):
    """Rows to a catalog file of the kind that its suffix names."""

    def __call__(self, rows: Sequence[Row], name: str = "catalog.parquet") -> Path: ...


def tiny_config() -> Config:
    """Everything a real model has, at a size that answers in milliseconds."""
    return Config(
        architecture=Architecture(
            image=ConvTower(widths=(8, 16), depths=(1, 1)),
            text=TokenTower(
                vocabulary_size=200, context_length=16, kernel=3, width=16, layers=1, heads=2
            ),
        ),
        fusion=Fusion(width=16, layers=1, heads=2, head_width=16),
        preprocess=Preprocess(height=32, width=24, resize="longest"),
        tasks=TASKS,
    )


def register_architectures(folder: Path, architectures: Mapping[str, object]) -> None:
    """Make open_clip know `architectures` by their names; `folder` must stay."""
    for name, config in architectures.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)


def random_titles(count: int, seed: int = 0) -> list[str]:
    """Titles of one to eight of WORDS."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(1, 9))) for _ in range(count)]


def randomise(model: Network, seed: int) -> None:
    """Every parameter and statistic away from its start, as training leaves them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=generator) * 0.3
                tensor.copy_(tensor + (noise.abs() if name.endswith("running_var") else noise))


def save_tiny(path: Path, config: Config, seed: int = 1) -> Path:
    """A model directory of `config`, its weights drawn by `seed`; returns `path`."""
    torch.manual_seed(0)
    model = build_network(config)
    randomise(model, seed)
    bundle.save(path, config, model, learn_pieces(random_titles(60), 200, 16), "# tiny\n")
    return path


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory that predicts; its labels depend on picture and title."""
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny", tiny_config())


@pytest.fixture(scope="session")
def tiny(model_dir: Path) -> Bundle:
    """The loaded model of `model_dir`."""
    return bundle.load(model_dir)


TEMPERATURE, THRESHOLD = 2.5, 0.4
"""Of the task `color` of `calibrated_dir`, for a precision of 0.9."""


@pytest.fixture(scope="session")
def calibrated_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, calibrated for one of its tasks, with what training and calibrating leave."""
    path = save_tiny(tmp_path_factory.mktemp("calibrated") / "tiny", tiny_config())
    threshold = Threshold(
        precision=0.9,
        threshold=THRESHOLD,
        num_products=1,
        reported_products=1,
        published=0,
        reported_precision=None,
    )
    fitted = TaskCalibration(
        temperature=TEMPERATURE,
        thresholds=(threshold,),
        delta=0.1,
        catalog="x",
        catalog_sha256="x",
    )
    weights = file_digest(path / bundle.WEIGHTS)
    write_calibration(
        Calibration(precision=0.9, weights_sha256=weights, tasks={"color": fitted}), path
    )
    loaded, names = bundle.load(path), [task.name for task in TASKS]
    titles = random_titles(30, seed=3)
    products = Products([None] * len(titles), [*titles])
    answers = collect_answers(loaded, products, path, names)
    write_profile(profile_of(loaded, products, [answers]), path)
    write_trained_on(path, products.take(range(5)))
    return path


@pytest.fixture(scope="session")
def onnx_dir(calibrated_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of `calibrated_dir`, exported to ONNX; a test that changes it takes a copy."""
    out = tmp_path_factory.mktemp("exports") / "tiny-onnx"
    export(ExportOptions(str(calibrated_dir), "onnx", out), lambda comparison: None)
    return out


@pytest.fixture
def make_catalog(tmp_path: Path) -> MakeCatalog:
    """Writes rows to `tmp_path`; None is an empty field of a CSV."""

    def make(rows: Sequence[Row], name: str = "catalog.parquet") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".csv":
            lines = [list(rows[0]), *(row.values() for row in rows)]
            text = "\n".join(",".join(map(_field, line)) for line in lines) + "\n"
            path.write_bytes(text.encode())
        else:
            pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), path)
        return path

    return make


def _field(value: Cell) -> str:
    return "" if value is None else '"' + str(value).replace('"', '""') + '"'


def save_picture(path: Path, seed: int) -> None:
    """A small JPEG of seeded noise in a seeded color."""
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 256, 3)
    noise = rng.integers(-40, 41, (40, 30, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((base + noise).clip(0, 255).astype(np.uint8)).save(path, quality=90)


def mixed_rows(folder: Path, count: int, seed: int = 0) -> list[dict[str, Cell]]:
    """Rows of every kind: with picture and title, with either, with neither, with a bad picture."""
    titles = random_titles(count, seed)
    rows: list[dict[str, Cell]] = []
    for number, title in enumerate(titles):
        image = f"images/{number}.jpg"
        if number % 5 != 4:
            save_picture(folder / image, seed * 1000 + number)
        if number % 7 == 6:
            (folder / image).parent.mkdir(parents=True, exist_ok=True)
            (folder / image).write_bytes(b"<html>not a picture</html>")
        rows.append(
            {
                "id": f"{number:05d}",
                "image": None if number % 4 == 3 else image,
                "title": None if number % 3 == 2 else title,
                "price": number * 1.5,
            }
        )
    return rows


@contextmanager
def most_memory(size: int) -> Iterator[None]:
    """What the block allocates in Python and numpy is never more than `size` bytes."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] <= size
    finally:
        tracemalloc.stop()


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The system refuses to let any file grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
