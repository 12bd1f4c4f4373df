"""Parts of open_clip's transformers in bf16, and on CPUs in fewer passes over the memory.

A GPU has kernels of its own for the latter; on a CPU they took a quarter of the time.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tagger.network import Network, Normalise
from tagger.towers import OpenClipImageTower, OpenClipTextTower


class FastAttention(nn.MultiheadAttention):
    """Multi-head attention of a tensor over itself, written out; weights as they were.

    At a few dozen tokens, the fused kernel for CPUs takes three times as long as two products of
    contiguous matrices with a softmax between.
    """

    def forward(  # type: ignore[override]
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """query (batch, length, width), which key and value must be, too; attn_mask (length,
        length) or (batch * heads, length, length) is added to the scores."""
        batch, length, width = query.shape
        size = self.head_dim
        qkv = F.linear(query, self.in_proj_weight, self.in_proj_bias)
        split = qkv.view(batch, length, 3, self.num_heads, size).permute(2, 0, 3, 1, 4)
        q, k, v = split.contiguous().view(3, batch * self.num_heads, length, size)
        scores = torch.bmm(q * size**-0.5, k.transpose(1, 2))
        if attn_mask is not None:
            scores = scores + attn_mask
        weights = F.softmax(scores, -1, dtype=torch.float32).to(v.dtype)
        mixed = torch.bmm(weights, v).view(batch, self.num_heads, length, size)
        return self.out_proj(mixed.transpose(1, 2).reshape(batch, length, width)), None


def write_out_attention(model: Network) -> None:
    """Make the self-attention of open_clip's transformers in `model` a `FastAttention`; it can be
    trained as well."""
    towers = (model.image_tower, model.text_tower)
    if not any(isinstance(tower, OpenClipImageTower | OpenClipTextTower) for tower in towers):
        return
    from open_clip.transformer import ResidualAttentionBlock

    for block in model.modules():
        if isinstance(block, ResidualAttentionBlock) and not hasattr(block, "ln_1_kv"):
            block.attn.__class__ = FastAttention  # the weights keep their names


class NarrowNorm(nn.LayerNorm):
    """Layer normalisation in float32 with its result in bf16; weights as they were."""

    def forward(self, x: Tensor) -> Tensor:
        shape, eps = self.normalized_shape, self.eps
        return F.layer_norm(x.float(), shape, self.weight, self.bias, eps).to(torch.bfloat16)


def narrow_products(tower: OpenClipImageTower | OpenClipTextTower) -> bool:
    """Put the products of a transformer's blocks and patches into bf16, and what the tower gives;
    what is added up from block to block stays in float32.

    Rounded there as well, it moved logits by half as much again, and saves no time. Whether `tower`
    is such a transformer; another one is left as it is.
    """
    from open_clip.transformer import ResidualAttentionBlock, VisionTransformer

    if isinstance(tower, OpenClipImageTower):
        whole = tower.visual
        is_plain = isinstance(whole, VisionTransformer) and whole.attn_pool is None
    else:
        whole, is_plain = tower.text, tower.cuttable
    blocks = list(getattr(whole.transformer, "resblocks", [])) if is_plain else []
    if not blocks or any(type(block) is not ResidualAttentionBlock for block in blocks):
        return False
    for block in blocks:
        norms = (block.ln_1, block.ln_2)
        for part in block.children():
            if part not in norms:
                part.to(torch.bfloat16)
        for norm in norms:
            norm.__class__ = NarrowNorm
    if isinstance(tower, OpenClipImageTower):
        whole.conv1 = nn.Sequential(whole.conv1.to(torch.bfloat16), Cast(torch.float32))
        tower.pixel_dtype = torch.bfloat16
    tower.register_forward_hook(lambda _, inputs, outputs: tuple(x.bfloat16() for x in outputs))
    return True


class Cast(nn.Module):
    """Numbers of another type from here on."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        return x.to(self.dtype)


def fold_normalisation(model: Network) -> None:
    """Put the normalisation of pixels into the patch embedding of a vision transformer, if the
    image tower of `model` is one."""
    if not isinstance(model.image_tower, OpenClipImageTower):
        return
    from open_clip.transformer import VisionTransformer

    visual = getattr(model.image_tower, "visual", None)
    if isinstance(visual, VisionTransformer) and isinstance(model.normalise, Normalise):
        visual.conv1 = PatchEmbedding(visual.conv1, model.normalise)
        model.normalise = nn.Identity()


class PatchEmbedding(nn.Module):
    """Normalisation and `conv1` of a vision transformer as one product of matrices.

    pixels in 0..255 (n, 3, height, width) -> (n, width, rows, columns). The whole numbers nearest
    to the mean colour are taken off first: exact in bf16, where colours from 0 on would drown what
    differs between them.
    """

    centre: Tensor

    def __init__(self, conv: nn.Conv2d, normalise: Normalise) -> None:
        super().__init__()
        self.patch = conv.kernel_size[0]
        scale, shift = normalise.scale[:3], normalise.shift[:3]
        centre = (-shift / scale).round()
        weight = conv.weight.detach()
        self.weight = nn.Parameter((weight * scale.view(3, 1, 1)).permute(0, 2, 3, 1).flatten(1))
        self.bias = nn.Parameter(torch.einsum("wcij,c->w", weight, shift + centre * scale))
        self.register_buffer("centre", centre.repeat(self.patch**2), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        n, side = len(pixels), self.patch
        rows, columns = pixels.shape[2] // side, pixels.shape[3] // side
        whole = pixels[:, :, : rows * side, : columns * side].permute(0, 2, 3, 1)
        blocks = whole.reshape(n, rows, side, columns, side, 3).transpose(2, 3)
        patches = blocks.reshape(n, rows, columns, side * side * 3)
        return F.linear(patches - self.centre, self.weight, self.bias).permute(0, 3, 1, 2)
