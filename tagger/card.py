"""The model card: README.md of a trained model directory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tagger import __version__
from tagger.config import Config
from tagger.errors import listing
from tagger.model import CMAClip

if TYPE_CHECKING:
    from tagger.train import TrainResult

_VIEWS = {"both": "picture and title", "image": "picture alone", "title": "title alone"}


def write_card(
    command: str, config: Config, model: CMAClip, result: TrainResult, device: torch.device
) -> str:
    """Markdown with Hugging Face metadata: what made the model, on what, and how good it was."""
    best = result.history[result.best_epoch]
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    rows = "\n".join(
        f"| {task.name} | {len(task.labels)} | "
        + " | ".join(f"{best.accuracy[view][task.name]:.3f}" for view in _VIEWS)
        + " |"
        for task in config.tasks
    )
    left_out = "\n".join(
        f"- {task}: {listing(list(labels), 20)}" for task, labels in result.data.left_out.items()
    )
    return f"""---
library_name: tagger
pipeline_tag: image-text-to-text
tags: [product-tagging, cma-clip]
---

# Product tagger: {", ".join(task.name for task in config.tasks)}

CMA-CLIP (arXiv 2112.03562), {millions:.1f} million parameters, \
towers {config.architecture.open_clip or "given by their dimensions"}.

Made by tagger {__version__}, torch {torch.__version__}, on {device} \
in {result.seconds / 60:.0f} minutes:

    {command}

Learned from {len(result.data.train):,} products, validated on {len(result.data.validation):,}; \
epoch {result.best_epoch + 1} of {len(result.history)} was the best. Validation accuracy:

| task | labels | {" | ".join(_VIEWS.values())} |
|---|---|---|---|---|
{rows}

Labels with fewer than {config.training.min_support} products were not learned:

{left_out or "- none"}

Use: `tagger predict CATALOG --tasks {",".join(task.name for task in config.tasks)} --model DIR`
"""
