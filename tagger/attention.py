"""Why an answer came out: the words and the places of the picture that spoke for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tagger.bundle import Bundle
from tagger.images import Pixels
from tagger.modalities import IMAGE, TEXT
from tagger.model import CMAClip
from tagger.preprocess import collate
from tagger.titles import title_status
from tagger.tokenizer import Tokenizer
from tagger.towers import Attention, TokenTextTower, TransformerBlock
from tagger.towers import grid_of as grid_of

Map = NDArray[np.float32]
"""(rows, columns) over the picture as the model sees it, 0..1, the largest value 1."""
Pair = tuple[Tensor, Tensor]
"""The attention of a layer, and its gradient."""


@dataclass(frozen=True)
class Explanation:
    """Of one answer: the words of the title, how much each spoke for it, how much the picture did
    (`picture_share`; with the words at most 1), where the picture did, and where the most relevant
    word looked. None without a picture, without a title, or where nothing spoke for the answer."""

    words: Sequence[str]
    relevance: Sequence[float]
    picture_share: float
    evidence: Map | None
    word: int | None
    attended: Map | None


def explain(
    bundle: Bundle,
    images: Sequence[Pixels | None],
    titles: Sequence[str | None],
    task: str,
    label_ids: Sequence[int],
) -> list[Explanation]:
    """Explain the answers `label_ids` to n products.

    The relevance of words and places is that of Chefer et al. 2021 ("Generic attention-model
    explainability"), equations 5 and 6, through the text tower (a small one; what open_clip's did
    is not seen) and the sequence-wise attention to both global tokens: attention times its gradient
    from the logit, where positive, summed over the layers. What a word got from its neighbours
    before the first layer counts like attention to them. `attended` is the attention of the most
    relevant word to the places of the picture in the last layer, mean over the heads (figure 2 of
    the CMA-CLIP paper). Of other systems nothing is explained.
    """
    model = bundle.model
    if not isinstance(model, CMAClip):  # there is no sequence-wise attention to look at
        return [_unexplained(title, bundle.tokenizer) for title in titles]
    batch = collate(
        images, titles, bundle.config.preprocess, bundle.tokenizer, bundle.fixed_length
    ).to(bundle.device)
    with torch.no_grad():
        image = model.encode_image(batch.pixels, batch.image_present)
    image.tokens.requires_grad_()
    with torch.enable_grad(), _attention_of(model) as seen:
        text = model.encode_text(batch.ids, batch.text_mask)
        logits = model.fuse(image, text, whole=True).logits[task]
        chosen = logits[torch.arange(len(titles)), torch.tensor(label_ids, device=logits.device)]
        text_tower, fusion, readings, beside = _with_gradients(chosen.sum(), seen)
    start = text.tokens.shape[1]  # of the picture's tokens; the first of each is the global one
    known = _relevance(fusion)
    relevance = known[:, [0, start]].sum(1)
    if readings:
        read = [_positive(*pair) for pair in readings]
        into = torch.cat([read[TEXT], read[IMAGE]], 2).sum(1, keepdim=True)  # of words, of places
        relevance = relevance + (into + into @ known)[:, 0]
    if text_tower:
        last = (batch.text_mask.sum(1) - 1).clamp(min=0)
        tower = model.text_tower
        first = [_from_neighbours(tower, batch.ids, batch.text_mask, pair[1]) for pair in beside]
        known = _relevance(text_tower, *first)
        relevance[:, 1:start] += _into_words(relevance[:, :start], known, last)
    spoke = relevance.cpu().numpy()
    attention = fusion[-1][0].detach().mean(1).cpu().numpy()
    return [
        _explanation(bundle, title, spoke[row], attention[row], start)
        for row, title in enumerate(titles)
    ]


def _words(title: str | None, tokenizer: Tokenizer) -> list[tuple[str, range]]:
    """`words_of` a title that can be used."""
    return words_of(title, tokenizer) if title_status(title) == "ok" and title else []


def _unexplained(title: str | None, tokenizer: Tokenizer) -> Explanation:
    words = [word for word, _ in _words(title, tokenizer)]
    return Explanation(words, [0.0] * len(words), 0.0, None, None, None)


def _explanation(
    bundle: Bundle,
    title: str | None,
    relevance: NDArray[np.float32],
    attention: NDArray[np.float32],
    start: int,
) -> Explanation:
    """relevance (length,), attention (length, length); the picture's tokens begin at `start`."""
    spans = _words(title, bundle.tokenizer)
    total = max(float(relevance.sum()), 1e-12)
    shares = [float(relevance[_places(span)].sum()) / total for _, span in spans]
    word = int(np.argmax(shares)) if any(shares) else None
    looked = None if word is None else attention[_places(spans[word][1]), start + 1 :].mean(0)
    return Explanation(
        words=[text for text, _ in spans],
        relevance=shares,
        picture_share=float(relevance[start:].sum()) / total,
        evidence=_as_map(bundle, relevance[start + 1 :]),
        word=word,
        attended=None if looked is None else _as_map(bundle, looked),
    )


