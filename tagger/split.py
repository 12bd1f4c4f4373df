"""A validation split that keeps near-duplicate titles on one side."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from tagger.scrub import words_of


def validation_rows(
    titles: Sequence[str | None],
    images: Sequence[str | None],
    share: float,
    seed: int,
    ignored: frozenset[str],
) -> list[bool]:
    """True for the products of the validation part, about `share` of them.

    Titles that differ only in digits, case, punctuation, word order or `ignored` words (those of
    the labels: the same shirt in another color) fall on the same side. A product without a title
    goes by its image path. The choice depends on the product and the seed, not on its position.
    """
    return [
        _unit_hash(_key(title, image, ignored), seed) < share
        for title, image in zip(titles, images, strict=True)
    ]


def _key(title: str | None, image: str | None, ignored: frozenset[str]) -> str:
    words = sorted({w for w in words_of(title or "") if w.isalpha() and w not in ignored})
    return " ".join(words) if words else f"image {image}"


def _unit_hash(key: str, seed: int) -> float:
    digest = hashlib.blake2b(f"{seed}\0{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
