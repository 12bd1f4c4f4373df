"""One transformer over patches and words from its first layer: ImageBERT and Kaleido-BERT."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from tagger.config import Fusion
from tagger.cross_attention import attention_of
from tagger.network import Features, Network, Sequence, attended, joined
from tagger.stems import cut_to_stems, image_grid
from tagger.towers import ImageTower, TextTower, TransformerBlock


class OneStream(Network):
    """[CLS], words and patches through one transformer; every head reads [CLS].

    ImageBERT (arXiv 2001.07966), FashionBERT (arXiv 2005.09801) and OSCAR (arXiv 2004.06165)
    differ in what a patch is and in how they are pretrained. Here the towers have no transformer of
    their own: a patch is that of a vision transformer before its first layer or, as in FashionBERT,
    a place in the feature map of a convolutional network; a word is its embedding. The weights are
    the attention of [CLS] to the tokens of each modality in the last layer, mean over the heads;
    they are equal for all tasks.
    """

    origin = "one-stream transformer as ImageBERT (arXiv 2001.07966)"
    reads_globals = False
    scales: ClassVar[tuple[int, ...]] = ()
    """Rows (and columns) of the grids that the picture is cut into, if it is cut anew."""

    def build_towers(self) -> tuple[ImageTower, TextTower]:
        return cut_to_stems(*super().build_towers())

    def build_fusion(self, fusion: Fusion) -> None:
        rows, columns = image_grid(self.image_tower, self.config.preprocess)
        cut = grids(rows, columns, self.scales) if self.scales else torch.eye(rows * columns)
        self.register_buffer("cut", cut, persistent=False)
        self.image_position = nn.Parameter(torch.randn(len(cut), fusion.width) * 0.02)
        self.cls_embedding = nn.Parameter(torch.randn(fusion.width) * 0.02)
        self.stream = nn.ModuleList(
            TransformerBlock(fusion.width, fusion.heads, fusion.mlp_ratio)
            for _ in range(fusion.layers)
        )
        self.norm = nn.LayerNorm(fusion.width)

    @property
    def trunk(self) -> list[nn.Module]:
        return [self.stream]

    def project_image(self, features: Features, present: Tensor) -> Sequence:
        tokens = features.tokens
        if self.scales:
            tokens = self.get_buffer("cut").to(tokens.dtype) @ tokens
        sequence = super().project_image(Features(features.pooled, tokens), present)
        return Sequence(sequence.tokens + self.image_position, sequence.mask)

    def blend(self, image: Sequence | None, text: Sequence | None) -> tuple[Tensor, Tensor]:
        tokens, mask = joined(image, text)
        last = self.stream[-1]
        assert isinstance(last, TransformerBlock)
        qkv = last.attention.qkv
        first = self.cls_embedding.expand(tokens.shape[0], 1, -1)
        x = torch.cat([first, tokens.to(first.dtype)], 1).to(qkv.weight.dtype)
        mask = torch.cat([torch.ones_like(mask[:, :1]), mask], 1)
        for block in self.stream[:-1]:
            x = block(x, mask)
        known = last.attention_norm(x)
        attention = attention_of(
            known[:, :1], known, qkv.weight, qkv.bias, last.attention.heads, mask
        ).mean(1)[..., 1:]
        weights = attended(attention, image, text).expand(-1, len(self.config.tasks), -1)
        return self.for_all_tasks(self.norm(last(x, mask, [0])[:, 0].float())), weights


class KaleidoBERT(OneStream):
    """The picture as kaleidoscope patches: whole, and in 2x2 to 5x5 parts (section 3.2).

    The paper sends each of the 55 patches through a ResNet; here a patch is the mean of what the
    stem says of its part of the picture.
    """

    origin = "Kaleido-BERT (arXiv 2103.16110)"
    scales: ClassVar[tuple[int, ...]] = (1, 2, 3, 4, 5)


def grids(rows: int, columns: int, scales: tuple[int, ...]) -> Tensor:
    """(sum of scale ** 2, rows * columns): which mean of places makes each part of each grid.

    Parts are bounded as by adaptive pooling: where places do not divide evenly they overlap.
    """
    parts = []
    for scale in scales:
        for i in range(scale):
            for j in range(scale):
                part = torch.zeros(rows, columns)
                part[_span(i, scale, rows), _span(j, scale, columns)] = 1
                parts.append(part.flatten() / part.sum())
    return torch.stack(parts)


def _span(i: int, scale: int, length: int) -> slice:
    """The i-th of `scale` parts of `length` places, at least one of them."""
    return slice(i * length // scale, -(-(i + 1) * length // scale))
