"""What every system of the shelf shares: towers, projections to one width, and a head per task.

A system says how picture and title become one vector per task (`Network.blend`); those that need to
have towers, projections, heads or a loss of their own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tagger.config import Config, Fusion, Preprocess
from tagger.conv_towers import ConvImageTower, MobileImageTower
from tagger.errors import ModelError
from tagger.modalities import IMAGE, TEXT
from tagger.tasks import Task
from tagger.tokenizer import Tokenizer
from tagger.towers import (
    ImageTower,
    OpenClipImageTower,
    TextTower,
    TokenTextTower,
    open_clip_towers,
)
from tagger.tree import NO_NODE, Tree

TOWERS = ("image_tower.", "text_tower.")
"""What the names of their tensors start with."""


@dataclass(frozen=True)
class Features:
    """What a tower says of n products: global (n, w), tokens (n, m, w'); nothing of other towers
    or tasks is in it."""

    pooled: Tensor
    tokens: Tensor


@dataclass(frozen=True)
class Sequence:
    """One modality, projected: tokens (batch, 1 + n, width), the global token first; or what of
    these the system reads.

    mask (batch, 1 + n) is True for real tokens; a row that is False throughout is absent.
    """

    tokens: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Output:
    """logits: per task (batch, num_labels); modality_weights (batch, num_tasks, 2), rows sum to 1.

    The weights are those of (image, text); an absent modality weighs exactly 0. A product without
    any modality weighs (0, 0) and its logits say nothing. A system that cannot tell what a present
    modality weighs says NaN; see `tagger.modalities`.
    """

    logits: dict[str, Tensor]
    modality_weights: Tensor

    @property
    def answerable(self) -> Tensor:
        """(batch,) whether there was a modality to answer from."""
        return (self.modality_weights != 0).flatten(1).any(1)


class Towers(Protocol):
    """What answers for the towers of a model, when it is not they themselves."""

    def image_features(self, pixels: Tensor) -> Features: ...
    def text_features(self, ids: Tensor, mask: Tensor) -> Features: ...


class Network(nn.Module, ABC):
    """Towers, projections and heads; a system adds `build_fusion` and `blend`.

    `config.tasks` fixes the heads. The tensors of a system stand beside those of the others, not
    below a name of their own, so that models of one system keep their tensors' names.
    """

    origin: ClassVar[str]
    """Name of the system and where it was published, for the model card."""
    reads_globals: ClassVar[bool] = True
    reads_tokens: ClassVar[bool] = True
    """Whether the system reads the towers' global tokens, and their other tokens."""
    task_parameters: ClassVar[tuple[str, ...]] = ()
    """Parameters of the fusion with a row per task."""
    zero_shot: ClassVar[bool] = False
    """Whether it knows labels by their names: no training is needed, and none can teach them."""
    frozen: Towers | None = None
    """In training with towers that stay as they are: these, which see everything once."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        fusion = config.fusion
        self.image_tower, self.text_tower = self.build_towers()
        parts = (self.reads_globals, self.reads_tokens)
        self.image_projection = Projection(self.image_tower, fusion.width, *parts)
        self.text_projection = Projection(self.text_tower, fusion.width, *parts)
        self.modality_embedding: nn.Parameter | None = nn.Parameter(
            torch.randn(2, fusion.width) * 0.02
        )
        # Whole image tokens are dropped, the global one among them, so that no task hangs on one.
        self.patch_dropout = nn.Dropout1d(fusion.dropout if self.reads_tokens else 0.0)
        self.build_fusion(fusion)
        self.heads = nn.ModuleList(self.build_head(task) for task in config.tasks)
        self.normalise: nn.Module = Normalise(config.preprocess)

    def build_towers(self) -> tuple[ImageTower, TextTower]:
        """The towers, with random weights."""
        return build_towers(self.config)

    def build_fusion(self, fusion: Fusion) -> None:
        """Add the modules between the projections and the heads; some systems have none."""
        return

    def build_head(self, task: Task) -> nn.Module:
        """What makes logits (batch, labels) of the vectors of `blend`."""
        return Head(self.config.fusion, task.tree)

    def read_labels(self, tokenizer: Tokenizer) -> None:
        """Called before the network answers; for systems that know labels by their names."""
        return

    def pair_loss(self, image: Sequence | None, text: Sequence | None) -> Tensor | None:
        """The loss of a batch for a system that learns from pictures with titles; None for those
        that learn from labels."""
        return None

    @abstractmethod
    def blend(self, image: Sequence | None, text: Sequence | None) -> tuple[Tensor, Tensor]:
        """One vector per task (batch, tasks, width), and the weights of `Output`; None for a
        modality that the whole batch lacks."""

    @property
    def trunk(self) -> list[nn.Module]:
        """The parts of the fusion that compute in the precision of open_clip's towers."""
        return []

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
        return self.read_text(ids, mask)

    def read_text(self, ids: Tensor, mask: Tensor) -> Features:
        """What the text tower says, computed anew."""
        return Features(*self.text_tower(ids, mask))

    def project_image(self, features: Features, present: Tensor) -> Sequence:
        """The picture's tokens for the fusion; rows that are not `present` (n,) may be anything."""
        tokens = self.patch_dropout(self.image_projection(features.pooled, features.tokens))
        mask = present[:, None].expand(-1, tokens.shape[1])
        return Sequence(self.marked(tokens, IMAGE), mask)

    def project_text(self, features: Features, mask: Tensor) -> Sequence:
        """The title's tokens for the fusion; mask (n, length) as for `text_features`."""
        tokens = self.text_projection(features.pooled, features.tokens)
        own = [mask.any(1, keepdim=True)] if self.reads_globals else []
        own += [mask[:, : features.tokens.shape[1]]] if self.reads_tokens else []
        return Sequence(self.marked(tokens, TEXT), torch.cat(own, 1))

    def marked(self, tokens: Tensor, modality: int) -> Tensor:
        """`tokens` with the embedding that says which modality they are of."""
        if self.modality_embedding is None:
            return tokens
        return tokens + self.modality_embedding[modality]

    @property
    def image_dtype(self) -> torch.dtype:
        """In which the image tower takes its pixels."""
        if isinstance(self.image_tower, OpenClipImageTower) and self.image_tower.pixel_dtype:
            return self.image_tower.pixel_dtype
        # An export may store matrices in another type than it computes in, but not vectors.
        vectors = [p.dtype for p in self.image_tower.parameters() if p.ndim == 1]
        return vectors[0] if vectors else torch.float32

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.parameters()).device

    def fuse(self, image: Sequence | None, text: Sequence | None) -> Output:
        """The fusion and the heads; None for a modality that the whole batch lacks."""
        return self.decide(*self.blend(image, text))

    def decide(self, vectors: Tensor, weights: Tensor) -> Output:
        """The heads' logits of `vectors` (batch, tasks, width), with the `weights`."""
        logits = {
            task.name: head(vectors[:, k]).float()
            for k, (task, head) in enumerate(zip(self.config.tasks, self.heads, strict=True))
        }
        return Output(logits, weights)

    def for_all_tasks(self, x: Tensor) -> Tensor:
        """(batch, n) -> (batch, tasks, n): the same for each."""
        return x[:, None].expand(-1, len(self.config.tasks), -1)

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
    """A tower's global token and tokens, of their own widths, to one sequence of one width; or one
    of the two alone, or neither of a tower that is not read."""

    def __init__(
        self,
        tower: ImageTower | TextTower,
        width: int,
        with_global: bool = True,
        with_tokens: bool = True,
    ) -> None:
        super().__init__()
        self.global_token = nn.Linear(tower.width, width) if with_global else None
        self.tokens = nn.Linear(tower.token_width, width) if with_tokens else None

    def forward(self, pooled: Tensor, tokens: Tensor) -> Tensor:
        """(batch, w) and (batch, n, w') -> (batch, 1 + n, width)."""
        parts = [] if self.global_token is None else [self.global_token(pooled)[:, None]]
        parts += [] if self.tokens is None else [self.tokens(tokens)]
        return torch.cat(parts, 1)


