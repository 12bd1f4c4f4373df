"""A model ready to answer, by the kind of its directory: the one place that knows both kinds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tagger.exported import MANIFEST
from tagger.prompting import with_labels
from tagger.runtime import Model
from tagger.shelf import resolve


def load_model(
    name: str | Path,
    device: str | None,
    fp32: bool,
    labels: Mapping[str, Sequence[str]] | None = None,
) -> Model:
    """The model or export at `name`, or of that name on the shelf.

    What an export needs is imported for an export alone, and the other way round: a machine that
    runs exports has no torch.

    `labels` are those of tasks that it was not trained on: see `with_labels`.

    Raises:
        ModelError: no such model, a damaged one, an export for another runtime, or one that only
            knows labels that it has learned.
        UsageError: a device that is not there, a package that is not installed, or `fp32` of an
            export that computes in another type.
    """
    path = resolve(name)
    if (path / MANIFEST).is_file():
        from tagger.onnx_model import load_onnx

        model: Model = load_onnx(path, device, fp32)
        return model if labels is None else with_labels(model, labels)
    from tagger.bundle import load
    from tagger.device import choose_device
    from tagger.inference import speed_up

    bundle = load(path, choose_device(device))
    speed_up(bundle.model, fp32 or bundle.config.computes_in == "float32")
    return bundle if labels is None else with_labels(bundle, labels)
