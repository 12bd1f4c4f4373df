"""Is a new feed like the products that the model was fitted on? Shares, confidences, weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from tagger.answers import Answers, collect_answers, softmax
from tagger.bundle import Bundle
from tagger.config import Frozen
from tagger.errors import DriftError, ModelError
from tagger.output import write_json
from tagger.preprocess import title_status
from tagger.products import Products, ProductSource
from tagger.tokenizer import Tokenizer

FILE_NAME = "profile.json"
CONFIDENCE_BINS = 10
MAX_DISTANCE = 0.1
"""Total variation distance, or difference of means or shares, from which on a feed has drifted."""
MAX_P_VALUE = 0.001
"""Chance of at least that distance between two samples of one feed; small samples differ so."""


class TaskProfile(Frozen, frozen=True):
    """What the model says of one task: predicted labels, confidences in CONFIDENCE_BINS bins of
    equal width, and the mean weight of the picture where both modalities were there."""

    labels: dict[str, int]
    confidences: tuple[int, ...]
    image_weight: float


class Profile(Frozen, frozen=True):
    """profile.json: what a catalog looks like to a model. Shares are 0..1; `pieces_per_word` says
    how far the tokenizer must cut words up, which it does with words that it has not learned."""

    num_products: int
    absent_images: float
    absent_titles: float
    pieces_per_word: float
    tasks: dict[str, TaskProfile]


class Finding(Frozen, frozen=True):
    """One comparison: `distance` is 0..1; `drifted` if it is neither little nor chance."""

    what: str
    before: str
    now: str
    distance: float
    drifted: bool


def profile_of(
    bundle: Bundle, products: Products, answers: Answers, tasks: Sequence[str]
) -> Profile:
    """The profile of `products`, which need no labels, and of the `answers` to them."""
    there = answers.answered
    profiles = {}
    for name in tasks:
        labels = bundle.task(name).labels
        probabilities = softmax(answers.logits[name][there], bundle.temperature(name))
        counts = np.bincount(probabilities.argmax(1), minlength=len(labels))
        bins = (probabilities.max(1) * CONFIDENCE_BINS).astype(int).clip(0, CONFIDENCE_BINS - 1)
        weights = answers.image_weights[name][answers.both]
        profiles[name] = TaskProfile(
            labels={label: int(n) for label, n in zip(labels, counts, strict=True) if n},
            confidences=tuple(np.bincount(bins, minlength=CONFIDENCE_BINS).tolist()),
            image_weight=float(weights.mean()) if len(weights) else 0.0,
        )
    size = max(1, len(products))
    titles = [t for t in products.titles if t is not None and title_status(t) == "ok"]
    return Profile(
        num_products=len(products),
        absent_images=1 - float(answers.has_image.sum()) / size,
        absent_titles=1 - len(titles) / size,
        pieces_per_word=_pieces_per_word(bundle.tokenizer, titles),
        tasks=profiles,
    )


def compare(before: Profile, now: Profile) -> list[Finding]:
    """Every comparison, the largest distance first; of tasks those that both have."""
    findings = [
        _compare_shares(f"products without {what}", before, now, field)
        for what, field in (("picture", "absent_images"), ("title", "absent_titles"))
    ]
    ratio = now.pieces_per_word / before.pieces_per_word if before.pieces_per_word else 1.0
    findings.append(
        Finding(
            what="pieces that a word is cut into",
            before=f"{before.pieces_per_word:.2f}",
            now=f"{now.pieces_per_word:.2f}",
            distance=min(1.0, abs(ratio - 1)),
            drifted=abs(ratio - 1) > MAX_DISTANCE,
        )
    )
    for name in before.tasks.keys() & now.tasks.keys():
        old, new = before.tasks[name], now.tasks[name]
        findings.append(_compare_counts(f"{name}: labels", old.labels, new.labels))
        bins = [dict(enumerate(task.confidences)) for task in (old, new)]
        findings.append(_compare_counts(f"{name}: confidences", *map(_bin_names, bins)))
        gap = abs(old.image_weight - new.image_weight)
        findings.append(
            Finding(
                what=f"{name}: weight of the picture",
                before=f"{old.image_weight:.2f}",
                now=f"{new.image_weight:.2f}",
                distance=gap,
                drifted=gap > MAX_DISTANCE,
            )
        )
    return sorted(findings, key=lambda finding: (-finding.drifted, -finding.distance, finding.what))


def find_drift(
    bundle: Bundle,
    source: ProductSource,
    tasks: Sequence[str],
    progress: Callable[[int, int], None] = lambda rows, total: None,
) -> list[Finding]:
    """Compare the catalog at `source` with the profile of the model.

    Raises:
        ModelError: the model has no profile, or does not know a task.
        CatalogError: see `read_products`.
    """
    before = read_profile(bundle.path)
    known = [bundle.task(name).name for name in tasks]
    products = source.read()
    answers = collect_answers(bundle, products, source.root, known, progress)
    return compare(before, profile_of(bundle, products, answers, known))


def check_drift(findings: Sequence[Finding], catalog: Path) -> None:
    """Raises:
    DriftError: one of `findings` has drifted; the message names the worst.
    """
    drifted = [finding for finding in findings if finding.drifted]
    if drifted:
        worst = drifted[0]
        more = f", and {len(drifted) - 1} more" if len(drifted) > 1 else ""
        raise DriftError(
            f"{catalog} has drifted: {worst.what}, {worst.before} before, {worst.now} now{more}",
            "look at what changed; label a sample of it and calibrate, or train, on that",
        )


def read_profile(directory: Path) -> Profile:
    """Raises:
    ModelError: there is none, or it is damaged.
    """
    path = directory / FILE_NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=Profile)
    except FileNotFoundError:
        raise ModelError(
            f"{directory} has no {FILE_NAME} to compare with",
            "make one: tagger eval LABELLED --tasks ... --calibrate",
        ) from None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: {error}", "delete it, and calibrate again") from None


def write_profile(profile: Profile, directory: Path) -> None:
    """Raises:
    OutputError: it cannot be written.
    """
    write_json(directory / FILE_NAME, profile)


def _compare_counts(what: str, old: Mapping[str, int], new: Mapping[str, int]) -> Finding:
    """Total variation distance between two samples of a distribution, with a chi-squared test."""
    from scipy.stats import chi2_contingency

    names = sorted(name for name in {*old, *new} if old.get(name, 0) + new.get(name, 0))
    table = np.array([[counts.get(name, 0) for name in names] for counts in (old, new)])
    if not table.sum(1).all():
        return Finding(what=what, before="-", now="-", distance=0.0, drifted=False)
    shares: NDArray[np.float64] = table / table.sum(1, keepdims=True)
    distance = float(np.abs(shares[0] - shares[1]).sum() / 2)
    chance = chi2_contingency(table).pvalue if len(names) > 1 else 1.0
    most = int(np.abs(shares[0] - shares[1]).argmax())
    return Finding(
        what=what,
        before=f"{shares[0, most]:.1%} {names[most]}",
        now=f"{shares[1, most]:.1%} {names[most]}",
        distance=distance,
        drifted=bool(distance > MAX_DISTANCE and chance < MAX_P_VALUE),
    )


def _compare_shares(what: str, before: Profile, now: Profile, field: str) -> Finding:
    counts = []
    for profile in (before, now):
        absent = round(getattr(profile, field) * profile.num_products)
        counts.append({"absent": absent, "there": profile.num_products - absent})
    finding = _compare_counts(what, *counts)
    shares = (f"{getattr(p, field):.1%}" for p in (before, now))
    return msgspec.structs.replace(finding, before=next(shares), now=next(shares))


def _bin_names(counts: Mapping[int, int]) -> dict[str, int]:
    return {
        f"in {k / CONFIDENCE_BINS:.1f}-{(k + 1) / CONFIDENCE_BINS:.1f}": n
        for k, n in counts.items()
        if n
    }


def _pieces_per_word(tokenizer: Tokenizer, titles: Sequence[str]) -> float:
    words = sorted({word for title in titles[:5000] for word in title.split()})
    if not words:
        return 0.0
    extra = tokenizer.num_leading + 1
    return sum(len(ids) - extra for ids in tokenizer.encode(words)) / len(words)
