"""Perceiver IO (Jaegle et al. 2021, arXiv 2107.14795): latents read tokens, tasks latents."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from tagger.config import Fusion
from tagger.cross_attention import CrossBlock
from tagger.network import Network, Sequence, attended, joined
from tagger.towers import TransformerBlock


class PerceiverIO(Network):
    """A fixed number of latents, so that the cost grows linearly with the tokens (section 3.1).

    They read words and patches once, pass a transformer among themselves, and each task reads from
    them with a query of its own. The weights are what of a task's attention ends at the tokens of
    each modality: its attention to the latents times theirs to the tokens (attention rollout, Abnar
    and Zuidema 2020, through the two cross-attentions; what the latents tell each other in between
    is left out).
    """

    origin = "Perceiver IO (arXiv 2107.14795)"
    task_parameters: ClassVar[tuple[str, ...]] = ("query_embedding",)

    def build_fusion(self, fusion: Fusion) -> None:
        size = (fusion.width, fusion.heads, fusion.mlp_ratio)
        self.latent_embedding = nn.Parameter(torch.randn(fusion.latents, fusion.width) * 0.02)
        self.read = CrossBlock(*size)
        self.latent_attention = nn.ModuleList(TransformerBlock(*size) for _ in range(fusion.layers))
        self.query_embedding = nn.Parameter(
            torch.randn(len(self.config.tasks), fusion.width) * 0.02
        )
        self.write = CrossBlock(*size)
        self.norm = nn.LayerNorm(fusion.width)

    def blend(self, image: Sequence | None, text: Sequence | None) -> tuple[Tensor, Tensor]:
        tokens, mask = joined(image, text)
        tokens = tokens.float()
        latents = self.latent_embedding.expand(tokens.shape[0], -1, -1)
        everywhere = mask.new_ones(tokens.shape[0], latents.shape[1])
        latents, to_tokens = self.read(latents, tokens, mask)
        for block in self.latent_attention:
            latents = block(latents, everywhere)
        queries = self.query_embedding.expand(tokens.shape[0], -1, -1)
        vectors, to_latents = self.write(queries, latents, everywhere)
        return self.norm(vectors), attended(to_latents @ to_tokens, image, text)
