"""The picture alone and the title alone: how far one modality gets."""

from __future__ import annotations

import torch
from torch import Tensor

from tagger.config import Fusion
from tagger.network import Features, Network, Projection, Sequence, global_tokens, presence
from tagger.towers import ImageTower, NoTower, TextTower


class OneModality(Network):
    """The global embedding of one tower goes into every head; the other tower is not there.

    What is not read counts as absent: its weight is 0, and a product that has nothing else is not
    answered.
    """

    reads_tokens = False

    def blend(self, image: Sequence | None, text: Sequence | None) -> tuple[Tensor, Tensor]:
        vector = global_tokens(image, text).sum(1)
        return self.for_all_tasks(vector), self.for_all_tasks(presence(image, text).float())

    def unread(self, features: Features) -> Sequence:
        """As if it were absent for every product."""
        count = features.pooled.shape[0]
        tokens = features.pooled.new_zeros(count, 1, self.config.fusion.width)
        return Sequence(tokens, torch.zeros_like(tokens[..., 0], dtype=torch.bool))


class ImageOnly(OneModality):
    """Of the title not even the presence is looked at."""

    origin = "the image tower alone"

    def build_towers(self) -> tuple[ImageTower, TextTower]:
        return super().build_towers()[0], NoTower()

    def build_fusion(self, fusion: Fusion) -> None:
        self.text_projection = Projection(self.text_tower, fusion.width, False, False)

    def project_text(self, features: Features, mask: Tensor) -> Sequence:
        return self.unread(features)


class TitleOnly(OneModality):
    """Of the picture not even the presence is looked at."""

    origin = "the text tower alone"

    def build_towers(self) -> tuple[ImageTower, TextTower]:
        return NoTower(), super().build_towers()[1]

    def build_fusion(self, fusion: Fusion) -> None:
        self.image_projection = Projection(self.image_tower, fusion.width, False, False)

    def project_image(self, features: Features, present: Tensor) -> Sequence:
        return self.unread(features)
