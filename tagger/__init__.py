"""tagger: labels product catalogs from pictures and titles.

>>> import tagger
>>> tagger.load("fashion").predict(dataframe)          # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tagger.config import DEFAULT_MODEL
from tagger.errors import TaggerError
from tagger.version import __version__

if TYPE_CHECKING:
    from tagger.predict import Tagger

__all__ = ["TaggerError", "__version__", "load"]


def load(
    model: str | Path | None = None,
    device: str | None = None,
    fp32: bool = False,
    labels: Mapping[str, Sequence[str]] | None = None,
) -> Tagger:
    """A trained model by path or by name from the shelf, or an ONNX export, ready to predict;
    None is the default model.

    Open_clip's and residual towers compute in bf16 where the hardware does, unless `fp32` is asked
    for or the model's config.json says `computes_in` float32; a mobile tower, as that of `fashion`,
    in float32; an export in the type that it was made with.
    With open_clip's towers on a CPU, the process keeps the memory that it once had; on a GPU, its
    convolutions in float32 no longer compute in TF32. `labels` are
    those of tasks that nobody has labelled yet, for a contrastively trained model: {"neckline":
    ("v-neck", "crew neck")}.

    Raises:
        ModelError: no such model, a damaged one, or one that needs to learn labels.
        UsageError: a device that is not there, a package that is not installed, `fp32` of an export
            that computes otherwise, or `labels` that make no choice or
            whose task has no usable name.
    """
    from tagger.loading import load_model
    from tagger.predict import Tagger
    from tagger.shelf import shipped

    return Tagger(load_model(model or shipped(DEFAULT_MODEL), device, fp32, labels))
