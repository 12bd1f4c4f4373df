"""The frozen structures behind config.json; they own every default, and reading is strict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from tagger.errors import ModelError
from tagger.tasks import Task, is_plain

FORMAT_VERSION = 1
DEFAULT_MODEL = "fashion"
"""The trained model that `predict` and `eval` take when none is named."""
DEFAULT_ZERO_SHOT = "fashion-zero-shot"
"""The one that `predict` takes when none is named and all tasks come with their labels."""
DEFAULT_DEFINITION = "cma-clip-small"
"""The definition that `train` takes when none is named."""
BATCH_SIZE, GPU_BATCH_SIZE = 64, 512
"""Products that the network sees at once in `predict`."""
PRECISION = 0.9
"""Target of `eval`: of its recall at precision, and of what `--calibrate` promises."""
DELTA = 0.1
"""Chance that a promise of `eval --calibrate` is broken."""
SEPARATOR = " > "
"""Between the names of a path, as Google and Shopify publish them."""

PROMPTS = ("{label}", "a photo of a {label}", "a photo of a product, {task}: {label}")

MOST, MAX_DEPTH, MAX_SEED, MAX_RATE = 1 << 20, 1000, (1 << 32) - 1, 1e6
"""Upper bounds, so that a damaged or hostile file cannot ask for a network without end; of a seed,
so that what is made of it fits into 64 bits, and of a rate into float32."""
Positive = Annotated[int, Meta(ge=1, le=MOST)]
Depth = Annotated[int, Meta(ge=1, le=MAX_DEPTH)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Rate = Annotated[float, Meta(ge=0.0, le=MAX_RATE)]


class Frozen(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all structures: immutable, and an unknown field in the JSON is an error."""


class ConvTower(Frozen, frozen=True):
    """An image tower given by its dimensions: a residual network over 2x2 space-to-depth pixels.

    Stage k has `depths[k]` residual blocks of `widths[k]` channels and halves the resolution
    (the first one excepted). 3x3 convolutions learn far more from 30,000 pictures than patches.
    """

    widths: Annotated[tuple[Positive, ...], Meta(min_length=1)] = (32, 64, 128, 256)
    depths: Annotated[tuple[Depth, ...], Meta(min_length=1)] = (1, 1, 2, 1)

    def __post_init__(self) -> None:
        if len(self.widths) != len(self.depths):
            raise ValueError(f"{len(self.widths)} widths for {len(self.depths)} depths")


class MobileStage(Frozen, frozen=True):
    """`depth` inverted residuals of `width` channels, widened by `expansion` around a depthwise
    convolution of `kernel` x `kernel`; the first one has the stride."""

    width: Positive
    depth: Depth
    kernel: Literal[3, 5] = 3
    stride: Literal[1, 2] = 1
    expansion: Annotated[int, Meta(ge=1, le=16)] = 6


class MobileTower(Frozen, frozen=True):
    """An image tower given by its dimensions: inverted residuals over a stem of stride 2.

    The default is EfficientNet-Lite0 (Tan and Le 2019) without its last layers; weights of it that
    were learned from ImageNet are published, see `--pretrained FILE`.
    """

    stem: Positive = 32
    stages: Annotated[tuple[MobileStage, ...], Meta(min_length=1)] = (
        MobileStage(width=16, depth=1, expansion=1),
        MobileStage(width=24, depth=2, stride=2),
        MobileStage(width=40, depth=2, stride=2, kernel=5),
        MobileStage(width=80, depth=3, stride=2),
        MobileStage(width=112, depth=3, kernel=5),
        MobileStage(width=192, depth=4, stride=2, kernel=5),
        MobileStage(width=320, depth=1),
    )


class TokenTower(Frozen, frozen=True):
    """A text tower given by its dimensions: a transformer over pieces of words.

    `vocabulary_size` bounds the pieces that training learns from the titles, and three special
    ones; `context_length` is the longest title in tokens, the rest is cut. Each piece also knows
    those beside it, as many as fit under a `kernel` of this width; 1: none.
    """

    vocabulary_size: Annotated[int, Meta(ge=4, le=MOST)] = 4000
    context_length: Positive = 32
    kernel: Literal[1, 3, 5] = 1
    width: Positive = 128
    layers: Depth = 2
    heads: Positive = 4
    mlp_ratio: Positive = 2

    def __post_init__(self) -> None:
        _check_heads(self.width, self.heads)


def _check_heads(width: int, heads: int) -> None:
    if width % heads:
        raise ValueError(f"width {width} cannot be divided among {heads} heads")


