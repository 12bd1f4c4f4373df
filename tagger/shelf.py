"""Find a model directory by path, or by name on the shelf; its files, and none from elsewhere."""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from tagger.errors import ModelError, closest, listing
from tagger.paths import is_there
from tagger.tree import distinct_ends

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
CHECKPOINT = "checkpoint-"
"""What the folders of an unfinished training begin with."""


def shelf() -> Path:
    """The folder of models that come with tagger."""
    installed = Path(__file__).parent / "models"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "models"


def shipped(name: str) -> Path:
    """The model `name` that comes with tagger, also where a folder here has that name."""
    return shelf() / name


def resolve(name: str | Path) -> Path:
    """A model directory or an export by path, or a model directory by name from the shelf.

    Raises:
        ModelError: neither; the message names what is on the shelf, or says that its training has
            not finished.
    """
    path = Path(name)
    if is_there(path / CONFIG, ModelError) and (path / CONFIG).is_file():
        return path
    on_shelf = shelf() / path
    if len(path.parts) == 1 and (on_shelf / CONFIG).is_file():
        return on_shelf
    if any(path.glob(f"{CHECKPOINT}*")):
        raise ModelError(
            f"{path} is no model yet: its training has not finished",
            f"go on with it: the command that began it, with --out {shlex.quote(str(path))} "
            "--resume",
        )
    names = sorted(p.parent.name for p in shelf().glob(f"*/{CONFIG}"))
    what = f"{path} has no {CONFIG}" if path.is_dir() else f"no such model directory: {path}"
    raise ModelError(
        f"{what}; on the shelf: {listing(names)}.{closest(str(name), names)}",
        "--model takes a path, or one of the names on the shelf",
    )


def short_names(paths: Sequence[Path], taken: Collection[str] = ()) -> list[str]:
    """What to call each of several models: its directory, with as much of the path as tells it
    apart from the others and from the names `taken`.

    >>> short_names([Path("/runs/a/best"), Path("/runs/b/best"), Path("/models/fashion")])
    ['a/best', 'b/best', 'fashion']
    """
    parts = [path.resolve().parts for path in paths]
    ends = distinct_ends([*parts, *((name,) for name in taken)])
    return ["/".join(end) for end in ends[: len(paths)]]


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
