"""The model that training starts from: a definition, towers with weights, a trained directory."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from tagger import bundle
from tagger.config import Config
from tagger.errors import UsageError
from tagger.model import CMAClip
from tagger.shelf import WEIGHTS
from tagger.tasks import Task
from tagger.tokenizer import FILE_NAME, Tokenizer, learn_pieces
from tagger.towers import OpenClipImageTower, OpenClipTextTower, load_pretrained


def start_model(
    source: Path | None,
    config: Config,
    titles: Iterable[str],
    pretrained: str | None,
    seed: int,
) -> tuple[CMAClip, Tokenizer]:
    """A model of `config` and its tokenizer, warm where `source` or `pretrained` has weights.

    A trained `source` gives all it knows: towers, both attentions, and for tasks of the same name
    the attention vector, the hidden layer and the rows of the nodes that both know.

    Raises:
        UsageError: `pretrained` for towers that open_clip does not have.
        WeightsError: see `load_pretrained`.
    """
    torch.manual_seed(seed)
    tokenizer = start_tokenizer(source, config, titles)
    model = CMAClip(config)
    if source is not None and (source / WEIGHTS).is_file():
        inherit(model, bundle.load(source).model)
    if pretrained is not None:
        name, image, words = config.architecture.open_clip, model.image_tower, model.text_tower
        if name is None or not (
            isinstance(image, OpenClipImageTower) and isinstance(words, OpenClipTextTower)
        ):
            raise UsageError(
                f"--pretrained {pretrained}: these towers are given by their dimensions",
                "--pretrained is for open_clip towers: --model cma-clip-vit-b-32",
            )
        load_pretrained(name, pretrained, image, words)
    return model, tokenizer


def start_tokenizer(source: Path | None, config: Config, titles: Iterable[str]) -> Tokenizer:
    """The tokenizer of `source` or of its architecture, or one learned from `titles`."""
    text = config.architecture.text
    if source is None:
        return bundle.open_clip_tokenizer(config.architecture.open_clip or "")
    if text is None or (source / FILE_NAME).is_file():
        return bundle.load_tokenizer(source, config)
    return learn_pieces(titles, text.vocabulary_size, text.context_length)


@torch.no_grad()
def inherit(model: CMAClip, parent: CMAClip) -> None:
    """Copy from `parent` all that does not hang on the tasks, and what is common in those."""
    mine, theirs = model.state_dict(), parent.state_dict()
    common = {
        name: tensor
        for name, tensor in theirs.items()
        if not name.startswith(("heads.", "modality_attention."))
        and name in mine
        and tensor.shape == mine[name].shape
    }
    model.load_state_dict(common, strict=False)
    old = {task.name: k for k, task in enumerate(parent.config.tasks)}
    for k, task in enumerate(model.config.tasks):
        if task.name in old:
            j = old[task.name]
            model.modality_attention.w[k] = parent.modality_attention.w[j]
            _inherit_head(model.heads[k], parent.heads[j], task, parent.config.tasks[j])


def _inherit_head(head: torch.nn.Module, parent: torch.nn.Module, task: Task, old: Task) -> None:
    mine, theirs = head.state_dict(), parent.state_dict()
    mine["0.weight"], mine["0.bias"] = theirs["0.weight"], theirs["0.bias"]
    known = {names: row for row, names in enumerate(old.tree.names)}
    for row, names in enumerate(task.tree.names):
        if names in known:
            for name in ("3.weight", "3.bias"):
                mine[name][row] = theirs[name][known[names]]
    head.load_state_dict(mine)
