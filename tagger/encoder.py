"""Products to answers; each picture and each title passes its tower once while it is remembered."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import PIL
import torch
from torch import Tensor, nn

from tagger.device import no_room
from tagger.feature_cache import FeatureCache
from tagger.images import NUM_THREADS, ImageStatus, Pixels, decode
from tagger.inference import image_features, pictures_at_once
from tagger.memory import Once, Remembered
from tagger.network import Features, Output
from tagger.preprocess import collate_images, collate_tokens
from tagger.runtime import ROUND, TITLE_STEP, BatchAnswers, Inputs, Work, round_up
from tagger.titles import tokens_of
from tagger.version import __version__

if TYPE_CHECKING:
    from tagger.bundle import Bundle

MAX_BYTES = 256 << 20
"""Features of pictures that are remembered, and as much of titles."""
RECENT = 256
"""Decoded pictures that are remembered, for repeats that the network has not seen yet."""


class Encoder:
    """A model with what it remembers, and what `cache` does from earlier runs.

    `num_images` and `num_titles` count what passed the towers. `look` and `read` may be called from
    several threads at a time, `expect` and `answer` from one.
    """

    def __init__(
        self,
        bundle: Bundle,
        cache: FeatureCache | None = None,
        max_bytes: int = MAX_BYTES,
        title_step: int | None = None,
    ) -> None:
        """`title_step`: titles are filled up to multiples of so many tokens; None: as is fastest
        where batches are of titles of one length."""
        self.bundle, self.cache = bundle, cache
        fine = TITLE_STEP if bundle.device.type == "cpu" else ROUND
        self._title_step = title_step or fine
        self.num_images = self.num_titles = 0
        self._most: int | None = None
        """Products that fit into the memory of the device together, once that is known."""
        self._images = Remembered(max_bytes, cache, b"" if cache is None else image_context(bundle))
        # What is stored of a title has its padded length.
        context = b"" if cache is None else text_context(bundle) + bytes([self._title_step])
        self._titles = Remembered(max_bytes, cache, context)
        self._decoded = Once[bytes, tuple[Pixels | None, ImageStatus]](RECENT)
        self._expected: dict[bytes, Pixels] = {}

    @property
    def work(self) -> Work:
        """What has passed the towers so far, and what the cache did."""
        cache = self.cache
        if cache is None:
            return Work(self.num_images, self.num_titles)
        return Work(
            self.num_images, self.num_titles, cache.num_found, cache.num_damaged, cache.trouble
        )

    def look(self, key: bytes, data: bytes) -> tuple[Pixels | None, Features | None, ImageStatus]:
        """Pixels or remembered features of the picture file `data`, and its status."""
        features = self.recall(key)
        if features is not None:
            return None, features, "ok"
        preprocess = self.bundle.config.preprocess
        pixels, status = self._decoded.get(key, lambda: decode(data, preprocess))
        return pixels, None, status

    def recall(self, key: bytes) -> Features | None:
        """What is remembered of a picture."""
        return self._images.get(key)

    def read(self, title: str | None) -> Sequence[int]:
        """Token ids of a title; none of one that cannot be used."""
        return tokens_of([title], self.bundle.tokenizer)[0]

    def padded_length(self, ids: Sequence[int]) -> int:
        """Tokens that a title is filled up to; only titles of one length share a batch."""
        longest = self.bundle.tokenizer.context_length
        return self.bundle.fixed_length or min(
            round_up(max(1, len(ids)), self._title_step), longest
        )

    def expect(self, products: Sequence[Inputs]) -> None:
        """`answer` will be asked about these: until then their pictures fill up batches of others,
        where rows of zeros would stand."""
        for product in products:
            if product.image_key is not None and product.pixels is not None:
                self._expected[product.image_key] = product.pixels

    def answer(self, products: Sequence[Inputs]) -> BatchAnswers:
        """The answers to products of one `padded_length`; equal ones are answered once.

        Where they do not fit into the memory of the device together, half of them is tried, and so
        on; what fits is remembered.

        Raises:
            UsageError: one product alone does not fit.
        """
        keys = [(p.image_key if p.has_image else None, tuple(p.ids)) for p in products]
        distinct = dict(zip(keys, products, strict=True))
        answers = self._answer_as_fits(list(distinct.values()))
        place = {key: row for row, key in enumerate(distinct)}
        rows = [place[key] for key in keys]
        return BatchAnswers(
            {name: logits[rows] for name, logits in answers.logits.items()},
            answers.modality_weights[rows],
        )

    def _answer_as_fits(self, products: Sequence[Inputs]) -> BatchAnswers:
        while True:
            size = min(self._most or len(products), len(products))
            pieces = [products[start : start + size] for start in range(0, len(products), size)]
            try:
                return as_arrays(_joined([self._answer(piece) for piece in pieces]))
            except torch.OutOfMemoryError as error:
                if size == 1:
                    raise no_room(self.bundle.device, "one product") from error
            # Outside of the except clause, whose error still holds the tensors.
            self._most = size // 2
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def _answer(self, products: Sequence[Inputs]) -> Output:
        model, size = self.bundle.model, len(products)
        rows = round_up(size)
        present = torch.zeros(rows, dtype=torch.bool)
        present[:size] = torch.tensor([product.has_image for product in products])
        titles = [tuple(product.ids) for product in products]
        _, mask = self.tokens([*titles, *[()] * (rows - size)])
        image = self.image_features(products)
        text = self.text_features(titles)
        output = model.fuse(
            model.project_image(_filled(image, rows), present.to(self.bundle.device)),
            model.project_text(_filled(text, rows), mask),
        )
        return Output(
            {name: logits[:size] for name, logits in output.logits.items()},
            output.modality_weights[:size],
        )

    def image_features(self, products: Sequence[Inputs]) -> Features:
        """Of each product; zeros where there is no picture."""
        known: dict[bytes, Features] = {}
        fresh: dict[bytes, Pixels] = {}
        for product in products:
            if product.image_key is None or product.image_key in known:
                continue
            self._expected.pop(product.image_key, None)
            features = product.features or self._images.recent(product.image_key)
            if features is not None:
                known[product.image_key] = features
            elif product.pixels is not None:
                fresh[product.image_key] = product.pixels
        if fresh:
            full = round_up(len(fresh), self._pictures_at_once)
            fresh |= self._expected_pictures(full - len(fresh))
            known |= self._images.put(list(fresh), self._encode_images(list(fresh.values())))
            self.num_images += len(fresh)
        keys = [product.image_key if product.has_image else None for product in products]
        rows = [self._no_image if key is None else known[key] for key in keys]
        return _stacked(rows, self.bundle.device)

    def _expected_pictures(self, most: int) -> dict[bytes, Pixels]:
        """Up to `most` of them, which are no longer expected then."""
        chosen: dict[bytes, Pixels] = {}
        while self._expected and len(chosen) < most:
            key = next(iter(self._expected))
            pixels = self._expected.pop(key)
            # One decoded before its features were there may be expected again.
            if self._images.recent(key) is None:
                chosen[key] = pixels
        return chosen

    @cached_property
    def _no_image(self) -> Features:
        """Zeros in the shape of the features of a picture."""
        some = self._encode_images([])
        return Features(torch.zeros_like(some.pooled[0]), torch.zeros_like(some.tokens[0]))

    @property
    def _pictures_at_once(self) -> int:
        """Batches of pictures are filled up to multiples of it."""
        return pictures_at_once(self.bundle.model) or ROUND

    def _encode_images(self, pictures: Sequence[Pixels]) -> Features:
        """One row a picture, and rows that fill the batch up."""
        missing = round_up(max(1, len(pictures)), self._pictures_at_once) - len(pictures)
        pixels, _ = collate_images([*pictures, *[None] * missing], self.bundle.config.preprocess)
        return image_features(self.bundle.model, pixels)

    def tokens(self, rows: Sequence[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
        """ids and mask (n, padded length of the longest)."""
        length = self.padded_length(max(rows, key=len))
        ids, mask = collate_tokens(rows, length, self.bundle.tokenizer.pad_id)
        return ids.to(self.bundle.device), mask.to(self.bundle.device)

    def text_features(self, titles: Sequence[tuple[int, ...]]) -> Features:
        """Of each title, shorter ones filled up with zeros; equal ones are encoded once."""
        keys = [np.array(title, "<i4").tobytes() for title in titles]
        found = {key: self._titles.get(key) for key in dict.fromkeys(keys)}
        known = {key: features for key, features in found.items() if features is not None}
        fresh = {key: ids for key, ids in zip(keys, titles, strict=True) if key not in known}
        by_length: dict[int, list[bytes]] = {}
        for key, ids in fresh.items():
            by_length.setdefault(self.padded_length(ids), []).append(key)
        for equal in by_length.values():
            known |= self._encode_titles({key: fresh[key] for key in equal})
        longest = max(len(known[key].tokens) for key in keys)
        return _stacked([_longer(known[key], longest) for key in keys], self.bundle.device)

    def _encode_titles(self, titles: Mapping[bytes, tuple[int, ...]]) -> Mapping[bytes, Features]:
        """Of titles of one padded length, filled up with absent ones."""
        missing = round_up(len(titles)) - len(titles)
        ids, mask = self.tokens([*titles.values(), *[()] * missing])
        self.num_titles += len(titles)
        return self._titles.put(list(titles), self.bundle.model.text_features(ids, mask))


def image_context(bundle: Bundle) -> bytes:
    """Digest of all that decides what the image tower says of a picture file, but for the file."""
    preprocess = msgspec.json.encode(bundle.config.preprocess)
    return _context(bundle, bundle.model.image_tower, preprocess, PIL.__version__.encode())


def text_context(bundle: Bundle) -> bytes:
    """Digest of all that decides what the text tower says of token ids, but for the ids."""
    reading = bundle.model.read_text.__qualname__.encode()
    return _context(bundle, bundle.model.text_tower, reading)


def _context(bundle: Bundle, tower: nn.Module, *others: bytes) -> bytes:
    # Weights do not tell how they are used: one architecture has GELU where another has QuickGELU.
    others += (msgspec.json.encode(bundle.config.architecture),)
    packages = [f"{name} {version(name)}" for name in ("open_clip_torch", "timm")]
    kernels = torch.backends.cpu.get_cpu_capability()
    versions = "\n".join((__version__, torch.__version__, kernels, *packages))
    with ThreadPoolExecutor(NUM_THREADS) as pool:  # hashing releases the GIL
        weights = list(pool.map(_tensor_digest, tower.state_dict().values()))
    names = "\n".join(tower.state_dict())
    return hashlib.sha256(b"".join((*weights, *others, f"{names}\n{versions}".encode()))).digest()


def _tensor_digest(tensor: Tensor) -> bytes:
    values = tensor.detach().cpu().contiguous()
    header = f"{tensor.device.type} {values.dtype} {values.shape}".encode()
    content = values.flatten().view(torch.uint8).numpy().data
    return hashlib.sha256(header + hashlib.sha256(content).digest()).digest()


def as_arrays(output: Output) -> BatchAnswers:
    """`output` as it leaves torch, in float32."""
    return BatchAnswers(
        {name: logits.float().cpu().numpy() for name, logits in output.logits.items()},
        output.modality_weights.float().cpu().numpy(),
    ).without_overflows()


def _joined(outputs: Sequence[Output]) -> Output:
    if len(outputs) == 1:
        return outputs[0]
    return Output(
        {name: torch.cat([o.logits[name] for o in outputs]) for name in outputs[0].logits},
        torch.cat([o.modality_weights for o in outputs]),
    )


def _longer(features: Features, length: int) -> Features:
    """`features` of one title with tokens of zeros up to `length` of them."""
    return Features(features.pooled, _filled_tensor(features.tokens, length))


def _stacked(rows: Sequence[Features], device: torch.device) -> Features:
    """Those from a cache come from the CPU; where all do, a GPU gets them at once."""
    pooled, tokens = ([row.pooled for row in rows], [row.tokens for row in rows])
    return Features(_stacked_on(device, pooled), _stacked_on(device, tokens))


def _stacked_on(device: torch.device, rows: Sequence[Tensor]) -> Tensor:
    if all(row.device.type == "cpu" for row in rows):
        return torch.stack(list(rows)).to(device)
    return torch.stack([row.to(device) for row in rows])


def _filled(features: Features, rows: int) -> Features:
    return Features(_filled_tensor(features.pooled, rows), _filled_tensor(features.tokens, rows))


def _filled_tensor(tensor: Tensor, rows: int) -> Tensor:
    """`tensor` with rows of zeros up to `rows` of them."""
    missing = tensor.new_zeros(rows - len(tensor), *tensor.shape[1:])
    return torch.cat([tensor, missing])
