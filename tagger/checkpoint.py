"""Resumable training state: safetensors and JSON, no pickle, never shipped."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from tagger.config import Frozen
from tagger.errors import TrainingError

DIRECTORY = "checkpoint"
_STATE, _TENSORS = "state.json", "tensors.safetensors"


class Epoch(Frozen, frozen=True):
    """One line of the learning curve: mean training loss, mean validation accuracy, seconds.

    `accuracy[view][task]` with the views both, image and title.
    """

    loss: float
    score: float
    accuracy: dict[str, dict[str, float]]
    seconds: float


class State(Frozen, frozen=True):
    """Where a run stands after a whole epoch; `fingerprint` is all that decides its result."""

    fingerprint: dict[str, str]
    history: tuple[Epoch, ...]
    best_epoch: int
    groups: list[list[dict[str, Any]]]


def save(
    run: Path,
    state: State,
    weights: dict[str, Tensor],
    best: dict[str, Tensor],
    optimizers: list[Optimizer],
) -> None:
    """Replace the checkpoint of `run` by this one, in one rename."""
    tensors = {f"weights/{name}": tensor for name, tensor in weights.items()}
    tensors |= {f"best/{name}": tensor for name, tensor in best.items()}
    for i, optimizer in enumerate(optimizers):
        for index, entries in optimizer.state_dict()["state"].items():
            tensors |= {
                f"optimizer/{i}/{index}/{key}": torch.as_tensor(value)
                for key, value in entries.items()
            }
    new, current = run / f".{DIRECTORY}.new", run / DIRECTORY
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    save_file(
        {name: tensor.clone().contiguous() for name, tensor in tensors.items()}, new / _TENSORS
    )
    (new / _STATE).write_bytes(msgspec.json.encode(state))
    old = run / f".{DIRECTORY}.old"
    shutil.rmtree(old, ignore_errors=True)
    if current.exists():
        os.replace(current, old)
    os.replace(new, current)
    shutil.rmtree(old, ignore_errors=True)


def exists(run: Path) -> bool:
    """True if `run` holds a checkpoint to go on from."""
    return any((run / name / _STATE).is_file() for name in (DIRECTORY, f".{DIRECTORY}.old"))


def load(run: Path, fingerprint: dict[str, str]) -> tuple[State, dict[str, Tensor]] | None:
    """The checkpoint of `run`, None where there is none.

    Raises:
        TrainingError: it belongs to a run with other data or settings; the message says which.
    """
    current = run / DIRECTORY
    if not current.is_dir():  # killed between the two renames of save
        current = run / f".{DIRECTORY}.old"
    if not (current / _STATE).is_file():
        return None
    state = msgspec.json.decode((current / _STATE).read_bytes(), type=State)
    other = [key for key, value in fingerprint.items() if state.fingerprint.get(key) != value]
    if other:
        raise TrainingError(
            f"the checkpoint in {run} was made with another {', another '.join(other)}",
            "repeat the command that made it, or choose another --out",
        )
    return state, load_file(current / _TENSORS)


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
    """The tensors saved under `name` ("weights" or "best")."""
    prefix = f"{name}/"
    return {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}


def remove(run: Path) -> None:
    """Delete the checkpoint of a finished run."""
    for name in (DIRECTORY, f".{DIRECTORY}.old", f".{DIRECTORY}.new"):
        shutil.rmtree(run / name, ignore_errors=True)
