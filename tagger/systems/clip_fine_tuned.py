"""CLIP with a shallow head: the baseline of the CMA-CLIP paper, which is it without attentions."""

from __future__ import annotations

from torch import Tensor

from tagger.network import Network, Sequence, global_tokens, presence


class ClipFineTuned(Network):
    """One linear layer over the concatenated global embeddings of both towers, then the heads.

    The layer is the sum of the two projections, so that an absent modality leaves its half out.
    Without sequence-wise and modality-wise attention nothing else is left of CMA-CLIP: the last row
    of its ablation is this system, too. A linear layer over both has no weight for either: where
    both are there, the weights are NaN.
    """

    origin = "fine-tuned CLIP, the baseline of CMA-CLIP (arXiv 2112.03562)"
    reads_tokens = False

    def blend(self, image: Sequence | None, text: Sequence | None) -> tuple[Tensor, Tensor]:
        present = presence(image, text)
        both = present.all(1, keepdim=True)
        weights = present.float().masked_fill(both, float("nan"))
        vector = global_tokens(image, text).sum(1)
        return self.for_all_tasks(vector), self.for_all_tasks(weights)
