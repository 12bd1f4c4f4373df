"""Convolutional image towers given by their dimensions.

Both return the global token (batch, width), which is the mean of the tokens (batch, n, width): the
places of the last feature map.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tagger.config import ConvTower, MobileTower
from tagger.errors import WeightsError


class ConvImageTower(nn.Module):
    """pixels (batch, 3, height, width) -> global (batch, w), tokens (batch, m, w).

    Space-to-depth by 2, a 3x3 stem, then residual stages (He et al. 2015) at strides 2, 4, 8 ...
    The tokens are the last feature map, the global token is its mean.
    """

    tokens_are_places = True

    def __init__(self, config: ConvTower) -> None:
        super().__init__()
        width = config.widths[0]
        layers: list[nn.Module] = [SpaceToDepth(), ConvNorm(12, width), nn.ReLU(inplace=True)]
        for stage, (stage_width, depth) in enumerate(
            zip(config.widths, config.depths, strict=True)
        ):
            for block in range(depth):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(ResidualBlock(width, stage_width, stride))
                width = stage_width
        self.layers = nn.Sequential(*layers)
        self.width = width
        self.token_width = width
        self.num_halvings = len(config.widths)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        features = self.layers(pixels)
        tokens = features.flatten(2).transpose(1, 2)
        return tokens.mean(1), tokens

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the last feature map."""
        return halved(height, self.num_halvings), halved(width, self.num_halvings)


