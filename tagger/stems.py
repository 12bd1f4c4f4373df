"""Towers without their transformers: what a picture and a title are before any layer mixes them."""

from __future__ import annotations

from torch import Tensor, nn

from tagger.config import Preprocess
from tagger.conv_towers import ConvImageTower, MobileImageTower
from tagger.towers import (
    ImageTower,
    OpenClipImageTower,
    OpenClipTextTower,
    TextTower,
    TokenTextTower,
    grid_of,
)


class NoLayers(nn.Module):
    """In place of open_clip's transformer: what goes in comes out."""

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        return x


def cut_to_stems(image: ImageTower, text: TextTower) -> tuple[ImageTower, TextTower]:
    """The towers, changed in place: patch embedding or convolutions, word and position embeddings.

    What only made the global tokens goes, too.
    """
    if isinstance(image, OpenClipImageTower) and hasattr(image.visual, "transformer"):
        image.visual.transformer = NoLayers()
        image.visual.proj = None
        image.width = image.token_width
    if isinstance(text, TokenTextTower):
        text.blocks = nn.ModuleList()
    if isinstance(text, OpenClipTextTower):
        text.text.transformer = NoLayers()
        text.text.text_projection = None
        text.width = text.token_width
    return image, text


def image_grid(tower: ImageTower, preprocess: Preprocess) -> tuple[int, int]:
    """Rows and columns of the places that the tokens of an image tower stand for."""
    if isinstance(tower, ConvImageTower | MobileImageTower):
        return tower.grid(preprocess.height, preprocess.width)
    assert isinstance(tower, OpenClipImageTower)
    return grid_of(tower.num_tokens, preprocess.height, preprocess.width)
