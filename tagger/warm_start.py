"""The model that training starts from: a definition, towers with weights, a trained directory."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path

import msgspec
import torch

from tagger import bundle
from tagger.config import Architecture, Config
from tagger.conv_towers import MobileImageTower, load_mobile_weights
from tagger.errors import UsageError, WeightsError
from tagger.network import TOWERS, Head, Network
from tagger.paths import is_there
from tagger.shelf import WEIGHTS
from tagger.systems import build_network
from tagger.systems.zero_shot import ClipZeroShot
from tagger.tasks import Task
from tagger.tokenizer import FILE_NAME, Tokenizer, learn_pieces
from tagger.towers import NoTower, load_pretrained


def start_model(
    source: Path | None,
    config: Config,
    titles: Iterable[str],
    pretrained: str | None,
    seed: int,
) -> tuple[Network, Tokenizer]:
    """A model of `config` and its tokenizer, warm where `source` or `pretrained` has weights.

    A trained `source` gives all it knows: towers, fusion, and for tasks of the same name what the
    fusion has for each, the hidden layer and the rows of the nodes that both know. A trained model
    named by `pretrained` gives its towers and its tokenizer alone.

    Raises:
        UsageError: `pretrained` for towers that open_clip does not have, or a model with others; or
            towers are to be frozen that got no weights.
        WeightsError: see `load_pretrained`.
    """
    torch.manual_seed(seed)
    trained = trained_directory(pretrained)
    given = None if trained is None else bundle.load(trained)
    # Words go with the tower that reads them.
    reads = given is not None and not isinstance(given.model.text_tower, NoTower)
    tokenizer = start_tokenizer(trained if reads else source, config, titles)
    model = build_network(config)
    random = {name for name, _ in model.named_parameters() if name.startswith(TOWERS)}
    if source is not None and (source / WEIGHTS).is_file():
        random -= inherit(model, bundle.load(source).model)
    if given is not None:
        random -= take_towers(model, given.model, given.path)
    elif pretrained is not None and isinstance(model.image_tower, MobileImageTower):
        load_mobile_weights(model.image_tower, Path(pretrained))
        random = {name for name in random if not name.startswith("image_tower.")}
    elif pretrained is not None:
        name = config.architecture.open_clip
        if name is None:
            raise UsageError(
                f"--pretrained {pretrained}: these towers are given by their dimensions",
                "tags and files are for open_clip towers, such as --model cma-clip-vit-b-32; these "
                "take those of a trained model: --pretrained DIR",
            )
        scale = load_pretrained(name, pretrained, model.image_tower, model.text_tower)
        if isinstance(model, ClipZeroShot):
            model.logit_scale.data.copy_(scale)
        random = set()
    if config.training.freeze_towers:
        _check_frozen(random, pretrained or str(source))
    return model, tokenizer


def _check_frozen(random: set[str], came_from: str) -> None:
    """Raises:
    UsageError: parameters of towers are `random` still. A kernel over the tokens may be: it starts
        as nothing.
    """
    towers = sorted({name.split("_")[0] for name in random if ".neighbours." not in name})
    if towers:
        raise UsageError(
            f"--freeze-towers: {came_from} has no weights for the {' and the '.join(towers)} tower",
            "train the towers as well (leave --freeze-towers out), or start from a model that has "
            "both: --pretrained DIR",
        )


def trained_directory(pretrained: str | None) -> Path | None:
    """The model directory that `pretrained` is, if it is one and no tag and no file."""
    if pretrained is None or not is_there(Path(pretrained) / WEIGHTS, WeightsError):
        return None
    return Path(pretrained)


def take_towers(model: Network, trained: Network, path: Path) -> set[str]:
    """Copy the towers of `trained`, which is at `path`; of those that `model` has in part, that.
    Returns the names of what was copied.

    Raises:
        UsageError: they are others.
    """
    if not _has_towers_of(model.config.architecture, trained.config.architecture):
        raise UsageError(
            f"--pretrained {path}: its towers are others than those of --model",
            "name a model of the same architecture, or start from it: --model "
            f"{shlex.quote(str(path))}",
        )
    theirs = trained.state_dict()
    own = [name for name in model.state_dict() if name.startswith(TOWERS)]
    copied = {name: theirs[name] for name in own if name in theirs}
    model.load_state_dict(copied, strict=False)
    return set(copied)


def _has_towers_of(own: Architecture, trained: Architecture) -> bool:
    """Whether they are the same, but for a kernel of its own: it starts as nothing."""
    if own.text is not None and trained.text is not None and trained.text.kernel == 1:
        own = msgspec.structs.replace(own, text=msgspec.structs.replace(own.text, kernel=1))
    return own == trained


def start_tokenizer(source: Path | None, config: Config, titles: Iterable[str]) -> Tokenizer:
    """The tokenizer of `source` or of its architecture, or one learned from `titles`."""
    text = config.architecture.text
    if source is None:
        return bundle.open_clip_tokenizer(config.architecture.open_clip or "")
    if text is None or (source / FILE_NAME).is_file():
        return bundle.load_tokenizer(source, config)
    return learn_pieces(titles, text.vocabulary_size, text.context_length)


@torch.no_grad()
def inherit(model: Network, parent: Network) -> set[str]:
    """Copy from `parent` all that does not hang on the tasks, and what is common in those; returns
    the names of the former."""
    mine, theirs = model.state_dict(), parent.state_dict()
    common = {
        name: tensor
        for name, tensor in theirs.items()
        if not name.startswith("heads.")
        and name not in model.task_parameters
        and name in mine
        and tensor.shape == mine[name].shape
    }
    model.load_state_dict(common, strict=False)
    old = {task.name: k for k, task in enumerate(parent.config.tasks)}
    for k, task in enumerate(model.config.tasks):
        if task.name in old:
            j = old[task.name]
            for name in set(model.task_parameters) & mine.keys() & theirs.keys():
                row, theirs_row = mine[name][k], theirs[name][j]
                if row.shape == theirs_row.shape:
                    row.copy_(theirs_row)
            if isinstance(model.heads[k], Head) and isinstance(parent.heads[j], Head):
                _inherit_head(model.heads[k], parent.heads[j], task, parent.config.tasks[j])
    return set(common)


def _inherit_head(head: torch.nn.Module, parent: torch.nn.Module, task: Task, old: Task) -> None:
    mine, theirs = head.state_dict(), parent.state_dict()
    mine["0.weight"], mine["0.bias"] = theirs["0.weight"], theirs["0.bias"]
    known = {names: row for row, names in enumerate(old.tree.names)}
    for row, names in enumerate(task.tree.names):
        if names in known:
            for name in ("3.weight", "3.bias"):
                mine[name][row] = theirs[name][known[names]]
    head.load_state_dict(mine)
