"""How fast is tagger on this machine, and what is the limit? Prints rates and ratios side by side.

    python examples/benchmark.py                         # default model; ViT-B-32, random weights
    python examples/benchmark.py --num-products 200 --models fashion
    python examples/benchmark.py --train                 # training, too

Everything is made here: pictures of 480x360, titles of 5 to 15 words, weights. No network is used.
Ratios are of one run; rates of another machine, or beside other work, are not comparable.
"""

from __future__ import annotations

import argparse
import io
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

import tagger
from tagger import bundle, shelf
from tagger.bundle import Bundle
from tagger.config import read_config
from tagger.device import has_bf16
from tagger.encoder import Encoder
from tagger.images import NUM_THREADS, decode
from tagger.inference import image_features
from tagger.job import Job, JobOptions
from tagger.model import CMAClip
from tagger.run import Result, run
from tagger.runtime import ROUND, Inputs
from tagger.tasks import Task
from tagger.tokenizer import ClipPieces
from tagger.train import TrainOptions, train

VIT = "ViT-B-32"
COLORS = ("red", "blue", "green", "black", "white", "pink", "brown", "navy", "grey", "gold")
NOUNS = ("shirt", "kurta", "shoe", "bag", "watch", "heel", "belt", "dress", "cap", "scarf")
KINDS = ("men", "women", "kids", "casual", "formal", "sports", "striped", "printed", "solid")
SMALL_MODEL_PRODUCTS = 8
"""Times as many products for a small model, so that its run takes seconds, too."""
NETWORK_BATCHES = 8
"""Batches of products that the network alone is timed on, at most."""
LOOP_BATCH = 32
"""Of the plain open_clip loop that people write."""


@dataclass
class Row:
    """One line of the table: products a second, and how that compares."""

    what: str
    rate: float
    ratio: str = ""


