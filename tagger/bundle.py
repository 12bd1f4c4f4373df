"""Load and save a model directory; check versions, tensors, hashes."""

from __future__ import annotations

import hashlib
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer as FastTokenizer
from torch import Tensor

from tagger import calibration
from tagger import tokenizer as tokens
from tagger.calibration import Calibration
from tagger.config import Config, TokenTower, read_config, write_config
from tagger.encoder import Encoder, as_arrays
from tagger.errors import ModelError, OutputError, listing
from tagger.exported import refuse_export
from tagger.feature_cache import opened
from tagger.hashes import file_digest
from tagger.modalities import View
from tagger.network import Network
from tagger.output import RESUME, cannot_write, publish
from tagger.pixel_cache import PixelCache
from tagger.products import Products
from tagger.runtime import NO_WORDS, BatchAnswers, Model
from tagger.shelf import CARD, CONFIG, refuse_links, resolve
from tagger.shelf import WEIGHTS as WEIGHTS
from tagger.systems import build_network
from tagger.tokenizer import ClipPieces, LearnedPieces, Tokenizer
from tagger.towers import open_clip_config
from tagger.views import predict_views

FILES = (CONFIG, tokens.FILE_NAME, WEIGHTS, calibration.FILE_NAME)
"""The files that decide what a model answers; the calibration may be absent."""


@dataclass(frozen=True, kw_only=True)
class Bundle(Model):
    """A loaded model directory: the network in eval mode with all it needs to read products."""

    is_export = False
    model: Network

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return self.model.device

    @property
    def device_type(self) -> str:
        return self.device.type

    @property
    def computed_in(self) -> str:
        towers = (self.model.image_tower, self.model.text_tower)
        half = any(p.dtype == torch.bfloat16 for tower in towers for p in tower.parameters())
        return "bfloat16" if half else str(self.model.image_dtype).removeprefix("torch.")

    @property
    def versions(self) -> dict[str, str]:
        return {name: version(name) for name in ("torch", "open_clip_torch")}

    @property
    def fixed_length(self) -> int | None:
        """Title length in tokens that the text tower insists on, if it does."""
        return self.model.text_tower.fixed_length

    @contextmanager
    def answerer(self, cache: Path | None = None) -> Iterator[Encoder]:
        with opened(cache) as features:
            yield Encoder(self, features)

    def answer_views(
        self,
        products: Products,
        pixels: PixelCache,
        views: Sequence[View],
        words: Mapping[str, frozenset[str]] = NO_WORDS,
    ) -> Iterator[tuple[list[int], dict[View, BatchAnswers]]]:
        for rows, outputs in predict_views(
            self.model, self.tokenizer, products, pixels, self.device, views, words
        ):
            yield rows, {view: as_arrays(output) for view, output in outputs.items()}


def load(name: str | Path, device: torch.device | None = None) -> Bundle:
    """The trained model at `name`, ready to predict. No network, no pickle.

    Raises:
        ModelError: not a model directory, only a definition, or files that do not fit together.
    """
    path = resolve(name)
    refuse_export(path)
    refuse_links(path, FILES)
    config = read_config(path / CONFIG)
    if not (path / WEIGHTS).is_file():
        quoted = shlex.quote(str(name))
        raise ModelError(
            f"{path} is a definition without weights ({WEIGHTS})",
            f"train it: tagger train CATALOG --tasks ... --model {quoted} --out DIR",
        )
    tokenizer = load_tokenizer(path, config)
    _check_shapes(config, path / WEIGHTS)
    with torch.device("cpu"):
        model = build_network(config)
    model.load_state_dict(_read_weights(path / WEIGHTS))
    # Nothing trains what is loaded, and without gradients inference keeps no graph in memory.
    model = model.to(device or torch.device("cpu")).eval().requires_grad_(False)
    return Bundle(
        path=path,
        config=config,
        model=model,
        tokenizer=tokenizer,
        sha256=digest(path),
        calibration=_read_calibration(path, config),
    )


def _read_calibration(path: Path, config: Config) -> Calibration | None:
    """Raises:
    ModelError: it is damaged, or was fitted on other weights or tasks.
    """
    read = calibration.read_calibration(path)
    if read is None:
        return None
    strangers = read.tasks.keys() - {task.name for task in config.tasks}
    if strangers or read.weights_sha256 != file_digest(path / WEIGHTS):
        raise ModelError(
            f"{path / calibration.FILE_NAME} belongs to other weights",
            "delete it, or calibrate again: tagger eval LABELLED --tasks ... --calibrate",
        )
    return read


