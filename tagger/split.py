"""A validation split that keeps near-duplicate titles on one side."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

from tagger.scrub import words_of


def validation_rows(
    titles: Sequence[str | None],
    images: Sequence[str | bytes | None],
    share: float,
    seed: int,
    ignored: frozenset[str],
    largest_group: int | None = None,
    known: Sequence[bool] | None = None,
) -> list[bool]:
    """True for the products of the validation part, about `share` of them.

    Titles that differ only in digits, case, punctuation, word order or `ignored` words (those of
    the labels: the same shirt in another color) fall on the same side. A product without a title,
    or with one of such words alone ("Blue Shirt" tells no product from another), goes by its
    picture, and products of one picture, too, fall on the same side. The choice
    depends on the products and the seed, not on their order. A group of near-duplicates too large
    for the share stays in training; of a catalog that is one such group nothing is chosen. One that
    has more than `largest_group` products is parted as if they were unlike, by their order: all on
    one side, it would make both sides unlike the catalog. Groups with a `known` product come last,
    so that of what a model has learned from already as little as possible is chosen.
    """
    keys = _groups(titles, images, ignored)
    if largest_group is not None:
        keys = _taken_apart(keys, largest_group)
    sizes = Counter(keys)
    late = {key for key, learned in zip(keys, known or [], strict=False) if learned}
    room = round(share * len(keys))
    chosen: set[str] = set()
    for key in sorted(sizes, key=lambda key: (key in late, _hash(key, seed))):
        if sizes[key] <= room:
            chosen.add(key)
            room -= sizes[key]
    return [key in chosen for key in keys]


def _groups(
    titles: Sequence[str | None], images: Sequence[str | bytes | None], ignored: frozenset[str]
) -> list[str]:
    """One key per product, equal for those that a shared title or picture ties together."""
    parents: dict[str, str] = {}

    def root(key: str) -> str:
        while parents.setdefault(key, key) != key:
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


def _taken_apart(keys: Sequence[str], largest: int) -> list[str]:
    """`keys`, but of a key that is there more than `largest` times, each place has its own."""
    sizes, met = Counter(keys), Counter[str]()
    apart = []
    for key in keys:
        met[key] += 1
        apart.append(f"{key}\0{met[key]}" if sizes[key] > largest else key)
    return apart


def _words(title: str | None, ignored: frozenset[str]) -> str:
    return " ".join(sorted({w for w in words_of(title or "") if w.isalpha() and w not in ignored}))


def _digest(image: bytes) -> str:
    return hashlib.blake2b(image, digest_size=16).hexdigest()


def _hash(key: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}\0{key}".encode(), digest_size=8).digest()
