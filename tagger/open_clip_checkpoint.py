"""Trained towers as a checkpoint that open_clip itself loads."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from tagger.bundle import Bundle
from tagger.errors import NotExportableError
from tagger.exported import Agreement
from tagger.golden import Arrays
from tagger.quiet import quietly
from tagger.systems.zero_shot import MAX_SCALE, ClipZeroShot
from tagger.towers import OpenClipImageTower, OpenClipTextTower, open_clip_config

WEIGHTS, CONFIG = "open_clip_model.safetensors", "open_clip_config.json"
"""The names that open_clip looks for in a folder, and on the Hugging Face Hub."""
NOT_IN_TOWERS = {"logit_scale", "logit_bias"}
"""Of contrastive training. Only a system that goes on with that has the scale; else both get
open_clip's initial value."""


def write_checkpoint(bundle: Bundle, folder: Path) -> None:
    """Raises:
    NotExportableError: the towers are not open_clip's, or not all of the architecture.
    OSError: `folder` cannot be written.
    """
    name, model = bundle.config.architecture.open_clip, bundle.model
    image, text = model.image_tower, model.text_tower
    if not isinstance(image, OpenClipImageTower) or not isinstance(text, OpenClipTextTower):
        raise NotExportableError(
            f"{bundle.path.name} has towers of its own, which open_clip does not know",
            "choose --format onnx or pt2",
        )
    assert name is not None
    state = _state(name, image, text)
    if isinstance(model, ClipZeroShot):
        state["logit_scale"] = model.logit_scale.detach().clamp(max=math.log(MAX_SCALE))
    (folder / WEIGHTS).write_bytes(save(state, {"format": "pt"}))
    preprocess = bundle.config.preprocess
    document = {
        "model_cfg": open_clip_config(name),
        "preprocess_cfg": {
            "size": [preprocess.height, preprocess.width],
            "mode": "RGB",
            "mean": preprocess.mean,
            "std": preprocess.std,
            "interpolation": preprocess.interpolation,
            "resize_mode": preprocess.resize,
            "fill_color": preprocess.fill,
        },
    }
    (folder / CONFIG).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def compare_embeddings(bundle: Bundle, folder: Path, inputs: Arrays) -> list[Agreement]:
    """What open_clip says with the checkpoint in `folder`, beside what the towers say."""
    import open_clip

    with quietly():
        loaded: Any = open_clip.create_model(f"local-dir:{folder.absolute()}").eval()
    model = bundle.model
    pixels = torch.from_numpy(inputs["pixels"]).permute(0, 3, 1, 2)
    ids, mask = (torch.from_numpy(inputs[name]) for name in ("token_ids", "token_mask"))
    whole = torch.zeros(len(ids), bundle.tokenizer.context_length, dtype=torch.long)
    whole[:, : ids.shape[1]] = ids
    with torch.inference_mode():
        normalised = model.normalise(pixels)
        pairs = {
            "encode_image": (model.image_features(pixels).pooled, loaded.encode_image(normalised)),
            "encode_text": (model.text_tower(ids, mask)[0], loaded.encode_text(whole)),
        }
    return [_agreement(what, ours, theirs) for what, (ours, theirs) in pairs.items()]


def _agreement(what: str, ours: Tensor, theirs: Tensor) -> Agreement:
    difference = (_unit(ours) - _unit(theirs)).abs().max()
    return Agreement(
        compared_on=f"{what} of open_clip",
        num_products=len(ours),
        labels_agree=None,
        confidence_difference=float(difference),
        weight_difference=None,
    )


def _unit(embedding: Tensor) -> Tensor:
    return torch.nn.functional.normalize(embedding.float(), dim=-1)


def _state(name: str, image: OpenClipImageTower, text: OpenClipTextTower) -> dict[str, Tensor]:
    """The towers under the names of open_clip's own class for architecture `name`."""
    import open_clip

    with quietly():
        state: dict[str, Tensor] = open_clip.create_model(name, pretrained_text=False).state_dict()
    prefix = "text." if any(key.startswith("text.") for key in state) else ""
    ours = {
        **{f"visual.{k}": v for k, v in image.visual.state_dict().items()},
        **{f"{prefix}{k}": v for k, v in text.text.state_dict().items()},
    }
    missing = sorted(state.keys() - ours.keys() - NOT_IN_TOWERS)
    if missing or ours.keys() - state.keys():
        raise NotExportableError(
            f"{name} has parts beyond its two towers, such as {missing[:1] or 'others'}, which "
            "tagger does not train",
            "choose --format onnx or pt2",
        )
    return {key: ours.get(key, value).contiguous() for key, value in state.items()}