def load_tokenizer(path: Path, config: Config) -> Tokenizer:
    """The tokenizer of a trained model, or the one that a definition comes with.

    Raises:
        ModelError: the tower needs a tokenizer.json that is not there, or it does not fit.
    """
    text = config.architecture.text
    if text is None:
        return open_clip_tokenizer(config.architecture.open_clip or "")
    fast = tokens.read_fast_tokenizer(path)
    if fast is None:
        raise ModelError(f"{path} has no {tokens.FILE_NAME}", "train the model again")
    return _learned_pieces(path, fast, text)


def open_clip_tokenizer(name: str) -> Tokenizer:
    """CLIP's tokenizer, with the context length of architecture `name`.

    Raises:
        ModelError: the architecture has another tokenizer (SigLIP), which is not in open_clip.
    """
    text_config = open_clip_config(name)["text_cfg"]
    if "hf_tokenizer_name" in text_config or "siglip" in name.lower():
        source = text_config.get("hf_tokenizer_name") or "one of Google's"
        raise ModelError(
            f"{name} reads titles with another tokenizer than CLIP's ({source}), which open_clip "
            "does not carry",
            "choose an architecture with CLIP's tokenizer, such as ViT-B-16 or coca_ViT-B-32",
        )
    return ClipPieces(int(text_config.get("context_length", 77)))


def save(path: Path, config: Config, model: Network, tokenizer: Tokenizer, card: str) -> None:
    """Write a model directory; the file that makes it loadable comes last.

    Matrices are stored as `config.weights` says, vectors always as float32.

    Raises:
        DiskFullError, OutputError: it cannot be written.
    """
    dtype = getattr(torch, config.weights)
    state = {
        name: (tensor.to(dtype) if tensor.ndim >= 2 else tensor).contiguous().cpu()
        for name, tensor in model.state_dict().items()
    }
    broken = [name for name, tensor in state.items() if not bool(tensor.isfinite().all())]
    if broken:
        raise OutputError(
            f"{listing(broken, 3)} hold values that {config.weights} cannot store",
            "train with a lower --lr, or set weights to float32 in config.json",
        )
    try:
        path.mkdir(parents=True, exist_ok=True)
        (path / CARD).write_text(card, encoding="utf-8")
        tokenizer.save(path)
        write_config(config, path / CONFIG)
        temporary = path / f".{WEIGHTS}.partial"
        save_file(state, temporary, {"format": "pt"})
        # safetensors makes it readable by its owner alone; a cron user must read it too.
        shutil.copymode(path / CARD, temporary)
        publish(temporary, path / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise cannot_write(path, error, RESUME) from error


def _learned_pieces(path: Path, fast: FastTokenizer, text: TokenTower) -> LearnedPieces:
    pieces = LearnedPieces(fast, text.context_length)
    if pieces.vocabulary_size > text.vocabulary_size:
        raise ModelError(
            f"{path / tokens.FILE_NAME} has {pieces.vocabulary_size} pieces, {CONFIG} says "
            f"{text.vocabulary_size}",
            "the two files are of different models; train again",
        )
    return pieces


def _check_shapes(config: Config, path: Path) -> None:
    """Every tensor must be there, none more, each of its shape; read from the header of the file,
    before memory is asked for what a damaged or hostile `config` says.
    """
    with torch.device("meta"):
        expected = {name: list(t.shape) for name, t in build_network(config).state_dict().items()}
    try:
        with safe_open(path, "pt") as file:
            there = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from error
    missing, extra = sorted(expected.keys() - there.keys()), sorted(there.keys() - expected.keys())
    wrong = sorted(n for n in expected.keys() & there.keys() if expected[n] != there[n])
    for what, names in (("lacks", missing), ("has unknown", extra), ("has misshapen", wrong)):
        if names:
            raise ModelError(
                f"{path} {what} tensors for this {CONFIG}: {listing(names, 3)}",
                "the two files are of different models; copy or train the model again",
            )


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        state: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from error
    for name, tensor in state.items():
        if not bool(tensor.isfinite().all()):
            raise _damaged(path, f"{name} holds values that are not finite")
    return state


def _damaged(path: Path, why: object) -> ModelError:
    return ModelError(f"{path} is damaged: {why}", "copy or train the model again")


def digest(path: Path) -> str:
    """sha256 over all FILES that decide an answer: two models that differ anywhere differ here."""
    total = hashlib.sha256()
    for name in FILES:
        if (path / name).is_file():
            total.update(bytes.fromhex(file_digest(path / name)))
    return total.hexdigest()
