"""Titles of a batch: which can be used, and their token ids as one array."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tagger.tokenizer import Tokenizer

TitleStatus = Literal["ok", "missing", "unreadable"]
"""Whether a product has a usable title; `title_status` of the output."""
TITLE_STATUSES: tuple[TitleStatus, ...] = get_args(TitleStatus)


def title_status(title: str | None) -> TitleStatus:
    """`ok` for a title with a visible character, `unreadable` for one that is not UTF-8."""
    if title is None or not title.strip():
        return "missing"
    try:
        title.encode()
    except UnicodeEncodeError:
        return "unreadable"
    return "ok"


def tokens_of(titles: Sequence[str | None], tokenizer: Tokenizer) -> list[list[int]]:
    """Token ids per title; none of one that cannot be used."""
    usable = [title for title in titles if title is not None and title_status(title) == "ok"]
    pieces = iter(tokenizer.encode(usable))
    return [next(pieces) if title_status(title) == "ok" else [] for title in titles]


def fill_up(
    tokens: Sequence[Sequence[int]], length: int, pad_id: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """ids (n, length), filled up with `pad_id`, and mask (n, length), True for tokens.

    In numpy, because this runs for every batch, and assigning row by row is slow in torch.
    """
    ids = np.full((len(tokens), length), pad_id, dtype=np.int64)
    for row, row_ids in enumerate(tokens):
        ids[row, : len(row_ids)] = row_ids
    mask = np.arange(length) < np.array([len(row_ids) for row_ids in tokens])[:, None]
    return ids, mask
