"""CMA-CLIP (arXiv 2112.03562): towers, sequence-wise attention, modality-wise attention, heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tagger.config import Config, Fusion, Preprocess
from tagger.errors import ModelError
from tagger.modalities import IMAGE, TEXT
from tagger.towers import (
    ConvImageTower,
    OpenClipImageTower,
    OpenClipTextTower,
    TokenTextTower,
    TransformerBlock,
    chosen,
    open_clip_towers,
)
from tagger.tree import NO_NODE, Tree


@dataclass(frozen=True)
class Features:
    """What a tower says of n products: global (n, w), tokens (n, m, w'); nothing of other towers
    or tasks is in it."""

    pooled: Tensor
    tokens: Tensor


@dataclass(frozen=True)
class Sequence:
    """One modality, projected: tokens (batch, 1 + n, width), the global token first.

    mask (batch, 1 + n) is True for real tokens; a row that is False throughout is absent.
    """

    tokens: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Output:
    """logits: per task (batch, num_labels); modality_weights (batch, num_tasks, 2), rows sum to 1.

    The weights are those of (image, text); an absent modality weighs exactly 0. A product without
    any modality weighs (0, 0) and its logits say nothing.
    """

    logits: dict[str, Tensor]
    modality_weights: Tensor


class Towers(Protocol):
    """What answers for the towers of a model, when it is not they themselves."""

    def image_features(self, pixels: Tensor) -> Features: ...
    def text_features(self, ids: Tensor, mask: Tensor) -> Features: ...


class CMAClip(nn.Module):
    """The network of figure 1 of the paper; `config.tasks` fixes the heads."""

    frozen: Towers | None = None
    """In training with towers that stay as they are: these, which see everything once."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        fusion = config.fusion
        self.image_tower, self.text_tower = build_towers(config)
        self.image_projection = Projection(self.image_tower, fusion.width)
        self.text_projection = Projection(self.text_tower, fusion.width)
        self.modality_embedding = nn.Parameter(torch.randn(2, fusion.width) * 0.02)
        # Whole image tokens are dropped, the global one among them, so that no task hangs on one.
        self.patch_dropout = nn.Dropout1d(fusion.dropout)
        self.sequence_attention = nn.ModuleList(
            TransformerBlock(fusion.width, fusion.heads, fusion.mlp_ratio)
            for _ in range(fusion.layers)
        )
        self.norm = nn.LayerNorm(fusion.width)
        self.modality_attention = ModalityAttention(len(config.tasks), fusion)
        self.heads = nn.ModuleList(Head(fusion, task.tree) for task in config.tasks)
        self.normalise: nn.Module = Normalise(config.preprocess)

    def encode_image(self, pixels: Tensor, present: Tensor) -> Sequence:
        """pixels uint8 or float in 0..255 (batch, 3, height, width), present bool (batch,)."""
        if not self.training or bool(present.all()):
            return self.project_image(self.image_features(pixels), present)
        # In training absent pictures stay out of the batch statistics of the tower.
        some = self.image_features(pixels[present])
        pooled = some.pooled.new_zeros(len(pixels), *some.pooled.shape[1:])
        tokens = some.tokens.new_zeros(len(pixels), *some.tokens.shape[1:])
        pooled[present], tokens[present] = some.pooled, some.tokens
        return self.project_image(Features(pooled, tokens), present)

    def encode_text(self, ids: Tensor, mask: Tensor) -> Sequence:
        """ids (batch, n) and mask (batch, n); a title that is absent has no True in its mask."""
        return self.project_text(self.text_features(ids, mask), mask)

    def image_features(self, pixels: Tensor) -> Features:
        """pixels uint8 or float in 0..255 (n, 3, height, width)."""
        if self.frozen is not None:
            return self.frozen.image_features(pixels)
        return Features(*self.image_tower(self.normalise(pixels).to(self.image_dtype)))

    def text_features(self, ids: Tensor, mask: Tensor) -> Features:
        """ids and mask (n, length)."""
        if self.frozen is not None:
            return self.frozen.text_features(ids, mask)
        return Features(*self.text_tower(ids, mask))

    def project_image(self, features: Features, present: Tensor) -> Sequence:
        """The picture's tokens for the fusion; rows that are not `present` (n,) may be anything."""
        tokens = self.patch_dropout(self.image_projection(features.pooled, features.tokens))
        mask = present[:, None].expand(-1, tokens.shape[1])
        return Sequence(tokens + self.modality_embedding[IMAGE], mask)

    def project_text(self, features: Features, mask: Tensor) -> Sequence:
        """The title's tokens for the fusion; mask (n, length) as for `text_features`."""
        tokens = self.text_projection(features.pooled, features.tokens)
        whole = torch.cat([mask.any(1, keepdim=True), mask[:, : features.tokens.shape[1]]], 1)
        return Sequence(tokens + self.modality_embedding[TEXT], whole)

    @property
    def image_dtype(self) -> torch.dtype:
        """In which the image tower computes."""
        return self.image_projection.tokens.weight.dtype

    def fuse(self, image: Sequence | None, text: Sequence | None, whole: bool = False) -> Output:
        """Both attentions and the heads; None for a modality that the whole batch lacks.

        [T_CLS, T_1..n, I_CLS, I_1..m] in the paper's order; only T'_CLS and I'_CLS go on, so that
        the last block computes no other token, unless the `whole` of its attention is wanted.
        """
        given = [sequence for sequence in (text, image) if sequence is not None]
        x = torch.cat([sequence.tokens for sequence in given], 1)
        mask = torch.cat([sequence.mask for sequence in given], 1)
        places = [0] if len(given) == 1 else [0, given[0].tokens.shape[1]]
        for block in self.sequence_attention[:-1]:
            x = block(x, mask)
        last = self.sequence_attention[-1]
        x = chosen(last(x, mask), places) if whole else last(x, mask, places)
        x = self.norm(x.float())
        absent = x.new_zeros(x.shape[0], x.shape[2])
        nothing = mask.new_zeros(mask.shape[0])
        globals_ = torch.stack(
            [absent if image is None else x[:, -1], absent if text is None else x[:, 0]], 1
        )
        present = torch.stack(
            [
                nothing if image is None else image.mask[:, 0],
                nothing if text is None else text.mask[:, 0],
            ],
            1,
        )
        fused, weights = self.modality_attention(globals_, present)
        logits = {
            task.name: head(fused[:, k]).float()
            for k, (task, head) in enumerate(zip(self.config.tasks, self.heads, strict=True))
        }
        return Output(logits, weights)

    def forward(
        self, pixels: Tensor, image_present: Tensor, ids: Tensor, text_mask: Tensor
    ) -> Output:
        """`encode_image`, `encode_text` and `fuse` in one call."""
        return self.fuse(self.encode_image(pixels, image_present), self.encode_text(ids, text_mask))


class Normalise(nn.Module):
    """pixels in 0..255 (n, 3, height, width) -> (pixels / 255 - mean) / std, float32."""

    scale: Tensor
    shift: Tensor

    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__()
        mean, std = torch.tensor(preprocess.mean), torch.tensor(preprocess.std)
        # One value for each number of a row of pixels: over three at a time, loops are slow.
        self.register_buffer("scale", (1 / (255 * std)).repeat(preprocess.width), persistent=False)
        self.register_buffer("shift", (-mean / std).repeat(preprocess.width), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        n, _, height, width = pixels.shape
        rows = pixels.permute(0, 2, 3, 1).reshape(n, height, width * 3).float()
        normalised = torch.addcmul(self.shift, rows, self.scale)
        return normalised.view(n, height, width, 3).permute(0, 3, 1, 2)


class Projection(nn.Module):
    """A tower's global token and tokens, of their own widths, to one sequence of one width."""

    def __init__(
        self,
        tower: ConvImageTower | OpenClipImageTower | TokenTextTower | OpenClipTextTower,
        width: int,
    ) -> None:
        super().__init__()
        self.global_token = nn.Linear(tower.width, width)
        self.tokens = nn.Linear(tower.token_width, width)

    def forward(self, pooled: Tensor, tokens: Tensor) -> Tensor:
        return torch.cat([self.global_token(pooled)[:, None], self.tokens(tokens)], 1)


class ModalityAttention(nn.Module):
    """Keyless attention per task (section 3.3): e_m = w . h_m, a = softmax(e), z = sum a_m h_m."""

    def __init__(self, num_tasks: int, fusion: Fusion) -> None:
        super().__init__()
        modalities = 1 if fusion.shared_attention else 2
        self.w = nn.Parameter(torch.randn(num_tasks, modalities, fusion.width) * 0.02)

    def forward(self, globals_: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """globals_ (batch, 2, width), present (batch, 2) -> z (batch, tasks, width), a."""
        scores = (self.w[None] * globals_[:, None]).sum(-1)  # (batch, tasks, 2)
        allowed = present[:, None].expand_as(scores)
        weights = scores.masked_fill(~allowed, float("-inf")).softmax(-1)
        # softmax over nothing is NaN: a product without any modality weighs (0, 0).
        weights = weights.masked_fill(~allowed, 0.0)
        return torch.einsum("btm,bmw->btw", weights, globals_), weights


class Head(nn.Sequential):
    """One hidden layer to the labels of one task.

    Where these are the leaves of a tree, every node has a row of weights, and the logit of a leaf
    is the sum of its own score and those of its ancestors (Salakhutdinov et al. 2011, section 3):
    rare leaves learn from their siblings. The probability of an inner node is the sum of those of
    its leaves, so that levels cannot contradict each other.
    """

    def __init__(self, fusion: Fusion, tree: Tree) -> None:
        super().__init__(
            nn.Linear(fusion.width, fusion.head_width),
            nn.GELU(),
            nn.Dropout(fusion.dropout),
            nn.Linear(fusion.head_width, len(tree)),
        )
        if len(tree) > tree.num_leaves:
            self.append(PathSum(tree))

    @torch.no_grad()
    def fold(self) -> None:
        """Add up the weights of each leaf's path once, instead of its scores each time."""
        last = self[-1]
        if isinstance(last, PathSum):
            scores = self[-2]
            assert isinstance(scores, nn.Linear)
            scores.weight = nn.Parameter(last(scores.weight.T).T.contiguous())
            scores.bias = nn.Parameter(last(scores.bias[None])[0])
            del self[-1]


class PathSum(nn.Module):
    """scores (n, nodes) -> logits (n, leaves): each the sum over the path from the top."""

    nodes: Tensor
    starts: Tensor

    def __init__(self, tree: Tree) -> None:
        """The paths one after the other, and where each starts."""
        super().__init__()
        paths = tree.lineage[: tree.num_leaves]
        starts = np.cumsum(tree.depths[: tree.num_leaves]) - tree.depths[: tree.num_leaves]
        self.register_buffer("nodes", torch.from_numpy(paths[paths != NO_NODE]), persistent=False)
        self.register_buffer("starts", torch.from_numpy(starts), persistent=False)

    def forward(self, scores: Tensor) -> Tensor:
        # Rows are added up far faster than columns, in both directions.
        rows = scores.float().T.contiguous()
        return F.embedding_bag(self.nodes, rows, self.starts, mode="sum").T.contiguous()


def build_towers(
    config: Config,
) -> tuple[ConvImageTower | OpenClipImageTower, TokenTextTower | OpenClipTextTower]:
    """The towers that `config.architecture` names or describes, with random weights."""
    architecture = config.architecture
    if architecture.open_clip is not None:
        image, text = open_clip_towers(architecture.open_clip)
        size = (config.preprocess.height, config.preprocess.width)
        if image.size != size:
            raise ModelError(
                f"{architecture.open_clip} takes pictures of {image.size[0]}x{image.size[1]}, "
                f"preprocess makes them {size[0]}x{size[1]}",
                "set preprocess.height and preprocess.width in config.json",
            )
        return image, text
    if architecture.image is None or architecture.text is None:
        raise ModelError("architecture: give open_clip, or image and text", "repair config.json")
    return ConvImageTower(architecture.image), TokenTextTower(architecture.text)