def presence(image: Sequence | None, text: Sequence | None) -> Tensor:
    """(batch, 2): which modalities are there."""
    masks = [None if sequence is None else sequence.mask[:, 0] for sequence in (image, text)]
    some = next(mask for mask in masks if mask is not None)
    return torch.stack([torch.zeros_like(some) if mask is None else mask for mask in masks], 1)


def global_tokens(image: Sequence | None, text: Sequence | None) -> Tensor:
    """(batch, 2, width), float32: the first token of each modality, zero where it is absent."""
    firsts = [
        None if sequence is None else sequence.tokens[:, 0].float() for sequence in (image, text)
    ]
    some = next(first for first in firsts if first is not None)
    stacked = torch.stack([torch.zeros_like(some) if x is None else x for x in firsts], 1)
    return stacked.masked_fill(~presence(image, text)[..., None], 0.0)


def joined(image: Sequence | None, text: Sequence | None) -> tuple[Tensor, Tensor]:
    """Tokens (batch, length, width) and mask (batch, length): title first, then picture."""
    given = [sequence for sequence in (text, image) if sequence is not None]
    return torch.cat([s.tokens for s in given], 1), torch.cat([s.mask for s in given], 1)


def attended(attention: Tensor, image: Sequence | None, text: Sequence | None) -> Tensor:
    """The share of `attention` that each modality gets, (batch, queries, 2), summing to 1.

    attention (batch, queries, length) is over the tokens as they are `joined`. A present modality
    has at least a millionth, an absent one exactly 0.
    """
    num_words = 0 if text is None else text.tokens.shape[1]
    words, places = attention[..., :num_words].sum(-1), attention[..., num_words:].sum(-1)
    mass = torch.stack([places, words], -1).float().clamp(min=1e-6)
    mass = mass.masked_fill(~presence(image, text)[:, None], 0.0)
    return mass / mass.sum(-1, keepdim=True).clamp(min=1e-6)


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


def build_towers(config: Config) -> tuple[ImageTower, TextTower]:
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
    assert architecture.text is not None
    if architecture.mobile is not None:
        return MobileImageTower(architecture.mobile), TokenTextTower(architecture.text)
    assert architecture.image is not None
    return ConvImageTower(architecture.image), TokenTextTower(architecture.text)
