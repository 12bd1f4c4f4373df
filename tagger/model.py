"""CMA-CLIP (arXiv 2112.03562): sequence-wise attention, modality-wise attention."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from tagger.config import Fusion
from tagger.cross_attention import CrossAttention
from tagger.network import Network, Output, Sequence, joined, presence
from tagger.towers import TransformerBlock, chosen


class CMAClip(Network):
    """The network of figure 1 of the paper."""

    origin = "CMA-CLIP (arXiv 2112.03562)"
    task_parameters: ClassVar[tuple[str, ...]] = (
        "modality_attention.w",
        "reading.query_embedding",
    )

    def build_fusion(self, fusion: Fusion) -> None:
        self.sequence_attention = nn.ModuleList(
            TransformerBlock(fusion.width, fusion.heads, fusion.mlp_ratio)
            for _ in range(fusion.layers)
        )
        for block in self.sequence_attention:
            assert isinstance(block, TransformerBlock)
            start_as_nothing(block.attention.out)
            start_as_nothing(block.mlp[-1])
        self.norm = nn.LayerNorm(fusion.width)
        self.reading = TaskReading(len(self.config.tasks), fusion) if fusion.task_queries else None
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
        """Both attentions: [T_CLS, T_1..n, I_CLS, I_1..m] in the paper's order. Where only T'_CLS
        and I'_CLS go on, the last block computes no other token."""
        x, mask = joined(image, text)
        num_words = 0 if text is None else text.tokens.shape[1]
        places = [0] if image is None or text is None else [0, num_words]
        for block in self.sequence_attention[:-1]:
            x = block(x, mask)
        last = self.sequence_attention[-1]
        if self.reading is None:
            x = chosen(last(x, mask), places) if whole else last(x, mask, places)
            ends = (x[:, -1:], x[:, :1])
        else:
            x = last(x, mask).float()
            ends = self.reading(x, mask, num_words)
        globals_ = self.norm(torch.stack(ends, 2).float())
        vectors, weights = self.modality_attention(globals_, presence(image, text))
        return vectors, weights


def start_as_nothing(linear: nn.Module) -> None:
    """Zeros: a residual block that ends in `linear` starts as the identity, so that training starts
    where the towers' own global tokens are read (as "Fixup", Zhang et al. 2019)."""
    assert isinstance(linear, nn.Linear)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)


class TaskReading(nn.Module):
    """A query per task reads the words, and the places of the picture, behind T'_CLS and I'_CLS.

    Not in the paper, where all tasks share the two global tokens: a sleeve and a color are in
    different places. The queries are CoCa's (arXiv 2205.01917, section 3.2), asked of each modality
    alone so that modality-wise attention still weighs picture against title.
    """

    def __init__(self, num_tasks: int, fusion: Fusion) -> None:
        super().__init__()
        self.query_embedding = nn.Parameter(torch.randn(num_tasks, fusion.width) * 0.02)
        self.read = CrossAttention(fusion.width, fusion.heads)
        start_as_nothing(self.read.out)

    def forward(self, x: Tensor, mask: Tensor, num_words: int) -> tuple[Tensor, Tensor]:
        """x (batch, length, width), mask (batch, length), both title first -> per task what of
        picture and of title goes on, (batch, tasks, width) each; of an absent one, anything."""
        queries = self.query_embedding.expand(x.shape[0], -1, -1)
        ends = []
        for part in (slice(num_words, None), slice(num_words)):
            tokens, own = x[:, part], mask[:, part]
            if tokens.shape[1]:
                ends.append(tokens[:, :1] + self.read(queries, tokens, own)[0])
            else:
                ends.append(torch.zeros_like(queries))
        return ends[0], ends[1]


class ModalityAttention(nn.Module):
    """Keyless attention per task (section 3.3): e_m = w . h_m, a = softmax(e), z = sum a_m h_m."""

    def __init__(self, num_tasks: int, fusion: Fusion) -> None:
        super().__init__()
        modalities = 1 if fusion.shared_attention else 2
        self.w = nn.Parameter(torch.randn(num_tasks, modalities, fusion.width) * 0.02)

    def forward(self, globals_: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """globals_ (batch, tasks or 1 for all, 2, width), present (batch, 2) -> z (batch, tasks,
        width), a (batch, tasks, 2)."""
        scores = (self.w[None] * globals_).sum(-1)
        allowed = present[:, None].expand_as(scores)
        weights = scores.masked_fill(~allowed, float("-inf")).softmax(-1)
        # softmax over nothing is NaN: a product without any modality weighs (0, 0).
        weights = weights.masked_fill(~allowed, 0.0)
        return (weights[..., None] * globals_).sum(2), weights
