"""Resumable training state: safetensors and JSON, no pickle, never shipped."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from tagger.config import Frozen
from tagger.errors import TrainingError
from tagger.metrics import mean_of_known
from tagger.output import RESUME, cannot_write, sync_folder
from tagger.shelf import CHECKPOINT

_UNFINISHED, _FEATURES = ".checkpoint.new", ".features"
_STATE, _TENSORS = "state.json", "tensors.safetensors"


class Epoch(Frozen, frozen=True):
    """One line of the learning curve: mean training loss (None for a model as it came), mean
    validation accuracy, seconds.

    `accuracy[view][task]` with the views both, image and title; None for a task without labels.
    """

    loss: float | None
    score: float
    accuracy: dict[str, dict[str, float | None]]
    seconds: float


def mean(accuracies: Iterable[float | None]) -> float:
    """Mean of those that there are, 0 if there are none."""
    return mean_of_known(accuracies) or 0.0


class State(Frozen, frozen=True):
    """Where a run stands after a whole epoch; `fingerprint` is all that decides its result."""

    fingerprint: dict[str, str]
    history: tuple[Epoch, ...]
    best_epoch: int
    groups: list[list[dict[str, Any]]]


def save(
    run: Path,
    state: State,
    weights: dict[str, dict[str, Tensor]],
    optimizers: list[Optimizer],
) -> None:
    """Add a checkpoint to `run`, with sets of `weights` by name, then delete the older ones.

    It is written beside and appears in one rename, so that a kill at any moment leaves a whole one.

    Raises:
        DiskFullError, OutputError: it cannot be written.
    """
    tensors = {
        f"{part}/{name}": tensor
        for part, tensors_of in weights.items()
        for name, tensor in tensors_of.items()
    }
    for i, optimizer in enumerate(optimizers):
        for index, entries in optimizer.state_dict()["state"].items():
            tensors |= {
                f"optimizer/{i}/{index}/{key}": torch.as_tensor(value)
                for key, value in entries.items()
            }
    older = _checkpoints(run)
    new = run / _UNFINISHED
    try:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        copies = {name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}
        save_file(copies, new / _TENSORS)
        (new / _STATE).write_bytes(msgspec.json.encode(state))
        for name in (_TENSORS, _STATE):
            with open(new / name, "rb+") as file:
                os.fsync(file.fileno())
        os.replace(new, run / f"{CHECKPOINT}{len(state.history):05}")
        sync_folder(run)
    except (OSError, SafetensorError) as error:
        raise cannot_write(run, error, RESUME) from error
    for path in older:
        shutil.rmtree(path, ignore_errors=True)


def exists(run: Path) -> bool:
    """True if `run` holds a checkpoint to go on from."""
    return bool(_checkpoints(run))


def load(run: Path, fingerprint: dict[str, str]) -> tuple[State, dict[str, Tensor]] | None:
    """The newest checkpoint of `run`, None where there is none.

    Raises:
        TrainingError: it is damaged, or belongs to a run with other data or settings; the message
            says which.
    """
    found = _checkpoints(run)
    if not found:
        return None
    try:
        state = msgspec.json.decode((found[-1] / _STATE).read_bytes(), type=State)
        tensors = load_file(found[-1] / _TENSORS)
    except (OSError, msgspec.DecodeError, SafetensorError) as error:
        raise TrainingError(
            f"{found[-1]} is damaged: {error}", "delete the folder of the run and start anew"
        ) from error
    other = [
        _difference(key, state.fingerprint.get(key), value)
        for key, value in fingerprint.items()
        if state.fingerprint.get(key) != value
    ]
    if other:
        raise TrainingError(
            f"the checkpoint in {run} was made with another {', another '.join(other)}",
            "repeat the command that made it, or choose another --out",
        )
    return state, tensors


def _difference(key: str, theirs: str | None, ours: str) -> str:
    """`key` of a fingerprint, with what differs of it as far as that can be read."""
    if key == "configuration" and theirs is not None:
        before, now = (_leaves(msgspec.json.decode(text)) for text in (theirs, ours))
        names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
        return f"{key} ({'; '.join(_change(n, before.get(n), now.get(n)) for n in names)})"
    if key in ("training catalog", "validation catalog", "start"):  # hashes tell nobody anything
        return key
    return f"{key} ({theirs}, now {ours})"


def _leaves(value: object, name: str = "") -> dict[str, object]:
    """Every value below `value` that is no object, by its place: training.lr."""
    if not isinstance(value, dict):
        return {name: value}
    places = ((f"{name}.{key}" if name else key, below) for key, below in value.items())
    return {leaf: v for place, below in places for leaf, v in _leaves(below, place).items()}


def _change(name: str, before: object, now: object) -> str:
    """Numbers and names are told, what is longer (tasks with their labels) only named."""
    told = not isinstance(before, list) and not isinstance(now, list)
    return f"{name}: {before}, now {now}" if told else name


def restore(state: State, tensors: dict[str, Tensor], optimizers: list[Optimizer]) -> None:
    """Put the optimizers back to where `state` left them."""
    for i, optimizer in enumerate(optimizers):
        entries: dict[int, dict[str, Tensor]] = {}
        prefix = f"optimizer/{i}/"
        for name, tensor in tensors.items():
            if name.startswith(prefix):
                index, key = name.removeprefix(prefix).split("/")
                entries.setdefault(int(index), {})[key] = tensor
        optimizer.load_state_dict({"state": entries, "param_groups": state.groups[i]})


def part(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The set of weights saved under `name`; empty if there is none."""
    prefix = f"{name}/"
    return {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}


def remove(run: Path) -> None:
    """Delete the checkpoints of a finished run."""
    whole = list(run.glob(f"{CHECKPOINT}*/{_STATE}"))
    # First what makes them whole: a kill in between leaves no damaged one.
    for state in whole:
        state.unlink(missing_ok=True)
    for state in whole:
        shutil.rmtree(state.parent, ignore_errors=True)
    remove_leftovers(run)


def remove_leftovers(run: Path) -> None:
    """Delete all of a run but its whole checkpoints."""
    for path in leftovers(run):
        shutil.rmtree(path, ignore_errors=True)


def leftovers(run: Path) -> list[Path]:
    """What a killed run may have left in `run` besides its whole checkpoints: also some that it was
    deleting. A folder of such a name with anything else in it is another program's."""
    half = [
        path
        for path in run.glob(f"{CHECKPOINT}*")
        if path.is_dir() and {file.name for file in path.iterdir()} <= {_TENSORS}
    ]
    return [*half, *(path for path in (run / _UNFINISHED, features(run)) if path.exists())]


def features(run: Path) -> Path:
    """Where an unfinished run keeps what its frozen towers said."""
    return run / _FEATURES


def _checkpoints(run: Path) -> list[Path]:
    """The whole checkpoints in `run`, oldest first."""
    return sorted(path for path in run.glob(f"{CHECKPOINT}*") if (path / _STATE).is_file())
