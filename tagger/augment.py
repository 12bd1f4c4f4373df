"""Random variants of pictures and titles during training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from tagger.config import Training
from tagger.scrub import says_none_of, scrub
from tagger.titles import title_status


def augment_pixels(pixels: Tensor, training: Training, generator: Generator) -> Tensor:
    """Mirrored, shifted, scaled and brightened pictures; never their hue, which is a label.

    uint8 (n, 3, height, width) -> float32 of the same shape in about 0..255, on the same device.
    The lots are drawn on the CPU, so that a GPU sees the same variants.
    """

    def uniform(*shape: int) -> Tensor:  # -1 .. 1
        return (torch.rand(*shape, generator=generator) * 2 - 1).to(pixels.device)

    n = len(pixels)
    mirror = uniform(n).sign() if training.flip else torch.ones(n, device=pixels.device)
    scale = 1 + uniform(n) * training.scale
    stretch = 1 + uniform(n) * training.scale / 2
    affine = torch.zeros(n, 2, 3, device=pixels.device)
    affine[:, 0, 0] = mirror * scale
    affine[:, 1, 1] = scale * stretch
    affine[:, :, 2] = uniform(n, 2) * training.shift * 2
    # Autocast would round where each pixel comes from to bf16: by .7 pixels in 160 at most.
    with torch.autocast(pixels.device.type, enabled=False):
        grid = F.affine_grid(affine, list(pixels.shape), align_corners=False)
    moved = F.grid_sample(pixels.float(), grid, padding_mode="border", align_corners=False)
    bright = (moved * (1 + uniform(n, 1, 1, 1) * training.brightness)).clamp(0, 255)
    return _erase(bright, training.erase, generator) if training.erase else bright


def _erase(pixels: Tensor, share: float, generator: Generator) -> Tensor:
    """A grey box over a tenth to four tenths of each side of `share` of the pictures."""
    n, _, height, width = pixels.shape
    centre, size, lot = (torch.rand(n, 2, generator=generator) for _ in range(3))
    size = size * 0.3 + 0.1
    rows = torch.arange(height)[None] / height - centre[:, :1]
    columns = torch.arange(width)[None] / width - centre[:, 1:]
    inside = (rows.abs() < size[:, :1] / 2)[:, :, None] & (columns.abs() < size[:, 1:] / 2)[:, None]
    chosen = inside & (lot[:, 0] < share)[:, None, None]
    return pixels.masked_fill(chosen[:, None].to(pixels.device), 127.0)


@dataclass(frozen=True)
class Mixed:
    """Pictures with a box of another one in them (CutMix, Yun et al. 2019).

    pixels (n, 3, height, width); other (n,), the place in the batch of the picture in the box;
    share (n,), how much of the area the box covers, exactly: 0 to about 0.5 (see `mix`).
    """

    pixels: Tensor
    other: Tensor
    share: Tensor


def mix(pixels: Tensor, present: Tensor, share: float, generator: Generator) -> Mixed:
    """Paste a box of another picture into a random `share` of those that are `present` (n,), a
    tensor on the CPU.

    Both are whole colors still, which blending them would not leave. The box covers half of the
    picture at most, and what whole pixels add (.003 of 160 x 160, .02 of 64 x 64), so that with its
    title a product is the one that it was.
    """
    n, _, height, width = pixels.shape
    own = torch.arange(n)
    other = (own + torch.randint(1, max(2, n), (n,), generator=generator)) % n
    centre, lot = torch.rand(n, 2, generator=generator), torch.rand(n, 2, generator=generator)
    side = (lot[:, :1] / 2).sqrt()
    rows = torch.arange(height)[None] / height - centre[:, :1]
    columns = torch.arange(width)[None] / width - centre[:, 1:]
    box = (rows.abs() < side / 2)[:, :, None] & (columns.abs() < side / 2)[:, None]
    box &= ((lot[:, 1] < share) & present & present[other])[:, None, None]
    mixed = torch.where(box[:, None].to(pixels.device), pixels[other.to(pixels.device)], pixels)
    return Mixed(mixed, other, box.float().mean((1, 2)))


def augment_titles(
    titles: Sequence[str | None],
    giveaways: Sequence[frozenset[str]],
    training: Training,
    generator: Generator,
) -> list[str | None]:
    """Titles with words replaced and dropped at random; scrubbed ones also lose those of labels.

    giveaways: per task the words of its labels. A scrubbed title loses those of a random half of
    the tasks, so that the picture has to answer for them. A title that
    would lose its last word stays as it was. A word of a label is never replaced, nor invented:
    beside another word in its place the label would be wrong rather than unsaid.
    """
    telling = frozenset[str]().union(*giveaways)
    scrubbed = torch.rand(len(titles), generator=generator) < training.scrub
    chosen = torch.rand(len(titles), len(giveaways), generator=generator) < 0.5
    # Frozen towers are to see each title once; scrubbed ones are few.
    dropout = 0.0 if training.freeze_towers else training.word_dropout
    invented = 0.0 if training.freeze_towers else training.invented_words
    known: list[str] = []
    if invented:
        usable = (title for title in titles if title is not None and title_status(title) == "ok")
        known = [word for title in usable for word in title.split() if says_none_of(telling, word)]
    augmented: list[str | None] = []
    for row, title in enumerate(titles):
        if title is None:
            augmented.append(None)
            continue
        if scrubbed[row]:
            bare = title
            for words, hit in zip(giveaways, chosen[row].tolist(), strict=True):
                bare = scrub(bare, words) if hit else bare
            title = bare or title
        parts = title.split()
        if known and parts:
            parts = _invent(parts, known, telling, invented, generator)
        keep = torch.rand(len(parts), generator=generator) >= dropout
        augmented.append(
            " ".join(part for part, k in zip(parts, keep.tolist(), strict=True) if k) or title
        )
    return augmented


def _invent(
    words: Sequence[str],
    known: Sequence[str],
    telling: frozenset[str],
    share: float,
    generator: Generator,
) -> list[str]:
    """`words` with a random `share` of those that are not `telling` replaced by the start of one of
    the `known` words and the end of another: spelled like a brand that nobody has heard of."""
    lots = torch.rand(len(words), generator=generator).tolist()
    pairs = torch.randint(len(known), (len(words), 2), generator=generator).tolist()
    changed = []
    for word, lot, (first, second) in zip(words, lots, pairs, strict=True):
        head, tail = known[first], known[second]
        new = head[: -(-len(head) // 2)] + tail[len(tail) // 2 :]
        replaced = lot < share and all(says_none_of(telling, either) for either in (word, new))
        changed.append(new if replaced else word)
    return changed