class Architecture(Frozen, frozen=True):
    """Either `open_clip`, the name of an open_clip architecture, or `text` and one of `image` and
    `mobile`."""

    open_clip: str | None = None
    image: ConvTower | None = None
    mobile: MobileTower | None = None
    text: TokenTower | None = None

    def __post_init__(self) -> None:
        image_towers = (self.image is not None) + (self.mobile is not None)
        given = (self.open_clip is not None, image_towers, self.text is not None)
        if given not in ((True, 0, False), (False, 1, True)):
            raise ValueError(
                "name an open_clip architecture, or give text and one of image and mobile"
            )


System = Literal[
    "cma-clip",
    "cma-clip-without-modality-attention",
    "clip-fine-tuned",
    "clip-zero-shot",
    "coca",
    "embracenet",
    "kaleidobert",
    "mmbt",
    "one-stream",
    "perceiver-io",
    "image-only",
    "title-only",
]
"""How picture and title become one vector per task; `tagger.systems` has them."""


class Fusion(Frozen, frozen=True):
    """What stands on the towers: the `system` that joins them, and the heads.

    `width` is that of the joined tokens and of the vector that each head gets; `layers`, `heads`
    and `mlp_ratio` are those of the system's transformer, where it has one. `dropout` acts on whole
    image tokens and in the heads. `shared_attention`, of cma-clip: one attention vector w per task
    for both modalities, or one for each (readers of the paper disagree). `task_queries`, of
    cma-clip: each task also reads words and places with a query of its own. `latents` are those of
    perceiver-io, `prompts` those of clip-zero-shot: what it asks for a {label} of a {task}.
    """

    system: System = "cma-clip"
    width: Positive = 512
    layers: Depth = 2
    heads: Positive = 8
    mlp_ratio: Positive = 4
    head_width: Positive = 512
    dropout: Share = 0.1
    shared_attention: bool = True
    task_queries: bool = False
    latents: Positive = 64
    prompts: Annotated[tuple[str, ...], Meta(min_length=1)] = PROMPTS

    def __post_init__(self) -> None:
        _check_heads(self.width, self.heads)


class Preprocess(Frozen, frozen=True):
    """Pixels: size, how a picture is fitted into it, and the normalisation of 0..1 values.

    `resize`: `squash` ignores the aspect ratio, `longest` keeps it and pads with the grey level
    `fill` (0..255), `shortest` keeps it and crops the centre. Transparency is laid on `fill`.
    """

    height: Positive = 224
    width: Positive = 224
    resize: Literal["squash", "longest", "shortest"] = "shortest"
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    fill: Annotated[int, Meta(ge=0, le=255)] = 255
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)

    def __post_init__(self) -> None:
        if min(self.std) <= 0:
            raise ValueError(f"std {self.std}: every value must be above 0")


class Training(Frozen, frozen=True):
    """The recipe. Rates are peak learning rates; shares are probabilities per product.

    One step sums three losses: picture and title together (weight 1), the picture alone and the
    title alone. `optimizer` "muon" is for towers trained from scratch: it takes `muon_lr` for the
    weight matrices and AdamW the rest. `class_balance` weighs a label by support ** -class_balance
    (0 none, 1 fully balanced; the mean weight of a product stays 1). With `accumulate` several
    batches make a step; each task's loss is a mean over the labelled products of its batch. With
    `freeze_towers` both towers stay as they are, and of all variation only `scrub` and `mismatch`
    are left. Of a share `mismatch` of the products, picture and title together are shown with one
    of them replaced by that of another product of the batch, the picture as often as the title: so
    that a model learns to notice, and to doubt. Of the words of the titles a share `word_dropout`
    is left out; of those that no label is made of, a share `invented_words` is replaced by ones
    that nobody has heard of, as the brands of tomorrow are. With `weight_average` above 0 it is not
    the weights of the last step that are validated and kept but their running mean, which each step
    moves by 1 - `weight_average` of the way, and by more at first: 9 / (10 + step). In a share
    `cutmix` of the pictures a box is that of another product; the picture alone then teaches the
    labels of both, by their areas. Systems that are trained on pairs do without.
    """

    epochs: Annotated[int, Meta(ge=0, le=MOST)] = 10
    batch_size: Positive = 128
    accumulate: Positive = 1
    freeze_towers: bool = False
    optimizer: Literal["adamw", "muon"] = "adamw"
    lr: Rate = 1e-3
    tower_lr: Rate = 1e-5
    muon_lr: Rate = 0.02
    weight_decay: Rate = 0.05
    warmup: Share = 0.05
    clip_norm: Annotated[float, Meta(gt=0.0)] = 5.0
    weight_average: Share = 0.0
    image_only_weight: Rate = 0.5
    title_only_weight: Rate = 0.5
    label_smoothing: Share = 0.0
    class_balance: Share = 0.1
    word_dropout: Share = 0.1
    invented_words: Share = 0.0
    scrub: Share = 0.3
    mismatch: Share = 0.0
    flip: bool = True
    shift: Share = 0.05
    scale: Share = 0.1
    brightness: Share = 0.1
    erase: Share = 0.0
    cutmix: Share = 0.0
    min_support: Positive = 8
    validation_share: Share = 0.1
    seed: Annotated[int, Meta(ge=0, le=MAX_SEED)] = 0