def main() -> None:
    """Parse options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--num-products", type=int, default=256, help="for ViT-B-32")
    parser.add_argument("--models", nargs="+", default=["fashion", VIT])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--train", action="store_true", help="train ViT-B-32, too: minutes")
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # open_clip warns of random weights, which are meant here
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models:
            is_vit = name == VIT
            number = options.num_products * (1 if is_vit else SMALL_MODEL_PRODUCTS)
            feed = make_feed(Path(folder) / name, number, repeats=1)
            model = make_vit(feed.parent) if is_vit else name
            rows = measure(str(model), is_vit, feed, options.device)
            console.print(as_table(f"{name} on {options.device}", rows))
            if is_vit and options.train:
                rows = measure_training(model, feed, options.device)
                console.print(as_table(f"training {name} on {options.device}", rows))
        console.print(as_table("start", measure_start(Path(folder), options.device), "seconds"))


def measure(model: str, is_vit: bool, feed: Path, device: str) -> list[Row]:
    """All rates of one model on the catalog `feed`."""
    fast = load(model, device)
    batches = load_batches(fast, feed)
    number = sum(map(len, batches))
    decoding = rate_of_decoding(fast, feed)
    network = rate(lambda: answer_all(fast, batches), number)
    exact = load(model, device, fp32=True)
    network_fp32 = rate(lambda: answer_all(exact, batches), number)
    before = peak_flops(torch.device(device))
    result = predict(fast, feed, "out")
    wall = min(decoding, network)
    end = rows_per_second(result)
    rows = [
        Row("decode and resize alone", decoding),
        Row("network alone, float32", network_fp32),
        Row("network alone", network, f"{network / network_fp32:.2f}x float32"),
        Row("predict, end to end", end, f"{end / wall:.0%} of the slower wall"),
    ]
    if device == "cpu":
        both = 1 / (1 / decoding + 1 / network)
        rows.insert(3, Row("both on the same cores", both, f"{both / wall:.0%} of the slower wall"))
    if is_vit:
        peak, kind = (before[0] + peak_flops(torch.device(device))[0]) / 2, before[1]
        flops = flops_of(exact, feed)
        ceiling = peak / flops
        # After the model, which told the C library to keep memory: the loop has that for free.
        plain = rate_of_plain_loop(feed, device)
        rows += [
            Row(f"ceiling: {peak / 1e9:,.0f} GFLOP/s of {kind} products", ceiling),
            Row("predict against that ceiling", end, f"{end / ceiling:.0%}"),
            Row(f"plain open_clip loop, towers only, batch {LOOP_BATCH}", plain),
            Row("predict against that loop", end, f"{end / plain:.2f}x"),
        ]
    rows_in_feed = len(pd.read_parquet(feed))
    for what, variants in (("picture", False), ("product", True)):
        repeated = make_feed(feed.parent, rows_in_feed, repeats=5, variants=variants)
        often = rows_per_second(predict(fast, repeated, "repeated"))
        ratio = f"{often / end:.2f}x"
        if is_vit and not variants:
            allowed = flops / (flops - 0.8 * flops_of_picture(exact))
            ratio += f"; by its operations {allowed:.2f}x"
        rows.append(Row(f"predict, each {what} five times", often, ratio))
    cache = feed.parent / "cache"
    filling, again = (rows_per_second(predict(fast, feed, "cached", cache)) for _ in range(2))
    rows += [
        Row("predict, filling --cache", filling, f"{filling / end:.2f}x"),
        Row("predict, from --cache", again, f"{again / end:.1f}x"),
    ]
    agreement, distance = compare(feed.parent, exact, feed)
    rows.append(
        Row("labels as in float32", agreement, f"largest change of a confidence {distance:.4f}")
    )
    return rows


def load(model: str, device: str, fp32: bool = False) -> Bundle:
    """`model` as `predict` uses it, with its towers to be measured alone."""
    loaded = tagger.load(model, device, fp32).bundle
    assert isinstance(loaded, Bundle), f"{model} is an export"
    return loaded


def make_feed(folder: Path, count: int, repeats: int, variants: bool = False) -> Path:
    """A catalog of `count` products, each picture `repeats` times; titles all different, or with
    `variants` as often as their picture."""
    rng = np.random.default_rng(repeats)
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        picture = f"images/{repeats}-{number // repeats}.jpg"
        if number % repeats == 0:
            save_picture(folder / picture, rng)
        if number % repeats == 0 or not variants:
            words = [*rng.choice([*COLORS, *NOUNS, *KINDS], rng.integers(5, 16)), str(number)]
        rows.append({"id": number, "image": picture, "title": " ".join(words)})
    path = folder / f"feed-{repeats}.parquet"
    pd.DataFrame(rows).to_parquet(path)
    return path


def save_picture(path: Path, rng: np.random.Generator) -> None:
    """480x360: smooth shapes with some noise, about 40 kB, as photographs are."""
    coarse = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((480, 360), Image.Resampling.BICUBIC))
    noisy = smooth + rng.normal(0, 12, smooth.shape)
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=85)


def make_vit(folder: Path) -> Path:
    """A model directory of the paper's size with random weights."""
    path = folder / "vit"
    config = read_config(shelf.shelf() / "cma-clip-vit-b-32" / shelf.CONFIG)
    tasks = (
        Task("color", tuple(f"color {n}" for n in range(40))),
        Task("pattern", tuple(f"pattern {n}" for n in range(20))),
    )
    config = msgspec.structs.replace(config, tasks=tasks)
    torch.manual_seed(0)
    bundle.save(path, config, CMAClip(config), ClipPieces(77), "# random weights\n")
    return path


