"""Distillation: what trained models say of the products, to learn from beside the labels."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from tagger.bundle import Bundle
from tagger.device import training_precision
from tagger.model import Output
from tagger.pixel_cache import PixelCache
from tagger.products import Products
from tagger.tasks import Task
from tagger.views import VIEWS_IN_TRAINING, View, predict_views

SoftTargets = dict[View, dict[str, Tensor]]
"""By view and task (products, labels): the probabilities that the teachers give to each label,
in float16; zeros for a product that they have no answer for."""


def soft_targets(
    teachers: Sequence[Bundle],
    tasks: Sequence[Task],
    products: Products,
    root: Path,
    pool: ThreadPoolExecutor,
) -> SoftTargets:
    """The mean answer of `teachers` to each view of each product (Hinton et al. 2015).

    Of several models one learns more than of each alone; of a model of its own size it still
    learns which labels are easily taken for each other, and what an unlabelled product may be.
    Labels that a teacher does not know have probability 0, those that only it knows are left out.
    """
    soft: SoftTargets = {
        view: {
            t.name: torch.zeros(len(products), len(t.labels), dtype=torch.float16) for t in tasks
        }
        for view in VIEWS_IN_TRAINING
    }
    for teacher in teachers:
        pixels = PixelCache(products.images, root, teacher.config.preprocess, pool, max_bytes=0)
        with training_precision(teacher.device):
            for rows, outputs in predict_views(
                teacher.model,
                teacher.tokenizer,
                products,
                pixels,
                teacher.device,
                VIEWS_IN_TRAINING,
                frozenset(),
            ):
                for view, output in outputs.items():
                    for task in tasks:
                        answer = _answer(teacher, task, output)
                        if answer is not None:
                            soft[view][task.name][rows] += (answer / len(teachers)).half().cpu()
    return soft


def _answer(teacher: Bundle, task: Task, output: Output) -> Tensor | None:
    """(batch, labels of `task`): probabilities, zeros where there is nothing to answer from."""
    known = {t.name: t for t in teacher.config.tasks}.get(task.name)
    common = [label for label in task.labels if known is not None and label in known.labels]
    if known is None or not common:
        return None
    theirs = [known.labels.index(label) for label in common]
    ours = [task.labels.index(label) for label in common]
    logits = output.logits[task.name].float()
    answer = logits.new_zeros(len(logits), len(task.labels))
    answer[:, ours] = logits[:, theirs].softmax(-1)
    answerable = output.modality_weights.sum((1, 2)) > 0
    return answer * answerable[:, None]
