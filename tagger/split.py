"""A validation split that keeps near-duplicate titles on one side."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

from tagger.scrub import words_of

HELD_BACK, NEW, LEARNED = range(3)
"""What an earlier model did with a product: was validated on it, never saw it, learned from it."""


def validation_rows(
    titles: Sequence[str | None],
    images: Sequence[str | bytes | None],
    share: float,
    seed: int,
    ignored: frozenset[str],
    past: Sequence[int] | None = None,
) -> list[bool]:
    """True for the products of the validation part, about `share` of them.

    Titles that differ only in digits, case, punctuation, word order or `ignored` words (those of
    the labels: the same shirt in another color) fall on the same side. A product without a title,
    or with one of such words alone ("Blue Shirt" tells no product from another), goes by its
    picture, and products of one picture, too, fall on the same side. The choice
    depends on the products and the seed, not on their order. A group of near-duplicates too large
    for the share stays in training; of a catalog that is one such group nothing is chosen. With the
    `past` of each product, those that were HELD_BACK before come first, of NEW ones only their own
    share is taken, so that they are learned, and those that were LEARNED from fill up what is left.
    """
    keys = _groups(titles, images, ignored)
    sizes = Counter(keys)
    stages = _stages(keys, [NEW] * len(keys) if past is None else past)
    room = round(share * len(keys))
    rooms = [room, round(share * sum(stages[key] == NEW for key in keys)), room]
    chosen: set[str] = set()
    for key in sorted(sizes, key=lambda key: (stages[key], _hash(key, seed))):
        if sizes[key] <= min(room, rooms[stages[key]]):
            chosen.add(key)
            room -= sizes[key]
            rooms[stages[key]] -= sizes[key]
    return [key in chosen for key in keys]


def _stages(keys: Sequence[str], past: Sequence[int]) -> dict[str, int]:
    """The past of each group: that of its products, LEARNED if one was."""
    stages: dict[str, int] = {}
    for key, one in zip(keys, past, strict=True):
        met = stages.get(key, one)
        stages[key] = LEARNED if LEARNED in (one, met) else min(one, met)
    return stages


def _groups(
    titles: Sequence[str | None], images: Sequence[str | bytes | None], ignored: frozenset[str]
) -> list[str]:
    """One key per product, equal for those that a shared title or picture ties together."""
    parents: dict[str, str] = {}

    def root(key: str) -> str:
        while parents.setdefault(key, key) != key:
            # Halving the way, or long chains would be climbed again for every product.
            parents[key] = parents[parents[key]]
            key = parents[key]
        return key

    keys = []
    for title, image in zip(titles, images, strict=True):
        picture = f"image {_digest(image) if isinstance(image, bytes) else repr(image)}"
        words = _words(title, ignored)
        keys.append(words or picture)
        if words and image is not None:
            # The smaller key becomes the root, so that the order of products does not matter.
            low, high = sorted((root(words), root(picture)))
            parents[high] = low
    return [root(key) for key in keys]


def _words(title: str | None, ignored: frozenset[str]) -> str:
    return " ".join(
        sorted({w for w in words_of(title or "") if w not in ignored and not _has_digit(w)})
    )


def _has_digit(word: str) -> bool:
    return any(character.isdigit() for character in word)


def _digest(image: bytes) -> str:
    return hashlib.blake2b(image, digest_size=16).hexdigest()


def _hash(key: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}\0{key}".encode(), digest_size=8).digest()
