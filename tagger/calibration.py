"""Temperatures and thresholds: confidences that mean something, and precision that is kept."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from tagger.config import Frozen
from tagger.errors import ModelError, UsageError
from tagger.output import write_json

FILE_NAME = "calibration.json"
FORMAT_VERSION = 1
PRECISIONS = (0.8, 0.85, 0.9, 0.95, 0.97, 0.98, 0.99)
"""Targets that thresholds are fitted for, each with its own promise."""

GRID: NDArray[np.float64] = 1 / (1 + np.exp(-np.linspace(13.8, -2.2, 161)))
"""Candidate thresholds, fixed before any data is seen: confidences from 0.999999 to 0.1, even
in log-odds."""

BLOCK = 256
"""Products whose probabilities are in memory at a time: of 10,000 labels each takes 80 kB."""

STRICT_SHARE, STRICT_DELTA = 0.7, 0.1
"""The second start publishes that share of what the first one does, and has that share of delta."""

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]
Bools = NDArray[np.bool_]
Target = float | Literal["default"]
"""A target, or for each task the one that it was calibrated for."""


class Threshold(Frozen, frozen=True, kw_only=True):
    """What to publish of one task for one target precision.

    A product is published if its confidence is at least `threshold` (for a label in `by_label`, at
    least that); null publishes none. Of a tree, the deepest node is published that is at least as
    sure, and `by_label` goes by the top. `num_products` were fitted on. `published`, of
    `reported_products` others, had precision `reported_precision` (null if none was published).
    """

    precision: float
    threshold: float | None
    by_label: dict[str, float | None] = msgspec.field(default_factory=dict)
    num_products: int
    reported_products: int
    published: int
    reported_precision: float | None

    def of(self, label: str) -> float:
        """The confidence that a product of predicted `label` needs; infinite where none will do."""
        needed = self.by_label.get(label, self.threshold)
        return math.inf if needed is None else needed

    @property
    def promises(self) -> bool:
        """Whether anything can be published by it."""
        return self.threshold is not None or any(t is not None for t in self.by_label.values())

    def needed(self, predicted: NDArray[np.str_]) -> Floats:
        """(n,) the confidence that each product needs."""
        return np.array([self.of(str(label)) for label in predicted], dtype=np.float64)


def deepest_level(confidences: Floats, needed: Floats) -> NDArray[np.int64]:
    """(n,) the last level of `confidences` (n, depth) that is at least `needed` (n,), -1 if none
    is."""
    sure = confidences >= needed[:, None]
    last: NDArray[np.int64] = sure.shape[1] - 1 - sure[:, ::-1].argmax(1)
    return np.where(sure.any(1), last, -1)


class TaskCalibration(Frozen, frozen=True, kw_only=True):
    """`temperature` divides the logits of the task before the softmax.

    For each of `thresholds` alone: with probability 1 - `delta` over the draw of the `catalog` that
    it was fitted on, the precision of what is published is at least the target, for products drawn
    as those were. `precision` is the target that is meant where none is named; null in files of
    earlier versions, which have one for all tasks. `left_out` products were not fitted on, because
    the model was trained on them.
    """

    temperature: float
    thresholds: tuple[Threshold, ...]
    delta: float
    catalog: str
    catalog_sha256: str
    precision: float | None = None
    left_out: int = 0


class Calibration(Frozen, frozen=True, kw_only=True):
    """calibration.json. `precision` is the target that is meant where none is named and the task
    says none itself."""

    format_version: int = FORMAT_VERSION
    precision: float
    weights_sha256: str
    tasks: dict[str, TaskCalibration]

    def temperature(self, task: str) -> float:
        """1 for a task that was not calibrated."""
        return self.tasks[task].temperature if task in self.tasks else 1.0

    def meant(self, task: str, precision: Target = "default") -> float:
        """The target in 0..1 that `precision` is for that task."""
        if precision != "default":
            return precision
        own = self.tasks[task].precision if task in self.tasks else None
        return self.precision if own is None else own

    def find(self, task: str, precision: Target) -> Threshold | None:
        """What was fitted for that task and precision, if anything was."""
        precision = self.meant(task, precision)
        fitted = self.tasks[task].thresholds if task in self.tasks else ()
        near = (t for t in fitted if math.isclose(t.precision, precision, abs_tol=1e-9))
        return next(near, None)

    def threshold(self, task: str, precision: Target) -> Threshold:
        """Raises:
        UsageError: nothing was fitted for that task and precision; the message names what was.
        """
        found = self.find(task, precision)
        if found is not None:
            return found
        precision = self.meant(task, precision)
        fitted = self.tasks[task].thresholds if task in self.tasks else ()
        known = ", ".join(f"{t.precision:g}" for t in fitted) or "none"
        raise UsageError(
            f"task {task!r} has no threshold for precision {precision:g}; there are: {known}",
            "choose one of these, or fit it: "
            f"tagger eval LABELLED --tasks {shlex.quote(task)} --model DIR --calibrate "
            f"--precision {precision:g}",
        )


def in_blocks(rows: Ids) -> list[Ids]:
    """`rows`, BLOCK at a time; one block of none where there are none."""
    return np.split(rows, range(BLOCK, len(rows), BLOCK))


def fit_temperature(logits: NDArray[np.floating], truth: Ids) -> float:
    """The temperature that makes the labels likeliest (Guo et al. 2017, section 4.2), drawn towards
    1 as much as one product weighs.

    Args:
        logits: (n, labels).
        truth: (n,) label ids; a negative one, unknown to the model, counts nothing.

    Returns:
        0.05 to 20; 1 where no product has a known label.
    """
    from scipy.optimize import minimize_scalar

    known = np.flatnonzero(truth >= 0)
    if not len(known):
        return 1.0

    def surprise(rows: Ids, temperature: float) -> Floats:
        scaled = logits[rows].astype(np.float64) / temperature
        scaled -= scaled.max(1, keepdims=True)
        right = scaled[np.arange(len(rows)), truth[rows]]
        found: Floats = np.log(np.exp(scaled).sum(1)) - right
        return found

    def cost(log_temperature: float) -> float:
        temperature = math.exp(log_temperature)
        parts = [surprise(rows, temperature) for rows in in_blocks(known)]
        # Where no product is wrong, ever lower temperatures would only be likelier. This counts as
        # a single product against that, and nothing where there are many.
        return float(np.concatenate(parts).mean()) + log_temperature**2 / len(known)

    found = minimize_scalar(cost, bounds=(math.log(0.05), math.log(20)), method="bounded")
    return float(math.exp(found.x))


@dataclass(frozen=True)
class Outcomes:
    """Of n products: predicted (n,), the label; confidence (n, depth) in 0..1 and correct
    (n, depth), whether it is right. A product whose true label the model does not know is not.

    Of a tree, predicted is the top of the path, and depth the levels from there down to the
    likeliest leaf; confidence never rises from one level to the next, and is -1 behind the leaf.
    """

    predicted: NDArray[np.str_]
    confidence: Floats
    correct: Bools

    def __len__(self) -> int:
        return len(self.correct)

    def where(self, rows: Bools) -> Outcomes:
        """The products of which `rows` (n,) is true."""
        return Outcomes(self.predicted[rows], self.confidence[rows], self.correct[rows])

    def published(self, needed: Floats) -> tuple[NDArray[np.int64], Bools]:
        """(n,) each: the level that is published where `needed` (n,) is asked for, -1 for none;
        whether it is right."""
        level = deepest_level(self.confidence, needed)
        return level, (level >= 0) & self.correct[np.arange(len(level)), level]

    @property
    def counts(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(161,) each: how many products the confidences of GRID publish, and how many of these
        rightly. A level is published from its own confidence down to above that of the next."""
        levels = self.confidence.shape[1]
        right = sum(
            _at_least(self.confidence[:, k], self.correct[:, k])
            - (_at_least(self.confidence[:, k + 1], self.correct[:, k]) if k + 1 < levels else 0)
            for k in range(levels)
        )
        top = self.confidence[:, 0]
        return _at_least(top, np.ones(len(top), dtype=bool)), np.asarray(right)


