"""Products to tensors: pictures and titles of a batch, collated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tagger.config import Preprocess
from tagger.images import Pixels, stacked
from tagger.titles import fill_up, tokens_of
from tagger.tokenizer import Tokenizer


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


def collate_images(
    images: Sequence[Pixels | None], preprocess: Preprocess
) -> tuple[Tensor, Tensor]:
    """pixels uint8 (n, 3, height, width) and present bool (n,)."""
    pixels, present = stacked(images, preprocess)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.from_numpy(present)


def collate_titles(
    titles: Sequence[str | None], tokenizer: Tokenizer, fixed_length: int | None
) -> tuple[Tensor, Tensor]:
    """ids int64 (n, length) and mask bool (n, length); length is the longest title of the batch.

    A text tower that must see its whole context asks for `fixed_length`.
    """
    tokens = tokens_of(titles, tokenizer)
    length = fixed_length or max(1, max((len(ids) for ids in tokens), default=1))
    return collate_tokens(tokens, length, tokenizer.pad_id)


def collate_tokens(
    tokens: Sequence[Sequence[int]], length: int, pad_id: int
) -> tuple[Tensor, Tensor]:
    """ids int64 (n, length) and mask bool (n, length), as `fill_up` makes them."""
    ids, mask = fill_up(tokens, length, pad_id)
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
