"""AdamW with separate rates for towers and new layers, Muon for matrices, one cosine schedule."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from tagger.config import Training
from tagger.network import Network

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_STEPS = 5


class Muon(Optimizer):
    """Momentum whose update is orthogonalised (Jordan et al. 2024, "Muon").

    Trained from scratch on small data it needs a fraction of AdamW's steps. A convolution
    (out, in, k, k) counts as the matrix (out, in * k * k).
    """

    def __init__(self, parameters: list[dict[str, Any]], lr: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Nesterov momentum 0.95, orthogonalised, scaled for the shape, with decoupled decay."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(weight)
                momentum = state["momentum"].lerp_(weight.grad, 0.05)
                direction = weight.grad.lerp(momentum, 0.95).reshape(len(weight), -1)
                update = orthogonalise(direction).view(weight.shape)
                rows, columns = direction.shape
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(update, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)


def orthogonalise(matrix: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrix, roughly: singular values end within about 0.7 .. 1.2."""
    a, b, c = _NEWTON_SCHULZ
    x = matrix.bfloat16()
    x = x / (x.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = x.T
    for _ in range(_STEPS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    result: Tensor = x.T if tall else x
    return result.to(matrix.dtype)


def build_optimizers(model: Network, training: Training) -> list[Optimizer]:
    """One AdamW, and one Muon if the recipe says so; each group remembers its peak rate.

    Towers have the rate `tower_lr`; with Muon their matrices have `muon_lr` in the same ratio.
    """
    adamw: dict[tuple[bool, bool], list[Tensor]] = {}
    muon: dict[bool, list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        in_tower = "_tower." in name
        if training.optimizer == "muon" and _is_hidden_matrix(name, parameter):
            muon.setdefault(in_tower, []).append(parameter)
            continue
        decays = parameter.ndim >= 2 and "embedding" not in name and "position" not in name
        adamw.setdefault((in_tower, decays), []).append(parameter)
    ratio = training.tower_lr / training.lr if training.lr else 1.0
    groups: list[dict[str, Any]] = [
        {
            "params": parameters,
            "lr": training.tower_lr if in_tower else training.lr,
            "weight_decay": training.weight_decay if decays else 0.0,
        }
        for (in_tower, decays), parameters in adamw.items()
    ]
    matrices: list[dict[str, Any]] = [
        {"params": parameters, "lr": training.muon_lr * (ratio if in_tower else 1.0)}
        for in_tower, parameters in muon.items()
    ]
    optimizers: list[Optimizer] = [AdamW(groups, betas=(0.9, 0.98))]
    if matrices:
        optimizers.append(Muon(matrices, training.muon_lr, training.weight_decay))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def _is_hidden_matrix(name: str, parameter: Tensor) -> bool:
    """Muon is for matrices between hidden layers: not embeddings, first or last layers; and not
    for a mobile tower, which has few full matrices and comes with weights."""
    return parameter.ndim >= 2 and not any(part in name for part in _NOT_HIDDEN)


_NOT_HIDDEN = (
    "embedding",
    "position",
    "modality_attention",
    "heads.",
    "image_tower.layers.1.",
    "image_tower.stem.",
    "image_tower.blocks.",
)


def schedule(step: int, total_steps: int, warmup: float) -> float:
    """Share of the peak rate at `step`: linear warm-up, then a cosine down to 1%."""
    progress = step / max(1, total_steps)
    if progress < warmup:
        return min(1.0, (step + 1) / max(1.0, warmup * total_steps))
    rest = (progress - warmup) / max(1e-9, 1 - warmup)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, rest)))


def set_rates(optimizers: list[Optimizer], share: float) -> None:
    """Set every group to `share` of its peak rate."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * share
