"""CoCa (Yu et al. 2022, arXiv 2205.01917): an attentional pooler per task over CoCa's towers."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from tagger.config import Fusion
from tagger.cross_attention import CrossAttention
from tagger.network import Network, Sequence, attended, joined


class CoCa(Network):
    """One learned query per task reads the tokens of both towers (section 3.2, "attentional
    poolers"; there it reads the picture's alone).

    On CoCa's own towers the picture's tokens have passed its pooler, and the title's global token
    is a class token behind the words; on others this is its way to pool alone. The weights are the
    pooler's attention to the tokens of each modality, mean over the heads.
    """

    origin = "CoCa (arXiv 2205.01917)"
    task_parameters: ClassVar[tuple[str, ...]] = ("query_embedding",)

    def build_fusion(self, fusion: Fusion) -> None:
        self.query_embedding = nn.Parameter(
            torch.randn(len(self.config.tasks), fusion.width) * 0.02
        )
        self.pooler = CrossAttention(fusion.width, fusion.heads)
        self.norm = nn.LayerNorm(fusion.width)

    def blend(self, image: Sequence | None, text: Sequence | None) -> tuple[Tensor, Tensor]:
        tokens, mask = joined(image, text)
        queries = self.query_embedding.expand(tokens.shape[0], -1, -1)
        vectors, attention = self.pooler(queries, tokens.float(), mask)
        return self.norm(vectors), attended(attention, image, text)