def load_batches(model: Bundle, feed: Path) -> list[list[Inputs]]:
    """The first products of the catalog, decoded and tokenised, batched as predict does; without
    those that would leave a batch to be filled up, or the ceiling would count that as work."""
    encoder = Encoder(model)
    by_length: dict[int, list[Inputs]] = {}
    for path, title in first_products(feed, NETWORK_BATCHES * model.batch_size):
        ids = encoder.read(title)
        pixels, _ = decode(path.read_bytes(), model.config.preprocess)
        inputs = Inputs(path.name.encode(), pixels, ids=ids)
        by_length.setdefault(encoder.padded_length(ids), []).append(inputs)
    full = [products[: len(products) // ROUND * ROUND] for products in by_length.values()]
    if not any(full):
        raise SystemExit(f"too few products to fill a batch of {ROUND}: raise --num-products")
    return [
        products[start : start + model.batch_size]
        for products in full
        for start in range(0, len(products), model.batch_size)
    ]


def first_products(feed: Path, count: int | None = None) -> list[tuple[Path, str]]:
    """Picture files and titles of the first products of the catalog, or of all."""
    rows = pd.read_parquet(feed)[:count]
    return [
        (feed.parent / image, title)
        for image, title in zip(rows["image"], rows["title"], strict=True)
    ]


def answer_all(model: Bundle, batches: list[list[Inputs]]) -> None:
    """The network alone, with nothing remembered."""
    encoder = Encoder(model)
    for batch in batches:
        encoder.answer(batch)


def rate(call: Callable[[], object], count: int, seconds: float = 6.0) -> float:
    """Products a second of `call`, which does `count` of them; the best of several."""
    call()
    best, started = float("inf"), time.perf_counter()
    while time.perf_counter() - started < seconds:
        before = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - before)
    return count / best


def rate_of_decoding(model: Bundle, feed: Path) -> float:
    """Pictures a second, read, decoded and resized in threads as predict does."""
    paths = [path for path, _ in first_products(feed)]
    preprocess = model.config.preprocess
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        return rate(
            lambda: list(pool.map(lambda path: decode(path.read_bytes(), preprocess), paths)),
            len(paths),
        )


def predict(model: Bundle, feed: Path, name: str, cache: Path | None = None) -> Result:
    """The whole command but for its start."""
    tasks = [task.name for task in model.config.tasks]
    out = feed.parent / f"{name}.parquet"
    return run(Job(model, JobOptions(feed, tasks, out, overwrite=True, cache=cache)))


def rows_per_second(result: Result) -> float:
    """Of the whole run, reading and writing included."""
    return result.stages.computed_rows / result.seconds


def peak_flops(device: torch.device) -> tuple[float, str]:
    """The best rate of a matrix product on this device, and of which type."""
    dtype = torch.bfloat16 if has_bf16(device) else torch.float32
    size = 8192 if device.type == "cuda" else 2048  # a GPU is not busy with less
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))

    def multiply() -> None:
        torch.mm(a, b)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return rate(multiply, 2 * size**3, seconds=3.0), str(dtype).removeprefix("torch.")


def flops_of(model: Bundle, feed: Path) -> float:
    """Of the matrix products for a product of `feed`, two for each multiply and add."""
    batches = load_batches(model, feed)
    with FlopCounterMode(display=False) as counter:
        answer_all(model, batches)
    return float(counter.get_total_flops()) / sum(map(len, batches))


def flops_of_picture(model: Bundle) -> float:
    """Of the matrix products of the image tower for a picture."""
    preprocess = model.config.preprocess
    pixels = torch.zeros(1, 3, preprocess.height, preprocess.width, dtype=torch.uint8)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        image_features(model.model, pixels)
    return float(counter.get_total_flops())


def rate_of_plain_loop(feed: Path, device: str) -> float:
    """Both towers as in open_clip's README: one picture after the other, float32, 77 tokens."""
    import open_clip

    model, _, preprocess = open_clip.create_model_and_transforms(VIT)
    tokenizer = open_clip.get_tokenizer(VIT)
    products = first_products(feed, 2 * LOOP_BATCH)
    model.eval().to(device)

    def loop() -> None:
        for start in range(0, len(products), LOOP_BATCH):
            batch = products[start : start + LOOP_BATCH]
            files = [path.read_bytes() for path, _ in batch]
            pictures = [preprocess(Image.open(io.BytesIO(file))) for file in files]
            with torch.no_grad():
                model.encode_image(torch.stack(pictures).to(device)).cpu()
                model.encode_text(tokenizer([title for _, title in batch]).to(device)).cpu()

    return rate(loop, len(products))