def _at_least(confidence: Floats, counted: Bools) -> NDArray[np.int64]:
    """(161,) how many of the `counted` (n,) have at least the `confidence` (n,) of GRID."""
    order = np.argsort(-confidence, kind="stable")
    sums = np.concatenate([[0], np.cumsum(counted[order])])
    return sums[np.searchsorted(-confidence[order], -GRID, side="right")]


def fit_threshold(guide: Outcomes, test: Outcomes, precision: float, delta: float) -> float | None:
    """The lowest confidence from which on publishing keeps `precision`, with certainty 1 - `delta`.

    Learn then Test (Angelopoulos et al. 2021): for one confidence of GRID after the other, from
    high to low, the hypothesis that the precision of the products at or above it is below the
    target is tested on `test` with the exact binomial tail, until a test fails. The sequence starts
    where `guide`, drawn independently, makes the first test look easiest (Laufer-Goldshtein et al.
    2023 choose the sequence so), so that no test is wasted where too few products are that sure.
    Where `guide` is small that is a guess, so a second start, stricter by STRICT_SHARE, has the
    share STRICT_DELTA of `delta`, and hands it on if it gets as far as the first: the fallback
    procedure (Wiens 2003; Wiens and Dmitrienko 2005), which keeps the chance of any wrong rejection
    at `delta`. The promise holds for products drawn as those of `test` are; neither start nor the
    temperature may hang on `test`.

    Returns:
        A confidence, or None where no promise can be given: too few products, or too many wrong.
    """
    promising = _p_values(guide, precision)
    start = len(GRID) - 1 - int(np.argmin(promising[::-1]))  # the lowest of equally good ones
    top = guide.confidence[:, 0]
    passing = np.sort(top[top >= GRID[start]])[::-1]
    surest = passing[int(STRICT_SHARE * len(passing))] if len(passing) else 1.0
    strict = min(start, int(np.searchsorted(-GRID, -surest)))
    p_values = _p_values(test, precision)
    end = _end(p_values, strict, STRICT_DELTA * delta)
    first = delta if end >= start else (1 - STRICT_DELTA) * delta
    end = max(end, _end(p_values, start, first))
    return float(GRID[end - 1]) if end else None


