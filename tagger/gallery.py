"""Products that a person should see: the surest errors, the most doubtful, the label issues."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tagger.attention import Explanation, Map, explain
from tagger.bundle import Bundle
from tagger.calibration import Threshold
from tagger.config import Preprocess
from tagger.decision import Bools, Decision, Ids, decide
from tagger.evaluate import Evaluated
from tagger.images import NUM_THREADS, ImageSource, Pixels, load_pixels
from tagger.label_issues import Suspicion
from tagger.tree import NO_NODE

Kind = Literal["surest error", "most doubtful", "label issue"]
KINDS: tuple[Kind, ...] = ("surest error", "most doubtful", "label issue")
PER_KIND = 12
TITLE_LENGTH = 300
"""Characters of a title that a card shows: a feed may hold whole descriptions as titles."""
WEAK_SHARE = 0.1
"""A word with less than that share of all relevance says little by where it looked."""
MAP_ALPHA = 235
"""Of the place that spoke most, where the picture alone spoke; out of 255."""
THUMBNAIL_HEIGHT = 220
"""Pixels, about; a whole multiple of what the model sees, so that maps fit on it."""
ATTENDED_OPACITY = 0.8
_MAP_COLOR = (230, 60, 20)


@dataclass(frozen=True)
class Card:
    """One product and the answer to one task; pictures are data URIs.

    given: its label in the catalog, said: the model's, with the probabilities 0..1 of both and of
    the second likeliest label; `given_probability` is None where the model does not know it.
    right: whether the answer is the label, or lies below it. published: whether it passes the
    threshold, at any depth, None without one; published_as: the node above the answer that is, if
    one is.
    evidence: the more opaque the more of all relevance is the picture's; attended: always as much.
    """

    row: int
    id: str | None
    kinds: Sequence[Kind]
    given: str
    said: str
    right: bool
    confidence: float
    given_probability: float | None
    second: tuple[str, float] | None
    image_weight: float | None
    published: bool | None
    published_as: str | None
    explanation: Explanation
    picture: str | None
    evidence: str | None
    attended: str | None

    @property
    def shown_words(self) -> Sequence[str]:
        """The words that fit into TITLE_LENGTH; the last may be cut."""
        shown, left = [], TITLE_LENGTH
        for word in self.explanation.words:
            if left <= 0:
                break
            shown.append(word if len(word) <= left else word[:left] + "…")
            left -= len(word) + 1
        return shown

    @property
    def num_hidden(self) -> int:
        """Characters of the title that `shown_words` leaves out."""
        return max(0, len(" ".join(self.explanation.words)) - TITLE_LENGTH)

    @property
    def top_word(self) -> tuple[str, float] | None:
        """The most relevant word, and its share of all relevance."""
        word = self.explanation.word
        if word is None:
            return None
        return self.explanation.words[word], self.explanation.relevance[word]


def choose(done: Evaluated, task: str, issues: Suspicion) -> dict[int, list[Kind]]:
    """Rows of products to show for `task`, with what makes them worth it; PER_KIND of each kind.

    Of products with the same picture and title one is shown.
    """
    judged = done.judged["both"][task]
    wrong = np.flatnonzero(judged.answered & ~judged.correct)
    doubtful = np.flatnonzero(judged.answered)
    rows: dict[Kind, NDArray[np.int64]] = {
        "surest error": judged.rows[_by(wrong, -judged.confidence)],
        "most doubtful": judged.rows[_by(doubtful, judged.confidence)],
        "label issue": issues.rows,
    }
    chosen: dict[int, list[Kind]] = {}
    for kind, candidates in rows.items():
        for row in islice(_distinct(done, candidates), PER_KIND):
            chosen.setdefault(row, []).append(kind)
    return chosen


def make_cards(
    bundle: Bundle, root: Path, done: Evaluated, task: str, issues: Suspicion, precision: float
) -> list[Card]:
    """The cards of `task`, kind after kind, each with thumbnail and explanation."""
    chosen = choose(done, task, issues)
    rows = list(chosen)
    if not rows:
        return []
    products = done.products.take(rows)
    preprocess = bundle.config.preprocess
    seen = _load(products.images, root, preprocess)
    shown = _load(products.images, root, _enlarged(preprocess))
    known = bundle.task(task)
    decision = decide(known, done.answers.logits[task][rows], bundle.temperature(task))
    nodes = known.tree.sums(decision.probabilities)
    ids = known.label_ids(products.labels[task])
    explanations = explain(bundle, seen, products.titles, task, decision.leaves.tolist())
    applies = done.answers.applies[task][rows]
    nodes_out = _published(decision, applies, bundle.threshold(task, precision))
    return [
        Card(
            row=row + 1,
            id=products.ids[k],
            kinds=kinds,
            given=given if ids[k] < 0 else known.nodes[ids[k]],
            said=known.labels[decision.leaves[k]],
            right=ids[k] in decision.chain[k],
            confidence=float(decision.confidence[k]),
            given_probability=float(nodes[k, ids[k]]) if ids[k] >= 0 else None,
            second=_second(known.labels, decision.probabilities[k]),
            image_weight=_known(done.answers.image_weights[task][row]),
            published=None if nodes_out is None else bool(nodes_out[k] != NO_NODE),
            published_as=(
                None
                if nodes_out is None or nodes_out[k] in (NO_NODE, decision.leaves[k])
                else known.nodes[nodes_out[k]]
            ),
            explanation=explanations[k],
            picture=_jpeg(shown[k]),
            evidence=_png(explanations[k].evidence, explanations[k].picture_share),
            attended=_png(explanations[k].attended, ATTENDED_OPACITY),
        )
        for k, (row, kinds) in enumerate(chosen.items())
        if (given := products.labels[task][k]) is not None
    ]


def _known(weight: float) -> float | None:
    """None for the weight of a system that cannot tell."""
    return None if np.isnan(weight) else float(weight)


def _by(rows: NDArray[np.int64], key: NDArray[np.float64]) -> NDArray[np.int64]:
    """`rows` in ascending order of `key` (of all rows)."""
    return rows[np.argsort(key[rows], kind="stable")]


def _distinct(done: Evaluated, rows: NDArray[np.int64]) -> Iterator[int]:
    met: set[tuple[ImageSource, str | None]] = set()
    for row in rows.tolist():
        look = (done.products.images[row], done.products.titles[row])
        if look not in met:
            met.add(look)
            yield row


def _second(labels: Sequence[str], probabilities: NDArray[np.float64]) -> tuple[str, float] | None:
    if len(labels) < 2:
        return None
    second = int(np.argsort(-probabilities, kind="stable")[1])
    return labels[second], float(probabilities[second])


def _published(decision: Decision, applies: Bools, threshold: Threshold | None) -> Ids | None:
    """(n,) the node that is published, NO_NODE for none, as where the task does not apply."""
    if threshold is None:
        return None
    node, _ = decision.deepest(threshold.needed(decision.top_labels))
    return np.where(applies, node, NO_NODE)


def _enlarged(preprocess: Preprocess) -> Preprocess:
    scale = max(1, round(THUMBNAIL_HEIGHT / preprocess.height))
    return msgspec.structs.replace(
        preprocess, height=scale * preprocess.height, width=scale * preprocess.width
    )


def _load(images: Sequence[ImageSource], root: Path, preprocess: Preprocess) -> list[Pixels | None]:
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        return list(pool.map(lambda image: load_pixels(image, root, preprocess)[0], images))


def _jpeg(pixels: Pixels | None) -> str | None:
    if pixels is None:
        return None
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "JPEG", quality=80, optimize=True)
    return _data_uri("image/jpeg", sink)


def _png(heat: Map | None, opacity: float) -> str | None:
    """A map as one pixel a place, `opacity` of MAP_ALPHA where it is 1; the browser smooths it."""
    if heat is None:
        return None
    layer = np.empty((*heat.shape, 4), np.uint8)
    layer[..., :3] = _MAP_COLOR
    layer[..., 3] = (heat * opacity * MAP_ALPHA).round().astype(np.uint8)
    sink = io.BytesIO()
    Image.fromarray(layer, "RGBA").save(sink, "PNG", optimize=True)
    return _data_uri("image/png", sink)


def _data_uri(kind: str, sink: io.BytesIO) -> str:
    return f"data:{kind};base64,{base64.b64encode(sink.getvalue()).decode('ascii')}"
