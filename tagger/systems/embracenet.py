"""EmbraceNet (Choi and Lee 2019, arXiv 1904.09078): each feature comes from one modality."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tagger.network import Network, Sequence, global_tokens, presence


class EmbraceNet(Network):
    """Docking layers, then a multinomial choice of modality for each feature (section 3).

    A modality is chosen with probability 1 over the number of those that are there, so that an
    absent one is never chosen. In training the choice is drawn per product and feature; otherwise
    the vector is its expectation, and the weights are its probabilities.
    """

    origin = "EmbraceNet (arXiv 1904.09078)"
    reads_tokens = False

    def blend(self, image: Sequence | None, text: Sequence | None) -> tuple[Tensor, Tensor]:
        present = presence(image, text)
        docked = F.relu(global_tokens(image, text))  # (batch, 2, width)
        chances = present.float() / present.sum(1, keepdim=True).clamp(min=1)
        shares = chances[..., None].expand_as(docked)
        if self.training:
            from_image = torch.rand_like(docked[:, 0]) < chances[:, :1]
            drawn = torch.stack([from_image, ~from_image], 1)
            shares = (drawn & present[..., None]).to(docked.dtype)
        return self.for_all_tasks((shares * docked).sum(1)), self.for_all_tasks(chances)