def compare(folder: Path, exact: Bundle, feed: Path) -> tuple[float, float]:
    """Share of labels, in %, that are those of float32, and the largest change of a confidence."""
    predict(exact, feed, "exact")
    one, other = (pd.read_parquet(folder / f"{name}.parquet") for name in ("out", "exact"))
    tasks = [task.name for task in exact.config.tasks]
    # A task that does not apply has no label, in both.
    labels = [pair[[f"{t}_label" for t in tasks]].fillna("") for pair in (one, other)]
    same = (labels[0] == labels[1]).mean()
    moved = [(one[f"{t}_confidence"] - other[f"{t}_confidence"]).abs().max() for t in tasks]
    return 100 * float(same.min()), max(moved)


def add_labels(feed: Path) -> pd.DataFrame:
    """The products of `feed` with a task `word`; written as train.parquet and val.parquet."""
    products = pd.read_parquet(feed)
    products["word"] = ["red" if "red" in title.split() else "other" for title in products["title"]]
    products.to_parquet(feed.parent / "train.parquet")
    products[: len(products) // 8].to_parquet(feed.parent / "val.parquet")
    return products


def measure_training(model: Path, feed: Path, device: str) -> list[Row]:
    """Products a second of epochs with frozen towers, and of one that trains all."""
    number = len(add_labels(feed))
    rates: dict[bool, list[float]] = {}
    for frozen, epochs in ((True, 3), (False, 1)):
        options = TrainOptions(
            feed.parent / "train.parquet",
            ["word"],
            feed.parent / f"trained-{frozen}",
            str(model),
            feed.parent / "val.parquet",
            epochs=epochs,
            batch_size=LOOP_BATCH,
            device=device,
            freeze_towers=frozen,
        )
        rates[frozen] = [number / epoch.seconds for epoch in train(options, Silent()).history]
    (first, *_, later), (whole,) = rates[True], rates[False]
    return [
        Row("all, towers too", whole),
        Row("frozen towers, first epoch", first, f"{first / whole:.1f}x"),
        Row(
            "frozen towers, later ones",
            later,
            f"{later / first:.1f}x the first, {later / whole:.1f}x all",
        ),
    ]


class Silent:
    """Hears of training and says nothing."""

    def prepared(self, data: object, model: object, device: object) -> None: ...
    def step(self, step: int, total: int, loss: float) -> None: ...
    def epoch(self, number: int, epoch: object) -> None: ...
    def left_aside(self, trouble: str) -> None: ...


def measure_start(folder: Path, device: str) -> list[Row]:
    """Seconds from the command to its first labelled row, and of what it cannot do without."""
    feed = make_feed(folder / "one", 1, repeats=1)
    name = [sys.executable, "-m", "tagger.cli"]
    label = ["predict", str(feed), "--tasks", "category", "--device", device, "--overwrite", "-q"]
    importing = seconds_of([sys.executable, "-c", "import torch, open_clip"])
    first = seconds_of([*name, *label])
    return [
        Row("tagger --help", seconds_of([*name, "--help"])),
        Row("import torch, open_clip", importing),
        Row("first row of the default model", first, f"{first / importing:.2f}x"),
    ]


def seconds_of(command: list[str]) -> float:
    """The shortest of three runs, so that files are in memory."""
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        best = min(best, time.perf_counter() - started)
    return best


def as_table(title: str, rows: list[Row], unit: str = "products/s") -> Table:
    """The rows for a terminal."""
    table = Table("", unit, "ratio", title=title, title_justify="left")
    table.columns[1].justify = "right"
    for row in rows:
        shown = f"{row.rate:,.2f}" if unit == "seconds" else f"{row.rate:,.1f}"
        table.add_row(row.what, shown, row.ratio)
    return table


if __name__ == "__main__":
    main()
