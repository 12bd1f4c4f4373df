"""What do 10,000 labels cost? Predicting and training with a small tree and a large one, in turns.

    python examples/benchmark_tree.py
    python examples/benchmark_tree.py --leaves 100 1000 --rounds 9

Everything is made here: trees with made-up names, pictures of 480x360, titles of 5 to 15 words,
random weights in the default definition. No network is used. The trees take turns; figures are the
median of the rounds, a ratio is the median of that of each round. Those of another machine, or
beside other work, are not comparable.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import msgspec
import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.table import Table

from benchmark import make_feed, predict
from tagger import bundle, shelf
from tagger.catalog import Columns
from tagger.config import DEFAULT_DEFINITION, SEPARATOR, Config, read_config
from tagger.device import choose_device
from tagger.fast_vit import write_out_attention
from tagger.fit import Learner, train_epoch
from tagger.inference import speed_up
from tagger.model import CMAClip
from tagger.optimizer import build_optimizers
from tagger.pixel_cache import PixelCache
from tagger.products import read_products
from tagger.tasks import Task, join_leaves
from tagger.tokenizer import Tokenizer, learn_pieces
from tagger.tree import Names

LEVELS = 6
SYLLABLES = tuple(first + vowel for first in "bdfgklmnprstvz" for vowel in "aeiou")


@dataclass
class Tree:
    """A tree with what it took: per kind of work the seconds of each round, and peak bytes."""

    task: Task
    model: Path
    seconds: dict[str, list[float]] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)


def main() -> None:
    """Parse options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--leaves", type=int, nargs=2, default=[100, 10_000])
    parser.add_argument("--num-products", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        feed = make_feed(folder, options.num_products, repeats=1)
        tasks = [make_task(leaves) for leaves in options.leaves]
        add_labels(feed, tasks)
        trees = [make_tree(task, folder, feed) for task in tasks]
        for tree in trees:  # first of all: a process starts from the peak of the one that starts it
            measure_memory(tree, feed, options.device)
        measure(trees, feed, options.rounds, torch.device(options.device))
        title = f"{DEFAULT_DEFINITION} on {options.device}"
        Console().print(as_table(title, trees, options.num_products))


def make_task(leaves: int) -> Task:
    """A tree of so many leaves, of uneven size and depth; inner nodes have names of one or two
    words, as leaves do."""
    rng = np.random.default_rng(leaves)
    fanout = round(leaves ** (1 / (LEVELS - 1.5)))
    paths = list(grow((), leaves, fanout, rng))
    return Task(f"kind_{leaves}", join_leaves(paths, SEPARATOR), SEPARATOR)


def grow(node: Names, leaves: int, fanout: int, rng: np.random.Generator) -> list[Names]:
    """The leaves below `node`, which has about `fanout` children."""
    if leaves == 1 and node:
        return [node]
    last = len(node) == LEVELS - 1
    children = leaves if last else min(leaves, int(rng.integers(2, 2 * fanout)))
    sizes = 1 + rng.multinomial(leaves - children, rng.dirichlet(np.full(children, 2.0)))
    names: set[str] = set()
    while len(names) < children:
        words = ("".join(rng.choice(SYLLABLES, 2)) for _ in range(rng.integers(1, 3)))
        names.add(" ".join(words).capitalize())
    return [
        path
        for name, size in zip(sorted(names), sizes.tolist(), strict=True)
        for path in grow((*node, name), size, fanout, rng)
    ]


def add_labels(feed: Path, tasks: list[Task]) -> None:
    """A column of random leaves for each task, and a small catalog to validate on."""
    rng = np.random.default_rng(0)
    products = pd.read_parquet(feed)
    for task in tasks:
        products[task.name] = rng.choice(task.labels, len(products))
    products.to_parquet(feed)
    products[: len(products) // 8].to_parquet(feed.with_name("validation.parquet"))


def make_tree(task: Task, folder: Path, feed: Path) -> Tree:
    """A model directory of random weights, and the tree as a taxonomy file beside it."""
    config, tokenizer = definition(task, feed)
    path = folder / task.name
    torch.manual_seed(0)
    bundle.save(path, config, CMAClip(config), tokenizer, "# random weights\n")
    paths = [SEPARATOR.join(names) for names in sorted(task.tree.names)]
    path.with_suffix(".txt").write_text("\n".join(["# Google_Product_Taxonomy_Version: 1", *paths]))
    return Tree(task, path)


def definition(task: Task, feed: Path) -> tuple[Config, Tokenizer]:
    """The default definition with that task, and a tokenizer learned from the titles."""
    config = read_config(shelf.shelf() / DEFAULT_DEFINITION / shelf.CONFIG)
    text = config.architecture.text
    assert text is not None
    titles = pd.read_parquet(feed)["title"]
    tokenizer = learn_pieces(titles, text.vocabulary_size, text.context_length)
    return msgspec.structs.replace(config, tasks=(task,)), tokenizer


def measure_memory(tree: Tree, feed: Path, device: str) -> None:
    """Peak memory of whole processes that predict and train."""
    tasks = ["--tasks", tree.task.name, "--device", device]
    out = feed.with_name(f"out-{tree.task.name}")
    validation, taxonomy = feed.with_name("validation.parquet"), tree.model.with_suffix(".txt")
    train = ["train", feed, "--validation", validation, "--epochs", 1]
    commands = {
        "prediction": ["predict", feed, "--model", tree.model, "--out", f"{out}.parquet"],
        "training": [*train, "--taxonomy", taxonomy, "--out", out],
    }
    for kind, words in commands.items():
        tree.memory[kind] = peak_memory([*map(str, words), *tasks])


def peak_memory(words: list[str]) -> int:
    """Bytes that a command of tagger held at most."""
    command = [sys.executable, "-m", "tagger.cli", *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure(trees: list[Tree], feed: Path, rounds: int, device: torch.device) -> None:
    """Seconds of each kind of work; the first round of each is for warming up."""
    with ThreadPoolExecutor(8) as pool:
        for make in (make_prediction, make_training):
            works = [make(tree, feed, device, pool) for tree in trees]
            for number in range(rounds + 1):
                for tree, work in zip(trees, works, strict=True):
                    started = time.perf_counter()
                    work()
                    if number:
                        kind = make.__name__.removeprefix("make_")
                        tree.seconds.setdefault(kind, []).append(time.perf_counter() - started)


def make_prediction(
    tree: Tree, feed: Path, device: torch.device, pool: ThreadPoolExecutor
) -> Callable[[], object]:
    """One run of `predict` but for its start."""
    loaded = bundle.load(tree.model, choose_device(str(device)))
    speed_up(loaded.model, fp32=False)
    return lambda: predict(loaded, feed, f"out-{tree.task.name}")


def make_training(
    tree: Tree, feed: Path, device: torch.device, pool: ThreadPoolExecutor
) -> Callable[[], object]:
    """One epoch with pictures that are decoded."""
    config, tokenizer = definition(tree.task, feed)
    products = read_products(feed, Columns(), [tree.task.name])
    torch.manual_seed(0)
    model = CMAClip(config).to(device)
    if device.type == "cpu":
        write_out_attention(model)
    pixels = PixelCache(products.images, feed.parent, config.preprocess, pool)
    learner = Learner(model, tokenizer, config.training, products, pixels, device)
    optimizers = build_optimizers(model, config.training)
    return lambda: train_epoch(learner, optimizers, None, 0, lambda step, total, loss: None)


def as_table(title: str, trees: list[Tree], number: int) -> Table:
    """A row for each figure, a column for each tree."""
    names = [f"{len(tree.task.labels):,} leaves" for tree in trees]
    table = Table("", *names, "cost", title=title, title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    small, large = trees

    def add(what: str, values: list[float], digits: int = 0, ratio: float | None = None) -> None:
        shown = [f"{value:,.{digits}f}" for value in values]
        table.add_row(what, *shown, "" if ratio is None else f"{ratio:.2f}x")

    add("nodes", [len(tree.task.tree) for tree in trees])
    add("levels", [tree.task.tree.depth for tree in trees])
    for kind in small.seconds:
        pairs = zip(small.seconds[kind], large.seconds[kind], strict=True)
        ratio = median(b / a for a, b in pairs)
        add(f"{kind}, products/s", [number / median(t.seconds[kind]) for t in trees], 0, ratio)
    for kind in small.memory:
        values = [tree.memory[kind] / 1e6 for tree in trees]
        add(f"{kind}, peak memory of its process, MB", values, 0, values[1] / values[0])
    sizes = [sum(file.stat().st_size for file in tree.model.iterdir()) / 1e6 for tree in trees]
    add("model directory, MB", sizes, 1, sizes[1] / sizes[0])
    return table


if __name__ == "__main__":
    main()
