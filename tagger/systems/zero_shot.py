"""CLIP without training on labels (Radford et al. 2021, arXiv 2103.00020): labels are prompts."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tagger.config import Config, Fusion
from tagger.network import (
    Features,
    Network,
    Projection,
    Sequence,
    global_tokens,
    presence,
)
from tagger.preprocess import collate_titles
from tagger.tasks import Task
from tagger.tokenizer import Tokenizer
from tagger.towers import ImageTower, OpenClipTextTower, TextTower

MAX_SCALE = 100.0
"""Of cosines, as in CLIP (section 2.5)."""


class ClipZeroShot(Network):
    """The label whose prompt is nearest to the picture and to the title.

    Picture, title and prompts are unit vectors of one space; a label's logit is the mean of its
    cosines with the modalities that are there, scaled. So each weighs 1/2 by definition. A prompt
    is the mean of what the text tower says of the label in each template (section 3.1.4). Training
    never reads labels: it pulls each picture to its own title, away from those of the batch.
    """

    origin = "CLIP, zero-shot (arXiv 2103.00020)"
    reads_tokens = False
    zero_shot: ClassVar[bool] = True

    def build_fusion(self, fusion: Fusion) -> None:
        # What joins the modalities is the space itself: nothing marks where a vector comes from.
        self.modality_embedding = None
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        if isinstance(self.text_tower, OpenClipTextTower):
            self.image_projection = AlreadyJoint(self.image_tower)
            self.text_projection = AlreadyJoint(self.text_tower)

    @property
    def joint_width(self) -> int:
        """Of the space that both towers project into."""
        joint = isinstance(self.text_projection, AlreadyJoint)
        return self.text_tower.width if joint else self.config.fusion.width

    def build_head(self, task: Task) -> nn.Module:
        return Prompts(len(task.labels), self.joint_width)

    def read_labels(self, tokenizer: Tokenizer) -> None:
        training = self.training
        self.eval()
        for task, prompts in zip(self.config.tasks, self.heads, strict=True):
            assert isinstance(prompts, Prompts)
            prompts.weight.copy_(self.prompts_of(task, tokenizer))
        self.train(training)

    def answer_only(self, config: Config, tokenizer: Tokenizer) -> None:
        """From now on answer the tasks of `config`, of which some may be new."""
        known = dict(zip(self.config.tasks, self.heads, strict=True))
        heads: list[nn.Module] = []
        for task in config.tasks:
            prompts = known.get(task)
            if prompts is None:
                prompts = self.build_head(task).to(self.device)
                prompts.get_buffer("weight").copy_(self.prompts_of(task, tokenizer))
            heads.append(prompts)
        self.config, self.heads = config, nn.ModuleList(heads)

    @torch.no_grad()
    def prompts_of(self, task: Task, tokenizer: Tokenizer) -> Tensor:
        """(labels, joint_width), of length 1; a node of a tree goes by its own name."""
        labels = [task.tree.names[i][-1] for i in range(len(task.labels))]
        total = torch.zeros(len(labels), self.joint_width, device=self.device)
        for template in self.config.fusion.prompts:
            texts = [template.format(task=task.name, label=label) for label in labels]
            ids, mask = collate_titles(texts, tokenizer, self.text_tower.fixed_length)
            ids, mask = ids.to(total.device), mask.to(total.device)
            features = self.read_text(ids, mask)
            total += self.project_text(features, mask).tokens[:, 0]
        return F.normalize(total, dim=-1)

    def project_image(self, features: Features, present: Tensor) -> Sequence:
        vectors = self.image_projection(features.pooled, features.tokens).float()
        return Sequence(F.normalize(vectors, dim=-1), present[:, None])

    def project_text(self, features: Features, mask: Tensor) -> Sequence:
        vectors = self.text_projection(features.pooled, features.tokens).float()
        return Sequence(F.normalize(vectors, dim=-1), mask.any(1, keepdim=True))

    def blend(self, image: Sequence | None, text: Sequence | None) -> tuple[Tensor, Tensor]:
        present = presence(image, text)
        weights = present.float() / present.sum(1, keepdim=True).clamp(min=1)
        vector = (weights[..., None] * global_tokens(image, text)).sum(1)
        scale = self.logit_scale.exp().clamp(max=MAX_SCALE)
        return self.for_all_tasks(scale * vector), self.for_all_tasks(weights)

    def pair_loss(self, image: Sequence | None, text: Sequence | None) -> Tensor:
        """InfoNCE in both directions over the products that have both (figure 3 of CLIP)."""
        both = presence(image, text).all(1)
        vectors = global_tokens(image, text)[both]
        scale = self.logit_scale.exp().clamp(max=MAX_SCALE)
        similarity = scale * vectors[:, 0] @ vectors[:, 1].T
        own = torch.arange(len(vectors), device=vectors.device)
        if not len(own):
            return similarity.sum()
        return (F.cross_entropy(similarity, own) + F.cross_entropy(similarity.T, own)) / 2


class AlreadyJoint(Projection):
    """In place of the projection of a tower that was trained into the joint space."""

    def __init__(self, tower: ImageTower | TextTower) -> None:
        super().__init__(tower, tower.width, with_global=False, with_tokens=False)

    def forward(self, pooled: Tensor, tokens: Tensor) -> Tensor:
        """(batch, w) -> (batch, 1, w)."""
        return pooled[:, None]


class Prompts(nn.Module):
    """One unit vector per label; what training of other systems learns, the text tower says."""

    weight: Tensor

    def __init__(self, num_labels: int, width: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(num_labels, width))

    def forward(self, vectors: Tensor) -> Tensor:
        """(batch, width) -> (batch, labels)."""
        return vectors @ self.weight.T
