"""Whether a model may answer in bf16: measured on the products that it was validated on."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from tagger.answers import Answers, collect_answers
from tagger.bundle import Bundle
from tagger.config import Config
from tagger.device import has_bf16
from tagger.inference import speed_up
from tagger.network import Network
from tagger.products import Products
from tagger.runtime import softmax
from tagger.tokenizer import Tokenizer

LABELS_AGREE = 0.995
"""Share of the labels of each task that bf16 must leave as they are in float32."""
CONFIDENCE_CHANGE = 0.02
"""By how much it may move a confidence."""
NUM_PRODUCTS = 512
"""Of the validation split, at most, that are answered both ways."""


@dataclass(frozen=True)
class Bf16Change:
    """What bf16 changes in the answers to `num_products`, on a `device` of that type: the share of
    labels that stay in the task where fewest do, and the largest change of a confidence."""

    device: str
    num_products: int
    labels_agree: float
    confidence_change: float

    @property
    def computes_in(self) -> Literal["bfloat16", "float32"]:
        """What the model should answer in; written so that a change that is not a number fails."""
        close = self.labels_agree >= LABELS_AGREE and self.confidence_change <= CONFIDENCE_CHANGE
        return "bfloat16" if close else "float32"

    def __str__(self) -> str:
        answers = "float32" if self.computes_in == "float32" else "bf16, where the hardware does"
        return (
            f"the model answers in {answers}: on {self.num_products:,} validation products bf16 "
            f"leaves {100 * self.labels_agree:.2f}% of the labels as in float32 "
            f"({100 * LABELS_AGREE:g}% must stay) and moves confidences by up to "
            f"{self.confidence_change:.4f} ({CONFIDENCE_CHANGE:g} may be), "
            f"measured on {self.device}"
        )


def change_by_bf16(
    config: Config, model: Network, tokenizer: Tokenizer, products: Products, root: Path
) -> Bf16Change | None:
    """Answer some of `products` in float32 and in bf16, as `predict` would where `model` is, before
    calibration.

    Returns:
        None where nothing is computed in bf16, on such hardware or with such towers, or where no
        product can be answered.
    """
    if not len(products) or not has_bf16(model.device):
        return None
    some = products.take(range(0, len(products), -(-len(products) // NUM_PRODUCTS)))
    tasks = [task.name for task in config.tasks]
    fast = _ready(config, model, tokenizer, fp32=False)
    if all(parameter.dtype != torch.bfloat16 for parameter in fast.model.parameters()):
        return None
    in_bf16 = collect_answers(fast, some, root, tasks)
    del fast  # a large model need not be there three times
    exact = collect_answers(_ready(config, model, tokenizer, fp32=True), some, root, tasks)
    return _compare(exact, in_bf16, model.device.type) if exact.answered.any() else None


def _ready(config: Config, model: Network, tokenizer: Tokenizer, fp32: bool) -> Bundle:
    """A copy that predicts; `model` itself stays as it is."""
    ready = copy.deepcopy(model).eval().requires_grad_(False)
    speed_up(ready, fp32)
    return Bundle(path=Path(), config=config, model=ready, tokenizer=tokenizer, sha256="")


def _compare(exact: Answers, fast: Answers, device: str) -> Bf16Change:
    rows = exact.answered
    agree, change = 1.0, 0.0
    for task, logits in exact.logits.items():
        one, other = softmax(logits[rows], 1.0), softmax(fast.logits[task][rows], 1.0)
        agree = min(agree, float((one.argmax(1) == other.argmax(1)).mean()))
        change = float(np.maximum(change, np.abs(one.max(1) - other.max(1)).max()))
    return Bf16Change(device, int(rows.sum()), agree, change)