class SpaceToDepth(nn.Module):
    """`nn.PixelUnshuffle(2)`, its result in channels-last order, in one pass over the memory."""

    def forward(self, pixels: Tensor) -> Tensor:
        n, channels, height, width = pixels.shape
        blocks = pixels.permute(0, 2, 3, 1).reshape(n, height // 2, 2, width // 2, 2, channels)
        deep = blocks.permute(0, 1, 3, 5, 2, 4).reshape(n, height // 2, width // 2, channels * 4)
        return deep.permute(0, 3, 1, 2)


class ConvNorm(nn.Sequential):
    """Convolution and batch normalisation."""

    def __init__(
        self,
        width_in: int,
        width_out: int,
        kernel: int = 3,
        stride: int = 1,
        groups: int = 1,
        eps: float = 1e-5,
    ) -> None:
        padding = kernel // 2
        super().__init__(
            nn.Conv2d(width_in, width_out, kernel, stride, padding, groups=groups, bias=False),
            nn.BatchNorm2d(width_out, eps),
        )


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions; the shortcut is averaged, not subsampled, where the size halves."""

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.first = ConvNorm(width_in, width_out, stride=stride)
        self.second = ConvNorm(width_out, width_out)
        # The block starts as the identity, so that depth does not slow the first epochs.
        nn.init.zeros_(self.second.get_parameter("1.weight"))
        self.shortcut: nn.Module = nn.Identity()
        if stride == 2:
            pool = nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)
            self.shortcut = nn.Sequential(pool, ConvNorm(width_in, width_out, kernel=1))
        elif width_in != width_out:
            self.shortcut = ConvNorm(width_in, width_out, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.second(F.relu(self.first(x), inplace=True))
        return F.relu(residual + self.shortcut(x), inplace=True)


class MobileImageTower(nn.Module):
    """pixels (batch, 3, height, width) -> global (batch, w), tokens (batch, m, w).

    Inverted residuals (Sandler et al. 2018, "MobileNetV2") with ReLU6, without what EfficientNet-
    Lite (Tan and Le 2019) has behind its last stage. Tensors stand in the order in which that
    network is published, so that its weights fit (`load_mobile_weights`).
    """

    tokens_are_places = True

    def __init__(self, config: MobileTower) -> None:
        super().__init__()
        self.stem = ConvNorm(3, config.stem, stride=2, eps=PUBLISHED_EPS)
        width = config.stem
        blocks: list[nn.Module] = []
        self.num_halvings = 1
        self._maps = [(width, 1)]
        """Channels of the widest maps, and how often their sides are halved."""
        for stage in config.stages:
            for block in range(stage.depth):
                stride = stage.stride if block == 0 else 1
                blocks.append(
                    InvertedResidual(width, stage.width, stage.expansion, stage.kernel, stride)
                )
                self._maps.append((width * stage.expansion, self.num_halvings))
                self.num_halvings += stride == 2
                width = stage.width
        self.blocks = nn.Sequential(*blocks)
        self.width = width
        self.token_width = width

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        if pixels.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            # In bf16 the way back through depthwise convolutions takes twice the time there. And
            # answers are computed in float32 (`speed_up`): so are those that an epoch is judged by.
            with torch.autocast("cpu", enabled=False):
                return self._features(pixels)
        return self._features(pixels)

    def _features(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        x = pixels.contiguous(memory_format=torch.channels_last)
        features = self.blocks(F.relu6(self.stem(x), inplace=True))
        tokens = features.flatten(2).transpose(1, 2)
        return tokens.mean(1), tokens

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the last feature map."""
        return halved(height, self.num_halvings), halved(width, self.num_halvings)

    def largest_map(self, height: int, width: int) -> int:
        """Numbers in the largest feature map of one picture."""
        return max(
            channels * halved(height, times) * halved(width, times)
            for channels, times in self._maps
        )


def halved(size: int, times: int) -> int:
    """`size` halved `times`, each time rounded up."""
    return -(-size >> times)


class InvertedResidual(nn.Module):
    """Widen by `expansion`, one depthwise convolution, narrow; a shortcut where shapes agree."""

    def __init__(
        self, width_in: int, width_out: int, expansion: int, kernel: int, stride: int
    ) -> None:
        super().__init__()
        wide = width_in * expansion
        self.widen: nn.Module | None = None
        if expansion > 1:
            self.widen = ConvNorm(width_in, wide, kernel=1, eps=PUBLISHED_EPS)
        self.depthwise = ConvNorm(wide, wide, kernel, stride, groups=wide, eps=PUBLISHED_EPS)
        self.narrow = ConvNorm(wide, width_out, kernel=1, eps=PUBLISHED_EPS)
        self.has_shortcut = stride == 1 and width_in == width_out

    def forward(self, x: Tensor) -> Tensor:
        wide = x if self.widen is None else F.relu6(self.widen(x), inplace=True)
        narrow: Tensor = self.narrow(F.relu6(self.depthwise(wide), inplace=True))
        return x + narrow if self.has_shortcut else narrow


PUBLISHED_EPS = 1e-3
"""Of the batch norms that EfficientNet-Lite was trained with."""


def load_mobile_weights(tower: MobileImageTower, path: Path) -> None:
    """Fill `tower` from a file that `torch.save` wrote of the same network (.pth, .pt, .bin).

    Libraries name its tensors differently and keep them in the same order, so they are matched by
    order and shape; what the file has behind the last stage is left. A .safetensors file has no
    order.

    Raises:
        WeightsError: no such file, not a file of tensors, or tensors of another network.
    """
    if not path.is_file():
        raise WeightsError(
            f"no such weights file: {path}", "name a file that is there: --pretrained FILE"
        )
    try:
        tensors = torch.load(path, "cpu", weights_only=True)
        theirs = [tensor for tensor in tensors.values() if isinstance(tensor, Tensor)]
    # What a file of another kind makes the unpickler trip over.
    except (pickle.UnpicklingError, OSError, RuntimeError, ValueError, AttributeError) as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise WeightsError(f"{path}: no file of weights: {reason[:200]}", _WHICH_FILE) from error
    own = tower.state_dict()
    for number, (name, tensor) in enumerate(own.items()):
        shape = tuple(theirs[number].shape) if number < len(theirs) else "nothing"
        if shape != tuple(tensor.shape):
            raise WeightsError(
                f"{path}: weights of another network: {shape} where {name} has "
                f"{tuple(tensor.shape)}",
                _WHICH_FILE,
            )
    tower.load_state_dict(dict(zip(own, theirs, strict=False)))


_WHICH_FILE = "name a .pth file with the weights of the network that config.json describes"
