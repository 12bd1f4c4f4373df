"""CMA-CLIP (arXiv 2112.03562): sequence-wise attention, modality-wise attention."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from tagger.config import Fusion
from tagger.modalities import IMAGE as IMAGE
from tagger.modalities import TEXT as TEXT
from tagger.network import Features as Features
from tagger.network import Head as Head
from tagger.network import Network, Output, Sequence, joined, presence
from tagger.network import Normalise as Normalise
from tagger.network import PathSum as PathSum
from tagger.towers import TransformerBlock, chosen


class CMAClip(Network):
    """The network of figure 1 of the paper."""

    origin = "CMA-CLIP (arXiv 2112.03562)"
    task_parameters: ClassVar[tuple[str, ...]] = ("modality_attention.w",)

    def build_fusion(self, fusion: Fusion) -> None:
        self.sequence_attention = nn.ModuleList(
            TransformerBlock(fusion.width, fusion.heads, fusion.mlp_ratio)
            for _ in range(fusion.layers)
        )
        self.norm = nn.LayerNorm(fusion.width)
        self.modality_attention = self.build_weighing(fusion)

    def build_weighing(self, fusion: Fusion) -> nn.Module:
        """What makes one vector per task of T'_CLS and I'_CLS."""
        return ModalityAttention(len(self.config.tasks), fusion)

    @property
    def trunk(self) -> list[nn.Module]:
        return [self.sequence_attention]

    def fuse(self, image: Sequence | None, text: Sequence | None, whole: bool = False) -> Output:
        """As in `Network`; the last block computes all tokens if the `whole` of its attention is
        wanted."""
        return self.decide(*self.blend(image, text, whole))

    def blend(
        self, image: Sequence | None, text: Sequence | None, whole: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Both attentions: [T_CLS, T_1..n, I_CLS, I_1..m] in the paper's order; only T'_CLS and
        I'_CLS go on, so that the last block computes no other token."""
        x, mask = joined(image, text)
        places = [0] if image is None or text is None else [0, text.tokens.shape[1]]
        for block in self.sequence_attention[:-1]:
            x = block(x, mask)
        last = self.sequence_attention[-1]
        x = chosen(last(x, mask), places) if whole else last(x, mask, places)
        x = self.norm(x.float())
        absent = x.new_zeros(x.shape[0], x.shape[2])
        globals_ = torch.stack(
            [absent if image is None else x[:, -1], absent if text is None else x[:, 0]], 1
        )
        vectors, weights = self.modality_attention(globals_, presence(image, text))
        return vectors, weights


class ModalityAttention(nn.Module):
    """Keyless attention per task (section 3.3): e_m = w . h_m, a = softmax(e), z = sum a_m h_m."""

    def __init__(self, num_tasks: int, fusion: Fusion) -> None:
        super().__init__()
        modalities = 1 if fusion.shared_attention else 2
        self.w = nn.Parameter(torch.randn(num_tasks, modalities, fusion.width) * 0.02)

    def forward(self, globals_: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """globals_ (batch, 2, width), present (batch, 2) -> z (batch, tasks, width), a."""
        scores = (self.w[None] * globals_[:, None]).sum(-1)  # (batch, tasks, 2)
        allowed = present[:, None].expand_as(scores)
        weights = scores.masked_fill(~allowed, float("-inf")).softmax(-1)
        # softmax over nothing is NaN: a product without any modality weighs (0, 0).
        weights = weights.masked_fill(~allowed, 0.0)
        return torch.einsum("btm,bmw->btw", weights, globals_), weights
