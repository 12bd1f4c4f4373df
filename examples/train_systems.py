"""Train every system on the same towers, data, recipe and budget; `tagger eval` compares them.

    tagger train train.parquet --validation val.parquet --tasks color,pattern,usage \
        --model clip-zero-shot-small --out runs/clip
    python examples/train_systems.py train.parquet val.parquet --tasks color,pattern,usage \
        --pretrained runs/clip --out runs/systems --limit 8000 --epochs 4
    tagger eval test.parquet --tasks color,pattern,usage --robustness --report systems.html \
        --model runs/systems/clip-fine-tuned-0 --model runs/systems/cma-clip-0 ...

Each run starts from the contrastively trained towers of `--pretrained` and is one `tagger train` of
the recipe of `--model`: what differs is `fusion` in config.json. A run is named SYSTEM-SEED, or
SYSTEM-SEED-noise40 where 40% of the training labels were replaced by those of other products. What
is finished is left alone, what was interrupted goes on.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd

from tagger import shelf
from tagger.config import Config, System, read_config, write_config


@dataclass(frozen=True)
class Row:
    """A system, and what it changes of the fusion and of the recipe that all share."""

    system: System
    fusion: Mapping[str, object] = field(default_factory=dict)
    training: Mapping[str, object] = field(default_factory=dict)


FUSION: Mapping[str, object] = {"layers": 2, "task_queries": False}
RECIPE: Mapping[str, object] = {"mismatch": 0.2, "tower_lr": 0.0005}
"""What all rows change of the fusion and of the recipe of `--model`: towers that know something
learn slower, and pictures and titles that do not belong together teach every system to doubt."""

PLAIN: Mapping[str, object] = {
    "mismatch": 0.0,
    "scrub": 0.0,
    "word_dropout": 0.0,
    "image_only_weight": 0.0,
    "title_only_weight": 0.0,
}
"""Picture and title as they are, and one loss, for both together: fine-tuning without any of what
makes a model ready for a bad picture or title."""

ROWS: Mapping[str, Row] = {
    "clip-fine-tuned": Row("clip-fine-tuned"),
    "cma-clip": Row("cma-clip"),
    "cma-clip-task-queries": Row("cma-clip", {"task_queries": True, "layers": 1}),
    "mmbt": Row("mmbt"),
    "perceiver-io": Row("perceiver-io", {"latents": 16}),
    "embracenet": Row("embracenet"),
    "coca": Row("coca"),
    "imagebert": Row("one-stream"),
    "kaleidobert": Row("kaleidobert"),
    "image-only": Row("image-only"),
    "title-only": Row("title-only"),
    "cma-clip-separate-attention": Row("cma-clip", {"shared_attention": False}),
    "cma-clip-without-modality-attention": Row("cma-clip-without-modality-attention"),
    "clip-fine-tuned-plain": Row("clip-fine-tuned", training=PLAIN),
    "cma-clip-plain": Row("cma-clip", training=PLAIN),
}


@dataclass(frozen=True)
class Run:
    """One model to train: a row, a seed, and the share of wrong labels in percent."""

    row: str
    seed: int
    noise: int = 0

    @property
    def name(self) -> str:
        return f"{self.row}-{self.seed}" + (f"-noise{self.noise}" if self.noise else "")


def main() -> None:
    arguments = parse_arguments()
    arguments.out.mkdir(parents=True, exist_ok=True)
    recipe = read_config(shelf.resolve(arguments.model) / shelf.CONFIG)
    for run in planned(arguments):
        if not (arguments.out / run.name / shelf.WEIGHTS).is_file():
            train(run, recipe, arguments)


def planned(arguments: argparse.Namespace) -> Iterator[Run]:
    """All rows once; those of `--main` with each seed; these again with wrong labels."""
    for seed in range(arguments.seeds):
        yield from (Run(row, seed) for row in arguments.rows if not seed or row in arguments.main)
    for noise in arguments.noise:
        yield from (Run(row, 0, noise) for row in arguments.main)


def train(run: Run, recipe: Config, arguments: argparse.Namespace) -> None:
    definition = arguments.out / "definitions" / run.row
    definition.mkdir(parents=True, exist_ok=True)
    row = ROWS[run.row]
    fusion = msgspec.structs.replace(recipe.fusion, system=row.system, **{**FUSION, **row.fusion})
    training = msgspec.structs.replace(recipe.training, **{**RECIPE, **row.training})
    config = msgspec.structs.replace(recipe, fusion=fusion, training=training)
    write_config(config, definition / shelf.CONFIG)
    catalog = arguments.out / (f"train-noise{run.noise}.parquet" if run.noise else "train.parquet")
    if not catalog.is_file():
        training_catalog(arguments, run.noise).to_parquet(catalog)
    command = [
        *(sys.executable, "-m", "tagger.cli", "train", str(catalog)),
        *("--validation", str(arguments.validation), "--tasks", arguments.tasks),
        *("--image-root", str(arguments.image_root or arguments.train.parent)),
        *("--model", str(definition), "--pretrained", str(arguments.pretrained)),
        *("--epochs", str(arguments.epochs), "--seed", str(run.seed)),
        *("--out", str(arguments.out / run.name), "--resume"),
    ]
    print("$ tagger", " ".join(command[3:]), flush=True)
    subprocess.run(command, check=True)


def training_catalog(arguments: argparse.Namespace, noise: int) -> pd.DataFrame:
    """At most `--limit` random products; that share of each task's labels, in percent, replaced by
    another label, drawn as often as products carry it."""
    frame = pd.read_parquet(arguments.train)
    if arguments.limit and arguments.limit < len(frame):
        frame = frame.sample(arguments.limit, random_state=0).sort_index()
    rng = np.random.default_rng(noise)
    for task in arguments.tasks.split(","):
        labels = frame[task].to_numpy(dtype=object).copy()
        labelled = np.flatnonzero(frame[task].notna())
        for row in rng.permutation(labelled)[: round(len(labelled) * noise / 100)]:
            while labels[row] == frame[task].iloc[row]:
                labels[row] = frame[task].iloc[rng.choice(labelled)]
        frame[task] = labels
    return frame


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("train", type=Path, help="labelled catalog, Parquet")
    parser.add_argument("validation", type=Path)
    parser.add_argument("--tasks", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pretrained", type=Path, required=True, help="model with the towers")
    parser.add_argument("--model", default="cma-clip-small", help="definition with the recipe")
    parser.add_argument("--image-root", type=Path)
    parser.add_argument("--rows", nargs="+", choices=[*ROWS], default=[*ROWS])
    parser.add_argument(
        "--main",
        nargs="+",
        choices=[*ROWS],
        default=["clip-fine-tuned", "cma-clip", "cma-clip-task-queries", "coca"],
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--noise", type=int, nargs="*", default=[10, 40], help="percent")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--limit", type=int, help="labelled products to learn from")
    return parser.parse_args()


if __name__ == "__main__":
    main()
