"""How fast is tagger beside AutoGluon MultiModal, on the same backbone, products and batches?

    python -m venv autogluon && autogluon/bin/pip install autogluon.multimodal
    python examples/benchmark_autogluon.py autogluon/bin/python

Both train a ViT-B-32 with random weights on the same 256 made products, both towers included, in
batches of 32, on the CPU, and then label them; each in a process of its own, in turns. Its own
environment, because AutoGluon pins other versions of what both need.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

NUM_PRODUCTS, BATCH_SIZE = 256, 32
LABEL = "word"


def main() -> None:
    """Make the products, let both work in turns, print the rates."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("autogluon", help="Python of the environment with autogluon.multimodal")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--measure", nargs=2, metavar=("WHAT", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        what, folder = options.measure
        measure = measure_autogluon if what == "autogluon" else measure_tagger
        print(json.dumps(measure(Path(folder))))
        return
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder))
        programs = {"tagger": sys.executable, "autogluon": options.autogluon}
        best: dict[str, dict[str, float]] = {name: {} for name in programs}
        for _ in range(options.rounds):
            for name, python in programs.items():
                command = [python, __file__, python, "--measure", name, folder]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                for stage, rate in json.loads(done.stdout.splitlines()[-1]).items():
                    print(f"{name:10} {stage:8} {rate:6.1f} products/s", flush=True)
                    best[name][stage] = max(rate, best[name].get(stage, 0.0))
    for stage, rate in best["tagger"].items():
        times = rate / best["autogluon"][stage]
        print(f"{stage:8} tagger is {times:.2f} times as fast (best of each)")


def make(folder: Path) -> None:
    """Products and a model for tagger; what AutoGluon makes its own model of."""
    from open_clip.tokenizer import SimpleTokenizer

    from benchmark import add_labels, make_feed, make_vit

    logging.disable(logging.WARNING)  # open_clip warns of random weights, which are meant here
    add_labels(make_feed(folder, NUM_PRODUCTS, repeats=1))
    make_vit(folder)
    clip = folder / "clip"
    clip.mkdir()
    tokenizer = SimpleTokenizer()
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {names.get(piece, piece): number for piece, number in tokenizer.encoder.items()}
    (clip / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    merges = [" ".join(pair) for pair in sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.get)]
    (clip / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges), encoding="utf-8")


def measure_tagger(folder: Path) -> dict[str, float]:
    """Products a second of `tagger train` and `tagger predict`."""
    from benchmark import Silent, load, predict, rows_per_second
    from tagger.train import TrainOptions, train

    logging.disable(logging.WARNING)
    steps: list[float] = []

    class Watch(Silent):
        def step(self, step: int, total: int, loss: float) -> None:
            steps.append(time.perf_counter())

    with tempfile.TemporaryDirectory(dir=folder) as out:
        options = TrainOptions(
            folder / "train.parquet",
            [LABEL],
            Path(out) / "trained",
            str(folder / "vit"),
            folder / "val.parquet",
            epochs=1,
            batch_size=BATCH_SIZE,
            device="cpu",
        )
        train(options, Watch())
        trained = load(str(Path(out) / "trained"), "cpu")
        result = predict(trained, folder / "train.parquet", "out")
    return {"train": rate_of_steps(steps), "predict": rows_per_second(result)}


def measure_autogluon(folder: Path) -> dict[str, float]:
    """Products a second of its `fit` and `predict`; its own defaults but for batch and epochs."""
    import torch
    from autogluon.multimodal import MultiModalPredictor
    from autogluon.multimodal.optim.lit_module import LitModule
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

    clip = folder / "clip"
    torch.manual_seed(0)
    CLIPModel(CLIPConfig()).save_pretrained(clip)  # the default is ViT-B/32
    CLIPImageProcessor().save_pretrained(clip)
    tokenizer = CLIPTokenizer(str(clip / "vocab.json"), str(clip / "merges.txt"))
    tokenizer.model_max_length = 77
    tokenizer.save_pretrained(clip)
    train, validation = (
        pd.read_parquet(folder / f"{name}.parquet").drop(columns="id") for name in ("train", "val")
    )
    for products in (train, validation):
        products["image"] = [str(folder / image) for image in products["image"]]
    steps: list[float] = []
    LitModule.on_train_batch_end = lambda *_, **__: steps.append(time.perf_counter())
    with tempfile.TemporaryDirectory(dir=folder) as out:
        predictor = MultiModalPredictor(label=LABEL, path=str(Path(out) / "trained"))
        predictor.fit(
            train,
            tuning_data=validation,
            column_types={"image": "image_path", "title": "text", LABEL: "categorical"},
            hyperparameters={
                "model.names": ["clip"],
                "model.clip.checkpoint_name": str(clip),
                "env.batch_size": BATCH_SIZE,
                "env.per_gpu_batch_size": BATCH_SIZE,
                "env.num_gpus": 0,
                "optim.max_epochs": 1,
            },
        )
        started = time.perf_counter()
        predictor.predict(train)
        seconds = time.perf_counter() - started
    return {"train": rate_of_steps(steps), "predict": len(train) / seconds}


def rate_of_steps(ends: list[float]) -> float:
    """Products a second between the ends of the first batch and of the last one."""
    return BATCH_SIZE * (len(ends) - 1) / (ends[-1] - ends[0])


if __name__ == "__main__":
    main()