class Applicability(Frozen, frozen=True):
    """Which tasks do not apply to which products. `task`, a tree, decides by the likeliest leaf;
    `not_for` has per other task the nodes of that tree to which it does not apply, with all below.
    """

    task: str
    not_for: dict[str, tuple[str, ...]] = {}


class Config(Frozen, frozen=True):
    """config.json of a model directory; without tasks it is a definition to train from.

    `weights` is the precision in which matrices are stored. `computes_in` "float32" keeps answers
    from bf16 even where the hardware is faster in it: training says so where they would change
    (`tagger.precision`).
    """

    architecture: Architecture
    fusion: Fusion = Fusion()
    preprocess: Preprocess = Preprocess()
    training: Training = Training()
    tasks: tuple[Task, ...] = ()
    applicability: Applicability | None = None
    weights: Literal["float32", "float16"] = "float32"
    computes_in: Literal["bfloat16", "float32"] = "bfloat16"
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        size = (self.preprocess.height, self.preprocess.width)
        if self.architecture.image is not None and (size[0] % 2 or size[1] % 2):
            raise ValueError(f"preprocess {size[0]}x{size[1]}: this image tower needs even sides")
        names = [task.name for task in self.tasks]
        if len(set(names)) != len(names):
            raise ValueError("tasks: a name occurs twice")
        for task in self.tasks:
            if not task.labels or len(set(task.labels)) != len(task.labels):
                raise ValueError(f"task {task.name!r}: no labels, or one of them twice")
            try:
                _ = task.tree
            except ValueError as error:
                raise ValueError(f"task {task.name!r}: {error}") from None
            if bad := [text for text in (task.name, *task.labels) if not is_plain(text)]:
                raise ValueError(f"task {task.name!r}: control characters in {bad[0]!r}")
        if self.applicability is not None:
            _check_applicability(self.applicability, {task.name: task for task in self.tasks})


def _check_applicability(rule: Applicability, tasks: dict[str, Task]) -> None:
    if rule.task not in tasks:
        raise ValueError(f"applicability: there is no task {rule.task!r}")
    for name, nodes in rule.not_for.items():
        if name not in tasks or name == rule.task:
            raise ValueError(f"applicability: no other task {name!r}")
        ids = tasks[rule.task].label_ids(nodes)
        if unknown := [node for node, i in zip(nodes, ids, strict=True) if i < 0]:
            raise ValueError(f"applicability: {rule.task!r} has no node {unknown[0]!r}")


class _Version(msgspec.Struct):
    """The one field of config.json that is read before all others."""

    format_version: int = FORMAT_VERSION


def read_config(path: Path) -> Config:
    """config.json at `path`, checked field by field.

    Raises:
        ModelError: no such file, not JSON, an unknown field, a wrong type or value, or a
            format version that this tagger does not know; the message says where in the file.
    """
    try:
        data = path.read_bytes()
        version = msgspec.json.decode(data, type=_Version).format_version
        if version != FORMAT_VERSION:
            raise ModelError(
                f"{path}: format_version {version}, this tagger reads {FORMAT_VERSION}",
                "upgrade tagger: pip install . in the folder of a newer source",
            )
        return msgspec.json.decode(data, type=Config)
    except OSError as error:
        raise ModelError(
            f"{path.parent} is not a model directory: {path.name}: {error.strerror}",
            "a model directory holds config.json; see the README, 'The model directory'",
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: {error}", "repair the field, or train the model again") from None


def write_config(config: Config, path: Path) -> None:
    """Write `config` as indented JSON with every default spelled out."""
    text = msgspec.json.format(msgspec.json.encode(config), indent=2)
    path.write_bytes(text + b"\n")