def _end(p_values: Floats, start: int, delta: float) -> int:
    """Where the sequence from `start` stops: behind the last rejection, 0 if there is none."""
    rejected = p_values[start:] <= delta
    count = len(rejected) if rejected.all() else int(np.argmin(rejected))
    return start + count if count else 0


def _p_values(outcomes: Outcomes, precision: float) -> Floats:
    """Per confidence of GRID: how likely as many right ones are, were the precision `precision`."""
    from scipy.stats import binom

    published, right = outcomes.counts
    p_values: Floats = binom.sf(right - 1, published, precision)
    return p_values


def products_needed(precision: float, delta: float) -> int:
    """Products that must be published, all of them right, before anything can be promised."""
    return math.ceil(math.log((1 - STRICT_DELTA) * delta) / math.log(precision))


def fit_by_label(
    guide: Outcomes, test: Outcomes, precision: float, delta: float
) -> tuple[float | None, dict[str, float | None]]:
    """A threshold for all other labels, and one for each predicted label with enough products.

    Each keeps `precision` on its own; `delta` is shared among them, so that all do together. Which
    labels have enough is decided by `guide` alone.
    """
    names, counts = np.unique(guide.predicted, return_counts=True)
    needed = products_needed(precision, delta / (len(names) + 1))
    size = len(test) / max(1, len(guide))
    # Twice the least: with the least, one wrong product would leave a label without any answer.
    groups = [str(n) for n, c in zip(names, counts, strict=True) if c * size >= 2 * needed]
    share = delta / (len(groups) + 1)

    def fit(label: str | None) -> float | None:
        def mine(part: Outcomes) -> Outcomes:
            names = part.predicted
            return part.where(~np.isin(names, groups) if label is None else names == label)

        return fit_threshold(mine(guide), mine(test), precision, share)

    return fit(None), {label: fit(label) for label in groups}


def read_calibration(directory: Path) -> Calibration | None:
    """calibration.json of a model directory, None where there is none.

    Raises:
        ModelError: it is damaged, or of another format.
    """
    path = directory / FILE_NAME
    if not path.is_file():
        return None
    try:
        calibration = msgspec.json.decode(path.read_bytes(), type=Calibration)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: {error}", "delete it, or calibrate again") from None
    if calibration.format_version != FORMAT_VERSION:
        raise ModelError(
            f"{path}: format_version {calibration.format_version}, this tagger reads "
            f"{FORMAT_VERSION}",
            "upgrade tagger, or calibrate again",
        )
    bad = [n for n, t in calibration.tasks.items() if not 0 < t.temperature < math.inf]
    if bad:
        raise ModelError(f"{path}: temperature of {bad[0]!r} is not above 0", "calibrate again")
    return calibration


def write_calibration(calibration: Calibration, directory: Path) -> None:
    """Raises:
    OutputError: it cannot be written.
    """
    write_json(directory / FILE_NAME, calibration)
