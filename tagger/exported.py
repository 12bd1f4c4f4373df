"""The directory that `tagger export` writes: its files, its tensors, its manifest."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Literal

import msgspec

from tagger.config import Config, Frozen
from tagger.errors import ModelError

MANIFEST, GOLDEN = "export.json", "golden.safetensors"
FORMAT_VERSION = 1
MODALITY_WEIGHTS = "modality_weights"

Format = Literal["onnx", "pt2", "aoti", "open_clip"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]

GRAPHS = {"onnx": "model.onnx", "pt2": "model.pt2", "aoti": "model.aoti.pt2"}
"""The file of the graph by format."""


class TensorSpec(Frozen, frozen=True, kw_only=True):
    """An input or output of the graph; `shape` has numbers, and names of sizes that may vary."""

    name: str
    dtype: Literal["uint8", "bool", "int64", "float32"]
    shape: tuple[int | str, ...]
    meaning: str


class TitleSpec(Frozen, frozen=True, kw_only=True):
    """Titles to ids: `cleaning`, then tokenizer.json, which cuts to `context_length` ids.

    Rows of a batch are filled up with `pad_id`, to `fixed_length` ids if the graph asks for that,
    otherwise to the longest.
    """

    context_length: int
    fixed_length: int | None
    pad_id: int
    cleaning: tuple[str, ...]


class Agreement(Frozen, frozen=True, kw_only=True):
    """How an export compares with its source on `num_products`.

    `labels_agree` is the share of equal labels over all tasks and all products that have a picture
    or a title. The differences are the largest absolute ones, of all probabilities and of all
    modality weights. Of towers alone there is only `confidence_difference`: that of any number of
    the unit embeddings.
    """

    compared_on: str
    num_products: int
    labels_agree: float | None
    confidence_difference: float
    weight_difference: float | None


class Limits(Frozen, frozen=True, kw_only=True):
    """What an `Agreement` must keep: the least share of equal labels, the largest difference."""

    labels_agree: float
    difference: float


class Source(Frozen, frozen=True, kw_only=True):
    """The model directory that was exported: its name, one hash of all that decides an answer, and
    the hashes of its files."""

    name: str
    sha256: str
    files: dict[str, str]


class Manifest(Frozen, frozen=True, kw_only=True):
    """export.json; tasks with their labels and the preprocessing of pictures are in config.json.

    `files` are the sha256 of all other files of the directory.
    """

    format_version: int = FORMAT_VERSION
    tagger_version: str
    format: Format
    precision: Precision
    graph: str
    source: Source
    title: TitleSpec
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    limits: Limits
    agreement: tuple[Agreement, ...]
    files: dict[str, str]


def read_manifest(directory: Path) -> Manifest:
    """export.json of an exported directory.

    Raises:
        ModelError: it is damaged, or of another format.
    """
    path = directory / MANIFEST
    try:
        data = path.read_bytes()
        version = msgspec.json.decode(data, type=_Version).format_version
        if version != FORMAT_VERSION:
            raise ModelError(
                f"{path}: format_version {version}, this tagger reads {FORMAT_VERSION}",
                "upgrade tagger, or export the model again",
            )
        return msgspec.json.decode(data, type=Manifest)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: {error}", "copy it, or export the model, again") from None


class _Version(msgspec.Struct):
    """The one field of export.json that is read before all others."""

    format_version: int


def refuse_export(directory: Path) -> None:
    """Raises:
    ModelError: `directory` is an export, which holds no weights that can be loaded or trained.
    """
    if (directory / MANIFEST).is_file():
        raise ModelError(
            f"{directory} is an export, and the network itself is asked for",
            f"name the model that it was made from; `source` in its {MANIFEST} tells which",
        )


def limits(precision: Precision) -> Limits:
    """What an export in that precision must keep to be published."""
    if precision == "fp32":
        return Limits(labels_agree=1.0, difference=1e-4)
    return Limits(labels_agree=0.995, difference=1e-2)


def probabilities_name(task: str) -> str:
    """The output with the probabilities of a task."""
    return f"{task}_probabilities"


def input_specs(config: Config, title: TitleSpec) -> tuple[TensorSpec, ...]:
    """What the graph takes, in order."""
    height, width = config.preprocess.height, config.preprocess.width
    length = title.fixed_length or "length"
    return (
        TensorSpec(
            name="pixels",
            dtype="uint8",
            shape=("batch", height, width, 3),
            meaning="red, green, blue of each pixel, 0..255, rows from the top; anything where "
            "there is no picture",
        ),
        TensorSpec(
            name="image_present",
            dtype="bool",
            shape=("batch",),
            meaning="whether the product has a picture",
        ),
        TensorSpec(
            name="token_ids",
            dtype="int64",
            shape=("batch", length),
            meaning=f"the title, filled up with {title.pad_id}; length is 1 to "
            f"{title.context_length}",
        ),
        TensorSpec(
            name="token_mask",
            dtype="bool",
            shape=("batch", length),
            meaning="true for the ids of the title, first in their row; false throughout where "
            "there is no title",
        ),
    )


def output_specs(config: Config, calibrated: Collection[str]) -> tuple[TensorSpec, ...]:
    """What the graph gives, in order; to the tasks `calibrated` with their temperature."""
    probabilities = [
        TensorSpec(
            name=probabilities_name(task.name),
            dtype="float32",
            shape=("batch", len(task.labels)),
            meaning=("calibrated, " if task.name in calibrated else "")
            + "0..1, rows sum to 1; in the order of the labels in config.json; the largest is the "
            "confidence",
        )
        for task in config.tasks
    ]
    weights = TensorSpec(
        name=MODALITY_WEIGHTS,
        dtype="float32",
        shape=("batch", len(config.tasks), 2),
        meaning="how much the picture and the title weighed, 0..1; tasks in the order of "
        "config.json; each pair sums to 1, an absent modality weighs exactly 0; (0, 0) for a "
        "product with neither, whose probabilities say nothing; NaN twice where the model cannot "
        "tell",
    )
    return (*probabilities, weights)
