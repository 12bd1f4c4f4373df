"""The definition that training starts from: a model directory, or an open_clip architecture."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import msgspec

from tagger.config import Architecture, Config, Preprocess, System, read_config
from tagger.errors import ModelError, UsageError, closest
from tagger.exported import refuse_export
from tagger.shelf import CONFIG, resolve

OPEN_CLIP_RECIPE = "cma-clip-vit-b-32"
"""The definition whose fusion and recipe an architecture named on the command line gets."""


def find_definition(model: str, pretrained: str | None) -> tuple[Path | None, Config]:
    """The folder (None for a bare architecture) and the configuration of `model`.

    Raises:
        ModelError: neither a model directory, nor on the shelf, nor known to open_clip; or an
            export.
    """
    try:
        source = resolve(model)
    except ModelError as error:
        import open_clip

        names = open_clip.list_models()
        if model not in names:
            raise ModelError(
                error.message,
                f"{error.hint}, or an open_clip architecture such as ViT-B-16."
                f"{closest(model, names)}",
            ) from None
        recipe = read_config(resolve(OPEN_CLIP_RECIPE) / CONFIG)
        return None, msgspec.structs.replace(
            recipe,
            architecture=Architecture(open_clip=model),
            preprocess=open_clip_preprocess(model, pretrained),
        )
    refuse_export(source)
    return source, read_config(source / CONFIG)


def with_system(definition: Config, system: str | None) -> Config:
    """`definition` with another system on its towers; None leaves it as it is.

    Raises:
        UsageError: there is no such system.
    """
    if system is None:
        return definition
    try:
        chosen = msgspec.convert(system, System)
    except msgspec.ValidationError:
        names = get_args(System)
        raise UsageError(
            f"there is no system {system!r}.{closest(system, names)}",
            f"choose among: {', '.join(names)}",
        ) from None
    fusion = msgspec.structs.replace(definition.fusion, system=chosen)
    return msgspec.structs.replace(definition, fusion=fusion)


def open_clip_preprocess(name: str, pretrained: str | None) -> Preprocess:
    """How architecture `name` is shown pictures; `pretrained` weights may have a say in it."""
    import open_clip

    from tagger.towers import open_clip_config, open_clip_image_size

    height, width = open_clip_image_size(open_clip_config(name))
    published = open_clip.get_pretrained_cfg(name, pretrained or "") or {}
    given = {
        "resize": published.get("resize_mode"),
        "interpolation": published.get("interpolation"),
        "mean": published.get("mean"),
        "std": published.get("std"),
    }
    chosen = {key: value for key, value in given.items() if value is not None}
    return msgspec.convert({"height": height, "width": width, **chosen}, Preprocess)
