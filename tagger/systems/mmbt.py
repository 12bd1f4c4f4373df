"""MMBT (Kiela et al. 2019, arXiv 1909.02950): the text tower's own blocks read the picture, too."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tagger.config import Fusion
from tagger.cross_attention import attention_of
from tagger.errors import ModelError
from tagger.network import Features, Network, Projection, Sequence, attended
from tagger.stems import image_grid
from tagger.towers import OpenClipTextTower, TokenTextTower, TransformerBlock


class MMBT(Network):
    """Image tokens, projected to the text tower's width, stand before the words in its input.

    They have a segment embedding and positions of their own. Every head reads the tower's global
    token, at the end of the title, which may attend to all of them also in a causal tower such as
    CLIP's. Of a title alone it is exactly what the tower says; in place of an absent title stands
    one learned token. The weights are the attention of the global token to the tokens of each
    modality (to itself among the words) in the last layer, mean over the heads; they are equal for
    all tasks.
    """

    origin = "MMBT (arXiv 1909.02950)"
    reads_globals = False

    def build_fusion(self, fusion: Fusion) -> None:
        text = self.text_tower
        if isinstance(text, OpenClipTextTower) and not text.cuttable:
            raise ModelError(
                f"system mmbt: the text tower of {self.config.architecture.open_clip} is none "
                "whose input can be longer than a title",
                "choose an architecture with CLIP's text tower, such as ViT-B-32",
            )
        width = text.token_width
        self.image_projection = Projection(self.image_tower, width, with_global=False)
        self.text_projection = Projection(text, fusion.width, with_tokens=False)
        # Of the picture alone: the words are to be what the tower knows them as.
        self.modality_embedding = nn.Parameter(torch.randn(1, width) * 0.02)
        rows, columns = image_grid(self.image_tower, self.config.preprocess)
        self.image_position = nn.Parameter(torch.randn(rows * columns, width) * 0.02)
        self.no_title_embedding = nn.Parameter(torch.randn(width) * 0.02)

    def read_text(self, ids: Tensor, mask: Tensor) -> Features:
        """The words before the first block; the blocks are part of the fusion."""
        assert isinstance(self.text_tower, TokenTextTower | OpenClipTextTower)
        words = self.text_tower.embedded(ids, mask)
        return Features(words[:, 0], words)

    def project_image(self, features: Features, present: Tensor) -> Sequence:
        sequence = super().project_image(features, present)
        return Sequence(sequence.tokens + self.image_position, sequence.mask)

    def project_text(self, features: Features, mask: Tensor) -> Sequence:
        return Sequence(features.tokens, mask[:, : features.tokens.shape[1]])

    def blend(self, image: Sequence | None, text: Sequence | None) -> tuple[Tensor, Tensor]:
        words = self._words(image, text)
        given = [words] if image is None else [image, words]
        x = torch.cat([sequence.tokens for sequence in given], 1)
        mask = torch.cat([sequence.mask for sequence in given], 1)
        num_words = words.tokens.shape[1]
        num_places = x.shape[1] - num_words
        end = num_places + words.mask.sum(1) - 1
        assert isinstance(self.text_tower, TokenTextTower | OpenClipTextTower)
        pooled, attention = through_blocks(self.text_tower, x, mask, end)
        vector = self.text_projection(pooled, pooled[:, None])[:, 0].float()
        to_places, to_words = attention[..., :num_places], attention[..., num_places:]
        # Words first, as `attended` wants them; one that stands for no title is none.
        parts = [to_places] if text is None else [to_words, to_places]
        weights = attended(torch.cat(parts, -1), image, text)
        return self.for_all_tasks(vector), weights.expand(-1, len(self.config.tasks), -1)

    def _words(self, image: Sequence | None, text: Sequence | None) -> Sequence:
        """The title, or the one token that stands for an absent one."""
        if text is None:
            assert image is not None
            tokens = self.no_title_embedding.expand(image.tokens.shape[0], 1, -1)
            return Sequence(tokens, image.mask.new_ones(tokens.shape[0], 1))
        first = torch.arange(text.mask.shape[1], device=text.mask.device) == 0
        absent = first & ~text.mask.any(1, keepdim=True)
        own = self.no_title_embedding.to(text.tokens.dtype)
        return Sequence(torch.where(absent[..., None], own, text.tokens), text.mask | absent)


def through_blocks(
    tower: TokenTextTower | OpenClipTextTower, x: Tensor, mask: Tensor, end: Tensor
) -> tuple[Tensor, Tensor]:
    """The tower's global token (batch, width) at the places `end` (batch,) of `x` (batch, n, w),
    and its attention in the last block, (batch, 1, n)."""
    rows = torch.arange(x.shape[0], device=x.device)
    if isinstance(tower, TokenTextTower):
        *blocks, last = tower.blocks
        assert isinstance(last, TransformerBlock)
        weight, bias = last.attention.qkv.weight, last.attention.qkv.bias
        x = x.to(weight.dtype)
        for block in blocks:
            x = block(x, mask)
        known = last.attention_norm(x)
        asking = known[rows, end][:, None]
        attention = attention_of(asking, known, weight, bias, last.attention.heads, mask)
        return tower.norm(last(x, mask)[rows, end]), attention.mean(1)
    *blocks, last = tower.text.transformer.resblocks
    weight, bias, heads = last.attn.in_proj_weight, last.attn.in_proj_bias, last.attn.num_heads
    x = x.to(last.ln_1.weight.dtype)
    blocked = causal(mask, x.dtype).repeat_interleave(heads, 0)
    for block in blocks:
        x = block(x, attn_mask=blocked)
    known = last.ln_1(x)
    attention = attention_of(known[rows, end][:, None], known, weight, bias, heads, mask)
    tokens = tower.text.ln_final(last(x, attn_mask=blocked))
    return tower.projected(tokens[rows, end]).to(weight.dtype), attention.mean(1)


def causal(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """(batch, n, n), added to scores: each token sees those before it that mask (batch, n) allows.

    Not minus infinity: a place of an absent picture sees nothing, and would become NaN.
    """
    length = mask.shape[1]
    later = torch.ones(length, length, dtype=torch.bool, device=mask.device).triu(1)
    blocked = later | ~mask[:, None]
    return torch.zeros(blocked.shape, dtype=dtype, device=mask.device).masked_fill(blocked, -1e4)
