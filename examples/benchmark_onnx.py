"""Torch and ONNX Runtime side by side: from the command to the first labelled row, and the rate.

    python examples/benchmark_onnx.py                       # the default model
    python examples/benchmark_onnx.py --num-products 200 --model runs/mine

Everything is made here: the export, pictures of 480x360, titles. Each figure is of whole processes
of `tagger predict`, the best of a few that take turns; those of another machine, or beside other
work, are not comparable.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

import tagger
from benchmark import make_feed
from tagger.export import ExportOptions, export

ROUNDS = 3


@dataclass
class Way:
    """One way to run a model, with what it took: seconds to the first row, products a second."""

    name: str
    words: list[str]
    starts: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)


def main() -> None:
    """Parse options, export, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--num-products", type=int, default=1000)
    parser.add_argument("--model", default="fashion")
    options = parser.parse_args()
    tasks = ",".join(tagger.load(options.model).tasks)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ways = make_ways(options.model, folder)
        feed = make_feed(folder, options.num_products, repeats=1)
        for _ in range(ROUNDS):
            for way in ways:
                way.starts.append(seconds_to_first_row(way, feed, tasks))
                way.rates.append(products_per_second(way, feed, tasks))
    Console().print(as_table(options.model, ways))


def make_ways(model: str, folder: Path) -> list[Way]:
    """Torch as it is and in float32, and the exports that pass the gate in fp32 and fp16."""
    ways = [
        Way("torch", ["--model", model]),
        Way("torch, --fp32", ["--model", model, "--fp32"]),
    ]
    for precision in ("fp32", "fp16"):
        out = folder / precision
        try:
            export(ExportOptions(model, "onnx", out, precision), lambda comparison: None)
        except tagger.TaggerError as refused:
            print(f"onnx, {precision}: {refused}", file=sys.stderr)
        else:
            ways.append(Way(f"onnx, {precision}", ["--model", str(out)]))
    return ways


def seconds_to_first_row(way: Way, feed: Path, tasks: str) -> float:
    """Of a whole process that labels one product."""
    started = time.perf_counter()
    predict(way, feed, tasks, "--limit", "1")
    return time.perf_counter() - started


def products_per_second(way: Way, feed: Path, tasks: str) -> float:
    """Of a whole feed, without the start of the process; reading and writing included."""
    report = feed.with_name("report.json")
    predict(way, feed, tasks, "--report", str(report))
    return float(json.loads(report.read_text())["rows_per_second"])


def predict(way: Way, feed: Path, tasks: str, *words: str) -> None:
    """`tagger predict` on the CPU, in a process of its own."""
    command = [sys.executable, "-m", "tagger.cli", "predict", str(feed), "--tasks", tasks]
    out = ["--out", str(feed.with_name("out.parquet")), "--overwrite", "--quiet"]
    subprocess.run([*command, *way.words, *words, *out, "--device", "cpu"], check=True)


def as_table(model: str, ways: list[Way]) -> Table:
    """One row a way."""
    table = Table("", "seconds to the first row", "products/s", title=model, title_justify="left")
    for way in ways:
        table.add_row(way.name, f"{min(way.starts):.2f}", f"{max(way.rates):,.0f}")
    return table


if __name__ == "__main__":
    main()
