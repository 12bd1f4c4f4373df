"""A model that `tagger export --format onnx` wrote, run by ONNX Runtime; no torch is needed."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tagger import calibration, drift, tokenizer, trained_on
from tagger.calibration import read_calibration
from tagger.config import BATCH_SIZE, read_config
from tagger.errors import ModelError, UsageError
from tagger.exported import (
    GOLDEN,
    MANIFEST,
    MODALITY_WEIGHTS,
    Manifest,
    TitleSpec,
    probabilities_name,
    read_manifest,
)
from tagger.hashes import file_digest
from tagger.images import ImageStatus, Pixels, decode, stacked
from tagger.modalities import View
from tagger.pixel_cache import PixelCache
from tagger.products import Products
from tagger.runtime import NO_WORDS, BatchAnswers, Inputs, Model, Work, round_up
from tagger.scrub import scrub
from tagger.shelf import CARD, CONFIG, refuse_links
from tagger.titles import fill_up, tokens_of
from tagger.tokenizer import ExportedPieces

if TYPE_CHECKING:
    from tagger.network import Features

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
COMPUTED_IN = {"fp32": "float32", "bf16": "float32", "int8": "float32", "fp16": "float16"}
"""By precision of the export: bf16 and int8 are only stored so."""


@dataclass(frozen=True, kw_only=True)
class OnnxModel(Model):
    """A loaded export: one graph from pixels and token ids to probabilities and weights.

    Its logits are the logarithms of these probabilities.
    """

    is_export = True
    manifest: Manifest
    session: Any
    """onnxruntime.InferenceSession, which comes without types."""

    def temperature(self, task: str) -> float:
        """1: the graph has divided by the temperature already."""
        return 1.0

    @property
    def device_type(self) -> str:
        return "cuda" if self.session.get_providers()[0] == CUDA else "cpu"

    @property
    def computed_in(self) -> str:
        return COMPUTED_IN[self.manifest.precision]

    @property
    def versions(self) -> dict[str, str]:
        import onnxruntime

        return {"onnxruntime": str(onnxruntime.__version__)}

    @property
    def title(self) -> TitleSpec:
        """How titles become ids."""
        return self.manifest.title

    @contextmanager
    def answerer(self, cache: Path | None = None) -> Iterator[OnnxAnswerer]:
        assert cache is None, "an export has no towers whose outputs could be kept"
        yield OnnxAnswerer(self)

    def answer_views(
        self,
        products: Products,
        pixels: PixelCache,
        views: Sequence[View],
        words: Mapping[str, frozenset[str]] = NO_WORDS,
    ) -> Iterator[tuple[list[int], dict[View, BatchAnswers]]]:
        for start in range(0, len(products), BATCH_SIZE):
            rows = list(range(start, min(start + BATCH_SIZE, len(products))))
            pictures, titles = pixels.get(rows), products.take(rows).titles
            yield rows, {view: self._view(view, pictures, titles, words) for view in views}

    def _view(
        self,
        view: View,
        pictures: Sequence[Pixels | None],
        titles: Sequence[str | None],
        words: Mapping[str, frozenset[str]],
    ) -> BatchAnswers:
        if view == "scrubbed":
            return self._scrubbed(pictures, titles, words)
        nothing = [None] * len(titles)
        seen = nothing if view == "title" else pictures
        return self.compute(seen, tokens_of(nothing if view == "image" else titles, self.tokenizer))

    def _scrubbed(
        self,
        pictures: Sequence[Pixels | None],
        titles: Sequence[str | None],
        words: Mapping[str, frozenset[str]],
    ) -> BatchAnswers:
        """Each task answered from titles without its own words."""
        names = [task.name for task in self.config.tasks]
        logits = {}
        weights = np.zeros((len(titles), len(names), 2), np.float32)
        for name, own in words.items():
            bare = [None if title is None else scrub(title, own) for title in titles]
            answers = self.compute(pictures, tokens_of(bare, self.tokenizer))
            logits[name] = answers.logits[name]
            weights[:, names.index(name)] = answers.modality_weights[:, names.index(name)]
        return BatchAnswers(logits, weights)

    def padded_length(self, tokens: Sequence[Sequence[int]]) -> int:
        """Ids that the rows of a batch with these `tokens` are filled up to."""
        longest = max(1, *map(len, tokens))
        return self.title.fixed_length or min(round_up(longest), self.title.context_length)

    def compute(
        self, pictures: Sequence[Pixels | None], tokens: Sequence[Sequence[int]]
    ) -> BatchAnswers:
        """The answers to n products; None is an absent picture, no ids are an absent title.

        Raises:
            ModelError: ONNX Runtime cannot run the graph on them.
        """
        size = len(tokens)
        missing = round_up(size) - size
        pixels, present = stacked([*pictures, *[None] * missing], self.config.preprocess)
        ids, mask = fill_up(
            [*tokens, *[()] * missing], self.padded_length(tokens), self.title.pad_id
        )
        outputs = self._run(
            {"pixels": pixels, "image_present": present, "token_ids": ids, "token_mask": mask}
        )
        with np.errstate(divide="ignore"):  # the logarithm of a probability of 0 is what it is
            logits = {
                task.name: np.log(outputs[probabilities_name(task.name)][:size])
                for task in self.config.tasks
            }
        return BatchAnswers(logits, outputs[MODALITY_WEIGHTS][:size]).without_overflows()

    def _run(self, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float32]]:
        names = [spec.name for spec in self.manifest.outputs]
        try:
            return dict(zip(names, self.session.run(names, inputs), strict=True))
        # onnxruntime has no public base class for its errors.
        except Exception as error:
            raise ModelError(
                f"{self.path / self.manifest.graph}: ONNX Runtime failed on a batch of "
                f"{len(inputs['pixels'])} products: {str(error)[:300]}",
                "if memory is short, try a smaller --batch-size, or --device cpu",
            ) from error


class OnnxAnswerer:
    """Labels products with an export; it remembers nothing, because the graph has no parts."""

    def __init__(self, bundle: OnnxModel) -> None:
        self.bundle = bundle
        self._num_images = self._num_titles = 0

    @property
    def work(self) -> Work:
        return Work(self._num_images, self._num_titles)

    def look(self, key: bytes, data: bytes) -> tuple[Pixels | None, Features | None, ImageStatus]:
        pixels, status = decode(data, self.bundle.config.preprocess)
        return pixels, None, status

    def read(self, title: str | None) -> Sequence[int]:
        return tokens_of([title], self.bundle.tokenizer)[0]

    def padded_length(self, ids: Sequence[int]) -> int:
        return self.bundle.padded_length([ids])

    def expect(self, products: Sequence[Inputs]) -> None:
        return

    def answer(self, products: Sequence[Inputs]) -> BatchAnswers:
        self._num_images += sum(product.has_image for product in products)
        self._num_titles += sum(bool(product.ids) for product in products)
        return self.bundle.compute([p.pixels for p in products], [p.ids for p in products])


def load_onnx(path: Path, device: str | None, fp32: bool) -> OnnxModel:
    """The export in the directory `path`, ready to answer. No network, no code but the graph.

    Raises:
        ModelError: it is damaged, not as it was written, or for another runtime.
        UsageError: ONNX Runtime is not installed, or does not offer `device`; `fp32` is asked of an
            export that computes in float16.
    """
    manifest = read_manifest(path)
    if manifest.format != "onnx":
        raise ModelError(
            f"{path} is an export to {manifest.format}, which tagger itself cannot run",
            f"name the model that it was made from ({manifest.source.name}), or export that with "
            "--format onnx",
        )
    if fp32 and COMPUTED_IN[manifest.precision] != "float32":
        raise UsageError(
            f"--fp32: {path} computes in {COMPUTED_IN[manifest.precision]}, whatever it is told",
            "leave --fp32 out, or export the model with --precision fp32",
        )
    _check_files(path, manifest)
    config = read_config(path / CONFIG)
    return OnnxModel(
        path=path,
        config=config,
        tokenizer=_read_tokenizer(path, manifest.title),
        sha256=file_digest(path / MANIFEST),
        calibration=read_calibration(path),
        manifest=manifest,
        session=_open_session(path / manifest.graph, device),
    )


def _check_files(path: Path, manifest: Manifest) -> None:
    """Raises:
    ModelError: a file that decides an answer is not the one that was written, is a link out of the
        directory, or was put there later.
    """
    again = "copy the whole directory again, or export the model again"
    graph = manifest.graph
    for name in (graph, *manifest.files):
        if Path(name).name != name:
            raise ModelError(
                f"{path / MANIFEST}: {name!r} is not a file of its own directory", again
            )
    needed = [graph, CONFIG, tokenizer.FILE_NAME]
    optional = [f"{graph}.data", calibration.FILE_NAME, drift.FILE_NAME, trained_on.FILE_NAME]
    refuse_links(path, [MANIFEST, *needed, *optional])
    for name in [*needed, *(name for name in optional if (path / name).exists())]:
        if name not in manifest.files:
            raise ModelError(f"{path / name} is not among the files of {MANIFEST}", again)
    for name, wanted in manifest.files.items():
        if name in (CARD, GOLDEN):  # for readers; they decide nothing
            continue
        try:
            found = file_digest(path / name)
        except OSError as error:
            raise ModelError(f"{path / name}: {error.strerror}", again) from None
        if found != wanted:
            raise ModelError(
                f"{path / name} is not the file that was exported: its sha256 is {found[:16]}, "
                f"{MANIFEST} says {wanted[:16]}",
                again,
            )


def _read_tokenizer(path: Path, title: TitleSpec) -> ExportedPieces:
    fast = tokenizer.read_fast_tokenizer(path)
    assert fast is not None, "it is among the files that were checked"
    try:
        return ExportedPieces(fast, title.context_length, title.pad_id, title.cleaning)
    except KeyError as error:
        raise ModelError(
            f"{path / MANIFEST}: titles are cleaned by {error}, which this tagger does not know",
            "upgrade tagger: pip install . in the folder of a newer source",
        ) from None


def _open_session(graph: Path, device: str | None) -> Any:
    """Raises:
    UsageError: ONNX Runtime is not installed, or does not offer `device`.
    ModelError: it cannot run the graph.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        raise UsageError(
            f"{graph.parent} is an export, and onnxruntime is not installed",
            "pip install onnxruntime; on a machine with CUDA onnxruntime-gpu",
        )
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Threads that wait for the next operator by spinning take the cores from those that decode:
    # on two cores with other work beside, predict took half as long again.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    wanted = providers(device, onnxruntime.get_available_providers())
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=wanted)
    # onnxruntime has no public base class for its errors.
    except Exception as error:
        raise ModelError(
            f"{graph}: ONNX Runtime {onnxruntime.__version__} cannot run it: {str(error)[:300]}",
            "upgrade it: pip install --upgrade onnxruntime",
        ) from error
    # Where CUDA's libraries are missing, ONNX Runtime goes on without it.
    if device is not None and session.get_providers()[0] != wanted[0][0]:
        raise _no_such(device, [CPU])
    return session


CUDA_OPTIONS: dict[str, int | str] = {"use_tf32": 0, "cudnn_conv_algo_search": "HEURISTIC"}


def providers(device: str | None, offered: Sequence[str]) -> list[tuple[str, dict[str, int | str]]]:
    """What computes, in order of preference, for a device named as torch names it.

    A GPU is to compute in float32 where the graph says so, not in TF32, which has 10 bits; and to
    choose its kernels by rule, not by trying them all for each size of a batch.

    Raises:
        UsageError: another kind of device, or one that ONNX Runtime does not offer.
    """
    named = re.fullmatch(r"(cpu|cuda)(?::(\d+))?", device or ("cuda" if CUDA in offered else "cpu"))
    if named is None or (named[1] == "cuda" and CUDA not in offered):
        raise _no_such(str(device), offered)
    if named[1] == "cpu":
        return [(CPU, {})]
    return [(CUDA, {"device_id": int(named[2] or 0), **CUDA_OPTIONS}), (CPU, {})]


def _no_such(device: str, offered: Sequence[str]) -> UsageError:
    there = "cpu, cuda" if CUDA in offered else "cpu"
    return UsageError(f"--device {device!r}: ONNX Runtime does not offer it", f"it offers: {there}")
