"""Products to tensors: pictures and titles of a batch decoded, tokenised, collated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from tagger.config import Preprocess
from tagger.images import Pixels
from tagger.tokenizer import Tokenizer

TitleStatus = Literal["ok", "missing", "unreadable"]
"""Whether a product has a usable title; `title_status` of the output."""
TITLE_STATUSES: tuple[TitleStatus, ...] = get_args(TitleStatus)


@dataclass(frozen=True)
class Batch:
    """What the model sees of n products.

    pixels uint8 (n, 3, height, width), zero where absent; image_present bool (n,);
    ids int64 (n, length) and text_mask bool (n, length), False throughout where absent.
    """

    pixels: Tensor
    image_present: Tensor
    ids: Tensor
    text_mask: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        return Batch(
            *(
                tensor.to(device)
                for tensor in (self.pixels, self.image_present, self.ids, self.text_mask)
            )
        )


def title_status(title: str | None) -> TitleStatus:
    """`ok` for a title with a visible character, `unreadable` for one that is not UTF-8."""
    if title is None or not title.strip():
        return "missing"
    try:
        title.encode()
    except UnicodeEncodeError:
        return "unreadable"
    return "ok"


def collate_images(
    images: Sequence[Pixels | None], preprocess: Preprocess
) -> tuple[Tensor, Tensor]:
    """pixels uint8 (n, 3, height, width) and present bool (n,)."""
    pixels = np.zeros((len(images), preprocess.height, preprocess.width, 3), dtype=np.uint8)
    for row, image in enumerate(images):
        if image is not None:
            pixels[row] = image
    present = torch.tensor([image is not None for image in images])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2), present


def collate_titles(
    titles: Sequence[str | None], tokenizer: Tokenizer, fixed_length: int | None
) -> tuple[Tensor, Tensor]:
    """ids int64 (n, length) and mask bool (n, length); length is the longest title of the batch.

    A text tower that must see its whole context asks for `fixed_length`.
    """
    rows = [title if title_status(title) == "ok" else None for title in titles]
    pieces = iter(tokenizer.encode([title for title in rows if title is not None]))
    tokens = [next(pieces) if title is not None else [] for title in rows]
    length = fixed_length or max(1, max((len(ids) for ids in tokens), default=1))
    return collate_tokens(tokens, length, tokenizer.pad_id)


def collate_tokens(
    tokens: Sequence[Sequence[int]], length: int, pad_id: int
) -> tuple[Tensor, Tensor]:
    """ids int64 (n, length), filled up with `pad_id`, and mask bool (n, length), True for tokens.

    In numpy, because this runs for every batch, and assigning row by row is slow in torch.
    """
    ids = np.full((len(tokens), length), pad_id, dtype=np.int64)
    for row, row_ids in enumerate(tokens):
        ids[row, : len(row_ids)] = row_ids
    mask = np.arange(length) < np.array([len(row_ids) for row_ids in tokens])[:, None]
    return torch.from_numpy(ids), torch.from_numpy(mask)


def collate(
    images: Sequence[Pixels | None],
    titles: Sequence[str | None],
    preprocess: Preprocess,
    tokenizer: Tokenizer,
    fixed_length: int | None,
) -> Batch:
    """One batch from decoded pictures and titles; None is an absent modality."""
    pixels, present = collate_images(images, preprocess)
    return Batch(pixels, present, *collate_titles(titles, tokenizer, fixed_length))
