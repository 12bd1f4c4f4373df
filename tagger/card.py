"""The model card: README.md of a trained model directory."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

import torch

from tagger.checkpoint import Epoch
from tagger.config import Config
from tagger.errors import listing
from tagger.modalities import VIEW_NAMES
from tagger.network import Network
from tagger.precision import Bf16Change
from tagger.training_data import Data
from tagger.version import __version__
from tagger.views import VIEWS_IN_TRAINING
from tagger.wording import counted, lasting


def write_card(
    command: str,
    config: Config,
    model: Network,
    data: Data,
    history: Sequence[Epoch],
    best_epoch: int,
    seconds: float,
    bf16: Bf16Change | None,
) -> str:
    """Markdown with Hugging Face metadata: what made the model, on what, and how good it was."""
    best = history[best_epoch]
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    rows = "\n".join(
        f"| {as_text(task.name)} | {len(task.labels)} | "
        + " | ".join(_three_digits(best.accuracy[view][task.name]) for view in VIEWS_IN_TRAINING)
        + " |"
        for task in config.tasks
    )
    names = ",".join(task.name for task in config.tasks)
    left_out = "\n".join(
        as_text(f"- {task}: {listing(list(labels), 20)}") for task, labels in data.left_out.items()
    )
    return f"""---
license: unknown
library_name: tagger
pipeline_tag: image-classification
tags: [product-tagging, {config.fusion.system}]
---

# Product tagger: {as_text(", ".join(task.name for task in config.tasks))}

{model.origin}, {millions:.1f} million parameters, \
towers {config.architecture.open_clip or "given by their dimensions"}.

Made by tagger {__version__}, torch {torch.__version__}, in {lasting(seconds)}:

    {command}

{_how_it_learned(config, data, history, best_epoch)} Validation accuracy:

| task | labels | {" | ".join(VIEW_NAMES[view] for view in VIEWS_IN_TRAINING)} |
|---|---|---|---|---|
{rows}

Labels with fewer than {config.training.min_support} products to learn from were not learned (of a \
tree they taught the node above):

{left_out or "- none"}
{_trees(config)}{_precision(bf16)}
Before you pass it on, say under which licence, in the first lines of this file.

Use: `tagger predict CATALOG --tasks {shlex.quote(names)} --model DIR`
"""


def as_text(name: str) -> str:
    """`name` in Markdown, where it begins no HTML and, in a table, no cell."""
    return re.sub(r"[\\|<]", r"\\\g<0>", name)


def _how_it_learned(config: Config, data: Data, history: Sequence[Epoch], best_epoch: int) -> str:
    validated = f"validated on {len(data.validation):,}"
    if data.num_known:
        validated += f" (of which it learned from {data.num_known:,} as well, here or before)"
    if config.training.epochs == 0:
        return f"Learned from no product, {validated}."
    return (
        f"Learned from {counted(len(data.train), 'product')}, {validated}; "
        f"epoch {best_epoch + 1} of {len(history)} was the best."
    )


def _trees(config: Config) -> str:
    """What the trees are like, and which tasks do not apply to which of their nodes."""
    lines = [
        f"- {task.name}: a tree of {counted(task.tree.depth, 'level')} and "
        f"{counted(len(task.tree), 'node')}"
        for task in config.tasks
        if task.is_tree
    ]
    if config.applicability is not None:
        decides = config.applicability.task
        lines += [
            f"- {name} does not apply to {decides} {listing(list(nodes), 40)}"
            for name, nodes in config.applicability.not_for.items()
        ]
    return "\n".join(["", *map(as_text, lines), ""]) if lines else ""


def _precision(bf16: Bf16Change | None) -> str:
    return "" if bf16 is None else f"\nMeasured: {bf16}.\n"


def _three_digits(accuracy: float | None) -> str:
    return "-" if accuracy is None else f"{accuracy:.3f}"
