"""A trained network made ready to answer fast: nothing in it can be trained any more."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from tagger.allocator import keep_freed_memory
from tagger.conv_towers import ConvImageTower, ConvNorm, MobileImageTower, ResidualBlock
from tagger.device import has_bf16
from tagger.fast_vit import Cast, fold_normalisation, narrow_products, write_out_attention
from tagger.network import Features, Head, Network
from tagger.towers import OpenClipImageTower, OpenClipTextTower


def speed_up(model: Network, fp32: bool) -> None:
    """Fold batch norms into convolutions, paths into heads; compute in bf16 where that is faster.

    bf16 is for open_clip towers with the fusion's `trunk` over them, in a transformer for the
    products of its blocks alone (`narrow_products`), and for residual towers. A small text tower
    and what stands on it stay in float32: they take little of the time, and bf16 there moves
    confidences by up to 0.03, in the residual tower by up to 0.015. So does a mobile tower: bf16
    moves confidences by up to 0.09 there, or saves a tenth of the time if its first half is spared.
    So do modality-wise attention and heads, or confidences would come in steps of 0.004. With
    `fp32` all stays so.

    Convolutions in float32 are in float32 on a GPU, too, and not in TF32, which has 10 bits.

    With open_clip's towers on a CPU the whole process keeps freed memory (`keep_freed_memory`):
    maps of 20 MB come and go in every layer there. Those of other towers are smaller, or split.
    """
    for module in model.modules():
        if isinstance(module, ConvNorm):
            convolution, norm = module
            assert isinstance(convolution, nn.Conv2d)
            assert isinstance(norm, nn.BatchNorm2d)
            module[0], module[1] = fuse_conv_bn_eval(convolution, norm), nn.Identity()
    for head in model.heads:
        if isinstance(head, Head):
            head.fold()
    device = model.device
    if device.type == "cpu":
        write_out_attention(model)
        fold_normalisation(model)
        if isinstance(model.image_tower, OpenClipImageTower):
            keep_freed_memory()
    else:
        torch.backends.cudnn.allow_tf32 = False
    if fp32 or not has_bf16(device):
        return
    parts: list[nn.Module] = []
    if isinstance(model.image_tower, ConvImageTower):
        _halve(model.image_tower)
        parts.append(model.image_projection)
    elif not isinstance(model.image_tower, MobileImageTower):
        parts += [model.image_tower, model.image_projection]
    if isinstance(model.text_tower, OpenClipTextTower):
        parts += [model.text_tower, model.text_projection, *model.trunk]
        if model.modality_embedding is not None:
            model.modality_embedding.data = model.modality_embedding.data.to(torch.bfloat16)
    for part in parts:
        if device.type == "cpu":
            _spare_tanh(part)
        if isinstance(part, OpenClipImageTower | OpenClipTextTower) and narrow_products(part):
            continue
        part.to(torch.bfloat16)


def _spare_tanh(part: nn.Module) -> None:
    """GELU as it is defined instead of by its approximation with tanh, which takes four times as
    long in bf16 on a CPU; they differ by 0.0005 at most, bf16 around there by 0.004."""
    for module in part.modules():
        if isinstance(module, nn.GELU):
            module.approximate = "none"


def image_features(model: Network, pixels: Tensor) -> Features:
    """What the image tower says of pixels (n, 3, height, width) on any device.

    A mobile tower on a CPU is asked for `pictures_at_once`, always as many: its kernels are chosen
    by that number, and with them the last bits of what they say.
    """
    size = pictures_at_once(model)
    if size is None:
        return model.image_features(pixels.to(model.device))
    missing = pixels.new_zeros(-len(pixels) % size, *pixels.shape[1:])
    parts = torch.split(torch.cat([pixels, missing]), size)
    features = [model.image_features(part.to(model.device)) for part in parts]
    return Features(
        torch.cat([some.pooled for some in features])[: len(pixels)],
        torch.cat([some.tokens for some in features])[: len(pixels)],
    )


def pictures_at_once(model: Network) -> int | None:
    """How many pictures the image tower sees at once; None: as many as there are.

    On a CPU the maps of a mobile tower are the largest of all, and beyond 32 MiB the C library
    takes each from the system and gives it back, which the system fills with zeros page by page:
    64 pictures of 120x160 at once took twice as long as four times 16.
    """
    tower, pixels = model.image_tower, model.config.preprocess
    if not isinstance(tower, MobileImageTower) or model.device.type != "cpu":
        return None
    most = LARGEST_BLOCK // (4 * tower.largest_map(pixels.height, pixels.width))
    return MANY_PICTURES if most >= MANY_PICTURES else FEW_PICTURES


LARGEST_BLOCK = 32 << 20
"""Bytes; DEFAULT_MMAP_THRESHOLD_MAX of glibc on 64 bits."""
FEW_PICTURES, MANY_PICTURES = 8, 16
"""More at once are no faster, fewer are slower; and a batch is filled up to as many."""


def _halve(tower: ConvImageTower) -> None:
    """bf16 for all blocks but the last, and for the features. Rounded as well, the stem and the
    last block would move confidences by up to 0.020 (3,919 products) and save about 5% of time."""
    stem = [layer for layer in tower.layers if not isinstance(layer, ResidualBlock)]
    *blocks, last = [layer for layer in tower.layers if isinstance(layer, ResidualBlock)]
    halves = [block.to(torch.bfloat16) for block in blocks]
    half, full = Cast(torch.bfloat16), Cast(torch.float32)
    tower.layers = nn.Sequential(*stem, half, *halves, full, last, half)