def words_of(title: str, tokenizer: Tokenizer) -> list[tuple[str, range]]:
    """The words of a title, each with the positions of its tokens in the encoded title.

    Words behind the end of the context have none. A title whose words are encoded otherwise alone
    than together counts as one word.
    """
    whole = tokenizer.encode([title])[0]
    end = len(whole) - 1
    spans, pieces = [], list(whole[: tokenizer.num_leading])
    words = title.split()
    for word, ids in zip(words, tokenizer.encode(words), strict=True):
        first = len(pieces)
        pieces += ids[tokenizer.num_leading : -1]
        spans.append((word, range(min(first, end), min(len(pieces), end))))
    if pieces[:end] != whole[:end]:
        return [(title, range(tokenizer.num_leading, end))]
    return spans


def _places(span: range) -> slice:
    """Token positions of a title in the joint sequence, which starts with its global token."""
    return slice(span.start + 1, span.stop + 1)


def _relevance(layers: Sequence[Pair], before: Tensor | None = None) -> Tensor:
    """(batch, length, length): how much each token (column) went into each token (row), from the
    attention of each layer and its gradient, and from what did so `before` the first."""
    attention = layers[0][0]
    size = attention.shape[-1]
    unit = torch.eye(size, device=attention.device)
    total = unit.expand(len(attention), size, size)
    if before is not None:
        total = total + before
    for pair in layers:
        total = total + _positive(*pair) @ total
    return total - unit


@torch.no_grad()
def _from_neighbours(tower: nn.Module, ids: Tensor, mask: Tensor, gradient: Tensor) -> Tensor:
    """(batch, n, n): what each word (column) gave to each it stands beside (row), times the
    `gradient` (batch, n, w) there, where positive; over as many groups of channels as the attention
    has heads, so that it is on the scale of `_positive`. To itself a word goes on anyway."""
    assert isinstance(tower, TokenTextTower)
    assert tower.neighbours is not None
    block = tower.blocks[0]
    assert isinstance(block, TransformerBlock)
    words, length = tower.embedding(ids) * mask[..., None], ids.shape[1]
    side = tower.neighbours.weight.shape[1] // 2
    given = gradient.new_zeros(len(ids), length, length)
    for place, weight in enumerate(tower.neighbours.weight.unbind(1)):
        offset = place - side
        if offset == 0:
            continue
        to = slice(max(0, -offset), length - max(0, offset))
        of = slice(max(0, offset), length - max(0, -offset))
        spoke = (gradient[:, to] * weight * words[:, of]).unflatten(-1, (block.attention.heads, -1))
        given.diagonal(offset, 1, 2).copy_(spoke.sum(-1).clamp(min=0).mean(-1))
    return given


def _into_words(relevance: Tensor, known: Tensor, last: Tensor) -> Tensor:
    """What went into the tokens of the titles (batch, n) inside of the text tower.

    relevance (batch, 1 + n) of its output, T_CLS first, which is a copy of the token at `last`
    (batch,) and goes on beside the attention, too; `known` (batch, n, n) is that of the tower.
    """
    out = relevance[:, 1:].clone()
    rows = torch.arange(len(out), device=out.device)
    out[rows, last] += 1 + relevance[:, 0]
    return (out[:, None] @ known)[:, 0]


def _positive(attention: Tensor, gradient: Tensor) -> Tensor:
    """Equation 5: what of the attention (batch, heads, q, n) spoke for the answer, mean over the
    heads (batch, q, n)."""
    return (attention.detach() * gradient).clamp(min=0).mean(1)


def _as_map(bundle: Bundle, values: NDArray[np.float32]) -> Map | None:
    if not bundle.model.image_tower.tokens_are_places or not values.max(initial=0) > 0:
        return None
    preprocess = bundle.config.preprocess
    rows, columns = grid_of(len(values), preprocess.height, preprocess.width)
    scaled: Map = (values / values.max()).reshape(rows, columns)
    return scaled


def _with_gradients(answers: Tensor, parts: Sequence[Sequence[Tensor]]) -> list[list[Pair]]:
    """Each attention of `parts` with its gradient from `answers`."""
    gradients = iter(torch.autograd.grad(answers, [one for part in parts for one in part]))
    return [[(one, next(gradients)) for one in part] for part in parts]


@contextmanager
def _attention_of(model: CMAClip) -> Iterator[tuple[list[Tensor], ...]]:
    """Fills with the attention of one pass: that of the layers of the text tower and of the fusion
    (batch, heads, length, length), that of the tasks' queries to places and to words (batch, heads,
    tasks, n), and what words got from their neighbours (batch, length, width), if there are any. Of
    open_clip's text towers, whose attention is one kernel, nothing is seen.
    """
    text_tower: list[Tensor] = []
    fusion: list[Tensor] = []
    readings: list[Tensor] = []
    beside: list[Tensor] = []
    handles = []

    def watch(part: nn.Module, into: list[Tensor]) -> None:
        handles.append(part.register_forward_hook(lambda *call: into.append(call[2])))

    if isinstance(model.text_tower, TokenTextTower):
        # Its weights want no gradient, so that the graph has to start with what goes in.
        start = model.text_tower.embedding.register_forward_hook(
            lambda *call: call[2].requires_grad_()
        )
        handles.append(start)
        if model.text_tower.neighbours is not None:
            watch(model.text_tower.neighbours, beside)
        for block in model.text_tower.blocks:
            assert isinstance(block, TransformerBlock)
            watch(block.attention.softmax, text_tower)
    for module in model.sequence_attention.modules():
        if isinstance(module, Attention):
            watch(module.softmax, fusion)
    if model.reading is not None:
        watch(model.reading.read.softmax, readings)
    try:
        yield text_tower, fusion, readings, beside
    finally:
        for handle in handles:
            handle.remove()
