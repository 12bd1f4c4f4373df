"""CMA-CLIP without its modality-wise attention, a row of the paper's ablation."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from tagger.config import Fusion
from tagger.model import CMAClip


class WithoutModalityAttention(CMAClip):
    """The mean of T'_CLS and I'_CLS goes into every head.

    It differs from CMA-CLIP in the weights alone, which are 1/2 for everything instead of learned
    per task and computed per product; a single modality weighs 1.
    """

    origin = "CMA-CLIP without modality-wise attention (arXiv 2112.03562)"
    task_parameters: ClassVar[tuple[str, ...]] = ("reading.query_embedding",)

    def build_weighing(self, fusion: Fusion) -> nn.Module:
        return Mean(len(self.config.tasks))


class Mean(nn.Module):
    """`ModalityAttention` with equal weights."""

    def __init__(self, num_tasks: int) -> None:
        super().__init__()
        self.num_tasks = num_tasks

    def forward(self, globals_: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """As `ModalityAttention`."""
        weights = present.float() / present.sum(1, keepdim=True).clamp(min=1)
        weights = weights[:, None].expand(-1, self.num_tasks, -1)
        return (weights[..., None] * globals_).sum(2), weights
