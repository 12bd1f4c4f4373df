"""Find a model directory by path, or by name on the shelf; its files, and none from elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from tagger.errors import ModelError, closest, listing

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"


def shelf() -> Path:
    """The folder of models that come with tagger."""
    installed = Path(__file__).parent / "models"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "models"


def resolve(name: str | Path) -> Path:
    """A model directory or an export by path, or a model directory by name from the shelf.

    Raises:
        ModelError: neither; the message names what is on the shelf.
    """
    path = Path(name)
    if (path / CONFIG).is_file():
        return path
    on_shelf = shelf() / path
    if len(path.parts) == 1 and (on_shelf / CONFIG).is_file():
        return on_shelf
    names = sorted(p.parent.name for p in shelf().glob(f"*/{CONFIG}"))
    what = f"{path} has no {CONFIG}" if path.is_dir() else f"no such model directory: {path}"
    raise ModelError(
        f"{what}; on the shelf: {listing(names)}.{closest(str(name), names)}",
        "--model takes a path, or one of the names on the shelf",
    )


def refuse_links(path: Path, names: Iterable[str]) -> None:
    """A model is what is in its directory: nothing that a link brings in from elsewhere.

    Raises:
        ModelError: one of the files `names` is such a link.
    """
    folder = os.path.realpath(path)
    for name in names:
        target = os.path.realpath(path / name)
        if os.path.commonpath([folder, target]) != folder:
            raise ModelError(
                f"{path / name} is a link out of the model directory, to {target}",
                f"copy the model with its files: cp -rL {path} COPY",
            )
