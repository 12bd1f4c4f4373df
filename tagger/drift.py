"""Is a new feed like the products that the model was fitted on? Shares, confidences, weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from tagger.answers import Answers, answer_batches, pictures
from tagger.config import Frozen
from tagger.errors import DriftError, ModelError
from tagger.images import ImageStatus
from tagger.output import write_json
from tagger.products import Products, ProductSource
from tagger.runtime import Model, softmax
from tagger.titles import title_status
from tagger.tokenizer import Tokenizer

FILE_NAME = "profile.json"
CONFIDENCE_BINS = 10
MAX_DISTANCE = 0.1
"""Total variation distance, or difference of means or shares, from which on a feed has drifted."""
MAX_P_VALUE = 0.001
"""Chance of at least that distance between two samples of one feed; small samples differ so."""
PERMUTATIONS, AT_ONCE = 2000, 100
"""Of the products of both samples, which can tell no chance below 1 in 2,001; so many in memory."""


class TaskProfile(Frozen, frozen=True):
    """What the model says of one task: predicted labels, confidences in CONFIDENCE_BINS bins of
    equal width, and mean and standard deviation of the weight of the picture over the `num_both`
    products with picture and title."""

    labels: dict[str, int]
    confidences: tuple[int, ...]
    image_weight: float
    image_weight_deviation: float
    num_both: int


class Profile(Frozen, frozen=True):
    """profile.json: what a catalog looks like to a bundle. Shares are 0..1; `split_words` is
    that of the `num_words` words of the titles which the tokenizer must cut up, because it has not
    learned them."""

    num_products: int
    absent_images: float
    absent_titles: float
    num_words: int
    split_words: float
    tasks: dict[str, TaskProfile]


class Finding(Frozen, frozen=True):
    """One comparison: `distance` is 0..1; `drifted` if it is neither little nor chance."""

    what: str
    before: str
    now: str
    distance: float
    drifted: bool

    @property
    def verdict(self) -> str:
        """A distance that is not little may yet be chance, where products are few."""
        if self.drifted:
            return "drifted"
        return "within chance" if self.distance > MAX_DISTANCE else "alike"


@dataclass(frozen=True)
class Drift:
    """The comparisons, the largest distance first, and how many pictures had which status."""

    findings: list[Finding]
    image_statuses: Counter[ImageStatus]


def profile_of(bundle: Model, products: Products, parts: Iterable[Answers]) -> Profile:
    """The profile of `products`, which need no labels, and of the answers to them, which come in
    `parts`, none of which is kept: logits of many labels would fill the memory."""
    counts: dict[str, _Counts] = {}
    num_images = 0
    for answers in parts:
        num_images += int(answers.has_image.sum())
        for name in answers.logits:
            task = counts.setdefault(name, _Counts(len(bundle.task(name).labels)))
            task.add(name, answers, bundle.temperature(name))
    size = max(1, len(products))
    titles = [t for t in products.titles if t is not None and title_status(t) == "ok"]
    num_words, num_split = _count_words(bundle.tokenizer, titles)
    return Profile(
        num_products=len(products),
        absent_images=1 - num_images / size,
        absent_titles=1 - len(titles) / size,
        num_words=num_words,
        split_words=num_split / max(1, num_words),
        tasks={name: one.profile(bundle.task(name).labels) for name, one in counts.items()},
    )


class _Counts:
    """What a `TaskProfile` is made of, part by part."""

    def __init__(self, num_labels: int) -> None:
        self.labels = np.zeros(num_labels, np.int64)
        self.confidences = np.zeros(CONFIDENCE_BINS, np.int64)
        self.weights: list[NDArray[np.float32]] = []

    def add(self, name: str, answers: Answers, temperature: float) -> None:
        """Those to task `name` of the next products."""
        probabilities = softmax(answers.logits[name][answers.answered], temperature)
        bins = (probabilities.max(1) * CONFIDENCE_BINS).astype(int).clip(0, CONFIDENCE_BINS - 1)
        self.labels += np.bincount(probabilities.argmax(1), minlength=len(self.labels))
        self.confidences += np.bincount(bins, minlength=CONFIDENCE_BINS)
        self.weights.append(answers.image_weights[name][answers.both])

    def profile(self, labels: Sequence[str]) -> TaskProfile:
        """Of all that were added, to a task with these `labels`."""
        weights = np.concatenate(self.weights)
        weights = weights[~np.isnan(weights)]  # a system that cannot tell has none
        return TaskProfile(
            labels={label: int(n) for label, n in zip(labels, self.labels, strict=True) if n},
            confidences=tuple(self.confidences.tolist()),
            image_weight=float(weights.mean()) if len(weights) else 0.0,
            image_weight_deviation=float(weights.std(ddof=1)) if len(weights) > 1 else 0.0,
            num_both=len(weights),
        )


def compare(before: Profile, now: Profile) -> list[Finding]:
    """Every comparison, the largest distance first; of tasks those that both have."""
    sizes = (before.num_products, now.num_products)
    images = (before.absent_images, now.absent_images)
    titles = (before.absent_titles, now.absent_titles)
    words = (before.split_words, now.split_words)
    # Those of a title come together: they tell no more of chance than one title does.
    with_words = (_num_titles(before), _num_titles(now))
    findings = [
        _compare_shares("products without picture", images, sizes),
        _compare_shares("products without title", titles, sizes),
        _compare_shares("words that are unknown", words, with_words),
    ]
    for name in before.tasks.keys() & now.tasks.keys():
        old, new = before.tasks[name], now.tasks[name]
        findings.append(_compare_counts(f"{name}: labels", old.labels, new.labels))
        bins = [dict(enumerate(task.confidences)) for task in (old, new)]
        findings.append(_compare_counts(f"{name}: confidences", *map(_bin_names, bins)))
        findings.append(_compare_weights(f"{name}: weight of the picture", old, new))
    return sorted(findings, key=lambda finding: (-finding.drifted, -finding.distance, finding.what))


def find_drift(
    bundle: Model,
    source: ProductSource,
    tasks: Sequence[str],
    progress: Callable[[int, int], None] = lambda rows, total: None,
) -> Drift:
    """Compare the catalog at `source` with the profile of the bundle.

    Raises:
        ModelError: the model has no profile, or does not know a task.
        CatalogError: see `read_products`.
    """
    before = read_profile(bundle.path)
    known = [bundle.task(name).name for name in tasks]
    products = source.read()
    with pictures(bundle, products, source.root) as pixels:
        batches = answer_batches(bundle, products, pixels, known, progress)
        now = profile_of(bundle, products, (answers for _, answers in batches))
    return Drift(compare(before, now), Counter(pixels.statuses.values()))


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
    """Total variation distance between two samples of a distribution, with a permutation test."""
    names = sorted(name for name in {*old, *new} if old.get(name, 0) + new.get(name, 0))
    table = np.array([[counts.get(name, 0) for name in names] for counts in (old, new)])
    if not table.sum(1).all():
        return Finding(what=what, before="-", now="-", distance=0.0, drifted=False)
    shares: NDArray[np.float64] = table / table.sum(1, keepdims=True)
    distance = float(np.abs(shares[0] - shares[1]).sum() / 2)
    most = int(np.abs(shares[0] - shares[1]).argmax())
    return Finding(
        what=what,
        before=f"{shares[0, most]:.1%} {names[most]}",
        now=f"{shares[1, most]:.1%} {names[most]}",
        distance=distance,
        drifted=distance > MAX_DISTANCE and _chance(table, distance) < MAX_P_VALUE,
    )


def _chance(table: NDArray[np.int64], distance: float) -> float:
    """How often the products of both rows of `table`, dealt anew at random, are at least as far
    apart. A chi-squared test finds too much where labels are rare: one of them in a small feed
    outweighs all others."""
    pool, (num_old, num_new) = table.sum(0), table.sum(1)
    rng, as_far = np.random.default_rng(0), 0
    for _ in range(PERMUTATIONS // AT_ONCE):
        new = rng.multivariate_hypergeometric(pool, num_new, AT_ONCE, method="marginals")
        distances = np.abs(new / num_new - (pool - new) / num_old).sum(1) / 2
        as_far += int((distances >= distance - 1e-12).sum())
    return (1 + as_far) / (1 + PERMUTATIONS)


def _compare_shares(what: str, shares: tuple[float, float], sizes: tuple[int, int]) -> Finding:
    counts = []
    for share, size in zip(shares, sizes, strict=True):
        hits = round(share * size)
        counts.append({"with": hits, "without": size - hits})
    finding = _compare_counts(what, *counts)
    before, now = (f"{share:.1%}" for share in shares)
    return msgspec.structs.replace(finding, before=before, now=now)


def _num_titles(profile: Profile) -> int:
    return round((1 - profile.absent_titles) * profile.num_products)


def _compare_weights(what: str, old: TaskProfile, new: TaskProfile) -> Finding:
    """Difference of two means."""
    gap = abs(old.image_weight - new.image_weight)
    enough = min(old.num_both, new.num_both) > 1
    return Finding(
        what=what,
        before=f"{old.image_weight:.2f}",
        now=f"{new.image_weight:.2f}",
        distance=gap if enough else 0.0,
        drifted=enough and gap > MAX_DISTANCE and _chance_of_gap(old, new) < MAX_P_VALUE,
    )


def _chance_of_gap(old: TaskProfile, new: TaskProfile) -> float:
    """The larger one of Welch's t-test and Student's. Welch's believes the deviation of a few
    products that happen to be alike; Student's overlooks that of a few that are far apart."""
    from scipy.stats import ttest_ind_from_stats

    moments = [(p.image_weight, p.image_weight_deviation, p.num_both) for p in (old, new)]
    with np.errstate(divide="ignore", invalid="ignore"):
        return max(
            float(ttest_ind_from_stats(*moments[0], *moments[1], equal_var=equal).pvalue)
            for equal in (False, True)
        )


def _bin_names(counts: Mapping[int, int]) -> dict[str, int]:
    return {
        f"in {k / CONFIDENCE_BINS:.1f}-{(k + 1) / CONFIDENCE_BINS:.1f}": n
        for k, n in counts.items()
        if n
    }


def _count_words(tokenizer: Tokenizer, titles: Sequence[str]) -> tuple[int, int]:
    """Words of all titles, each time that they occur, and how many of them are cut up."""
    counts = Counter(word for title in titles for word in title.split())
    words = list(counts)
    extra = tokenizer.num_leading + 1
    pieces = [len(ids) - extra for ids in tokenizer.encode(words)]
    split = sum(counts[word] for word, count in zip(words, pieces, strict=True) if count > 1)
    return counts.total(), split
