"""Catalogs made worse, one modality at a time: what is drawn hangs on the seed, the condition and
the row alone, so that every model is asked about the same products."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from tagger.images import ImageSource, Pixels
from tagger.scrub import scrub
from tagger.titles import title_status

Bools = NDArray[np.bool_]
Ids = NDArray[np.int64]

Kind = Literal[
    "titles_replaced",
    "words_dropped",
    "titles_scrubbed",
    "titles_absent",
    "pictures_absent",
    "pictures_replaced",
    "pictures_blurred",
    "pictures_blocked",
]
NO_PICTURE = -1
NO_WORDS: frozenset[str] = frozenset()
GREY = 128
"""Of the box that blocks a picture out."""


@dataclass(frozen=True)
class Condition:
    """What is done, and how much of it: `strengths` rise from 0, the catalog as it is.

    Of a condition `by_share` a strength is the share of the products that are hit, each of them as
    hard as the others; of the others it says how hard every product is hit.
    """

    kind: Kind
    strengths: tuple[float, ...]
    by_share: bool = True

    @property
    def of_titles(self) -> bool:
        """Whether titles suffer; pictures otherwise."""
        return not self.kind.startswith("pictures")

    @property
    def worst(self) -> float:
        """The highest strength."""
        return self.strengths[-1]


SHARES = (0.0, 0.3, 0.7, 1.0)
CONDITIONS = (
    Condition("titles_replaced", SHARES),
    Condition("words_dropped", (0.0, 0.3, 0.7), by_share=False),
    Condition("titles_scrubbed", SHARES),
    Condition("titles_absent", SHARES),
    Condition("pictures_absent", SHARES),
    Condition("pictures_replaced", SHARES),
    Condition("pictures_blurred", (0.0, 0.02, 0.05, 0.1), by_share=False),
    Condition("pictures_blocked", (0.0, 0.25, 0.5, 0.75), by_share=False),
)
"""Those of titles first, see `tagger.robustness.BLOCK`. Titles of other products are the robustness
experiment of CMA-CLIP (Liu et al. 2021, arXiv:2112.03562), absent modalities that of Ma et al.
("Are Multimodal Transformers Robust to Missing Modality?", 2022, arXiv:2204.05454)."""


@dataclass(frozen=True)
class Originals:
    """A catalog as it is: n titles, n pictures, and which of the pictures can be used (n,)."""

    titles: Sequence[str | None]
    pictures: Sequence[ImageSource]
    has_picture: Bools

    @property
    def has_title(self) -> Bools:
        """(n,) whether there is a usable title."""
        return np.array([title_status(title) == "ok" for title in self.titles], dtype=np.bool_)

    def of(self, condition: Condition) -> Bools:
        """(n,) which products have what the condition corrupts."""
        return self.has_title if condition.of_titles else self.has_picture


Edit = Callable[[Pixels, int], Pixels]


@dataclass(frozen=True)
class Corrupted:
    """What n products show: their titles; whose picture, by row (n,), NO_PICTURE for none; and
    what is done to the pixels of the picture of a row, if anything."""

    titles: Sequence[str | None]
    pictures: Ids
    edit: Edit | None = None

    def differs(self, other: Corrupted, rows: Ids) -> Bools:
        """Whether each of `rows` shows something else than in `other`, which has no `edit`."""
        retitled = np.array([self.titles[row] != other.titles[row] for row in rows], np.bool_)
        mine, others = self.pictures[rows], other.pictures[rows]
        edited = (mine != NO_PICTURE) & (self.edit is not None)
        differing: Bools = retitled | (mine != others) | edited
        return differing


def clean(originals: Originals) -> Corrupted:
    """Nothing is done."""
    rows = np.arange(len(originals.titles))
    return Corrupted(originals.titles, np.where(originals.has_picture, rows, NO_PICTURE))


def corrupt(
    originals: Originals,
    condition: Condition,
    strength: float,
    seed: int,
    words: frozenset[str] = NO_WORDS,
) -> Corrupted:
    """The catalog under `condition` at `strength`; `words` are those that titles_scrubbed takes.

    What hits a product at one strength hits it at every higher one, too, in the same way: the same
    strange title, the same words and more, a box around the same box.
    """
    eligible = originals.of(condition)
    hit = hit_rows(condition.kind, eligible, strength, seed) if condition.by_share else eligible
    shown, titles = clean(originals), originals.titles
    if strength == 0:
        return shown
    match condition.kind:
        case "titles_replaced":
            donors = strangers(condition.kind, titles, eligible, seed)
            return _retitled(shown, hit, lambda row: titles[donors[row]])
        case "words_dropped":
            return _retitled(shown, hit, lambda row: drop_words(titles[row], strength, seed, row))
        case "titles_scrubbed":
            return _retitled(shown, hit, lambda row: scrub(titles[row] or "", words))
        case "titles_absent":
            return _retitled(shown, hit, lambda row: None)
        case "pictures_absent":
            return replace(shown, pictures=np.where(hit, NO_PICTURE, shown.pictures))
        case "pictures_replaced":
            donors = strangers(condition.kind, originals.pictures, eligible, seed)
            return replace(shown, pictures=np.where(hit, donors, shown.pictures))
        case "pictures_blurred":
            return replace(shown, edit=lambda pixels, row: blur(pixels, strength))
        case "pictures_blocked":
            places = generator(seed, condition.kind).random((len(titles), 2))
            return replace(shown, edit=lambda pixels, row: block(pixels, strength, places[row]))


def _retitled(shown: Corrupted, hit: Bools, title_of: Callable[[int], str | None]) -> Corrupted:
    titles = list(shown.titles)
    for row in np.flatnonzero(hit).tolist():
        titles[row] = title_of(row)
    return replace(shown, titles=titles)


def generator(seed: int, *what: object) -> np.random.Generator:
    """Random numbers for one purpose, the same in every process and on every machine."""
    digest = hashlib.sha256(repr((seed, *what)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


def hit_rows(kind: Kind, eligible: Bools, share: float, seed: int) -> Bools:
    """(n,) a random `share` of the `eligible` (n,) products, to the nearest whole product.

    All of those hit at a lower share are among them.
    """
    # The k-th number of a generator is the same however many are drawn: that of row k.
    draws = np.where(eligible, generator(seed, kind, "hit").random(len(eligible)), np.inf)
    hit = np.zeros(len(eligible), dtype=np.bool_)
    hit[np.argsort(draws, kind="stable")[: round(share * int(eligible.sum()))]] = True
    return hit


def strangers(kind: Kind, things: Sequence[Hashable], eligible: Bools, seed: int) -> Ids:
    """(n,) for each `eligible` row another eligible row, drawn evenly from those with another
    thing than its own; the row itself where there is none."""
    donors, rows = np.arange(len(things)), np.flatnonzero(eligible)
    numbers: dict[Hashable, int] = {}
    group = np.array(
        [numbers.setdefault(things[row], len(numbers)) for row in rows.tolist()], dtype=np.int64
    )
    order = np.argsort(
        group, kind="stable"
    )  # equal things side by side, so that one gap skips them
    first, behind = (np.searchsorted(group[order], group, side) for side in ("left", "right"))
    num_others = len(rows) - (behind - first)
    drawn = generator(seed, kind, "stranger").random(len(things))[rows]
    place = (drawn * num_others).astype(np.int64)
    place += np.where(place >= first, behind - first, 0)
    some = num_others > 0
    donors[rows[some]] = rows[order[place[some]]]
    return donors


def drop_words(title: str | None, share: float, seed: int, row: int) -> str:
    """`title` without some of its words, each dropped with probability `share` in 0..1; the one
    that would be the last to go stays."""
    words = (title or "").split()
    draws = generator(seed, "words_dropped", row).random(len(words))
    return " ".join(w for w, u in zip(words, draws, strict=True) if u >= share or u == draws.max())


def blur(pixels: Pixels, share: float) -> Pixels:
    """uint8 (height, width, 3), blurred; the standard deviation of the Gaussian is `share` of the
    shorter side."""
    radius = share * min(pixels.shape[:2])
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)))


def block(pixels: Pixels, share: float, place: NDArray[np.float64]) -> Pixels:
    """uint8 (height, width, 3) with a grey box over `share` of its area, of its own proportions.

    `place` (2,) in 0..1 is from the top edge to the bottom and from the left edge to the right, so
    that the box hides the same of a picture whatever size a model sees it in.
    """
    height, width = pixels.shape[:2]
    rows = min(height, math.ceil(height * math.sqrt(share)))
    columns = round(share * height * width / rows) if rows else 0
    top, left = int(place[0] * (height - rows + 1)), int(place[1] * (width - columns + 1))
    blocked = pixels.copy()
    blocked[top : top + rows, left : left + columns] = GREY
    return blocked
