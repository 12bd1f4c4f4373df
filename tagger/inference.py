"""A trained network made ready to answer fast: nothing in it can be trained any more."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from tagger.allocator import keep_freed_memory
from tagger.conv_towers import ConvImageTower, ConvNorm, MobileImageTower
from tagger.device import has_bf16
from tagger.fast_vit import fold_normalisation, write_out_attention
from tagger.network import Head, Network
from tagger.towers import OpenClipTextTower


def speed_up(model: Network, fp32: bool) -> None:
    """Fold batch norms into convolutions, paths into heads; compute in bf16 where that is faster.

    bf16 is for open_clip towers with the fusion's `trunk` over them, and for convolutions. A
    small text tower and what stands on it stay in float32: they take little of the time, and bf16
    there moves confidences by up to 0.03, in the convolutions by up to 0.015. So do modality-wise
    attention and heads, or confidences would come in steps of 0.004. With `fp32` all stays so.
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
        keep_freed_memory()
        write_out_attention(model)
        fold_normalisation(model)
    if fp32 or not has_bf16(device):
        return
    parts: list[nn.Module] = [model.image_projection]
    tower = model.image_tower
    if isinstance(tower, ConvImageTower):
        tower.layers = mixed_precision(tower.layers, 3)
    elif isinstance(tower, MobileImageTower):
        tower.blocks = mixed_precision(tower.blocks, 8)
    else:
        parts.append(tower)
    if isinstance(model.text_tower, OpenClipTextTower):
        parts += [model.text_tower, model.text_projection, *model.trunk]
        if model.modality_embedding is not None:
            model.modality_embedding.data = model.modality_embedding.data.to(torch.bfloat16)
    for part in parts:
        part.to(torch.bfloat16)


def mixed_precision(layers: nn.Sequential, num_full: int) -> nn.Sequential:
    """`layers` with bf16 for all but the first `num_full` and the last, and for the features.

    Largest change of a confidence, 3,919 products: of a residual tower .020 without and .015 with
    its stem and last block in float32, at 5% of the speed; of a mobile tower .09 without (320
    products), .026 with three, .022 with five and .020 with eight of its sixteen blocks in float32,
    which takes a tenth longer than three.
    """
    behind = max(num_full, len(layers) - 1)
    first, middle, last = layers[:num_full], layers[num_full:behind], layers[behind:]
    half, full = Cast(torch.bfloat16), Cast(torch.float32)
    return nn.Sequential(*first, half, *middle.to(torch.bfloat16), full, *last, half)


class Cast(nn.Module):
    """Numbers of another type from here on."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        return x.to(self.dtype)
