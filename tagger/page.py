"""The report page: one HTML file that shows what `eval` found, without a network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tagger.arrow_types import valid_text
from tagger.bundle import Bundle
from tagger.calibration import TaskCalibration, Threshold
from tagger.evaluate import Evaluated
from tagger.gallery import KINDS, PER_KIND, WEAK_SHARE, Card, make_cards
from tagger.label_issues import Suspicion
from tagger.modalities import VIEW_NAMES
from tagger.output import write_text
from tagger.plots import precision_coverage, reliability_diagram
from tagger.products import ProductSource
from tagger.scores import Judged, Score
from tagger.tree import distinct_ends, split_path
from tagger.version import __version__
from tagger.wording import counted

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"
MATRIX_LABELS = 10
"""Labels in a confusion matrix: those that are most often confused."""
LEANING_SUPPORT = 20
"""Products from which on the mean weight of a label is worth a sentence."""


@dataclass(frozen=True)
class Matrix:
    """Products by `given` label (row) and the one `said` (column); `other` columns taken together.

    Only labels that products were given have a row."""

    given: Sequence[str]
    said: Sequence[str]
    counts: Sequence[Sequence[int]]
    other: Sequence[int]


@dataclass(frozen=True)
class LabelRow:
    """One label of a task; its rates are 0..1, None where there is nothing to divide by. `known`:
    whether the model can answer it."""

    name: str
    known: bool
    support: int
    precision: float | None
    recall: float | None
    image_weight: float | None


@dataclass(frozen=True)
class TaskPart:
    """Everything that the page says of one task; of one without answers there are no plots.

    separator: of the names of its labels, None for a flat task. calibration, threshold: None where
    there is none for the task, or none for the precision. any_answer: whether a product has one.
    Of `num_judged` given labels that label issues are looked for among, `num_issues` are suspect.
    """

    name: str
    separator: str | None
    calibration: TaskCalibration | None
    threshold: Threshold | None
    scores: Mapping[str, Score]
    curve: str
    reliability: str
    matrix: Matrix
    labels: Sequence[LabelRow]
    cards: Sequence[Card]
    any_answer: bool
    num_judged: int
    num_issues: int

    @cached_property
    def short(self) -> Mapping[str, str]:
        """What the matrix, which has little room, calls its labels: the last names of paths, as
        many as tell them apart."""
        labels = self.matrix.said
        paths = [split_path(label, self.separator) or (label,) for label in labels]
        ends = distinct_ends(paths)
        return {a: (self.separator or "").join(end) for a, end in zip(labels, ends, strict=True)}

    @property
    def pairs(self) -> set[tuple[str, str]]:
        """Given and said label of each card."""
        return {(card.given, card.said) for card in self.cards}

    @property
    def certainty(self) -> str | None:
        """With which the threshold keeps the precision."""
        return None if self.calibration is None else f"{100 * (1 - self.calibration.delta):g}%"

    @property
    def leaning(self) -> tuple[LabelRow, LabelRow] | None:
        """The labels for which the picture weighs most and least."""
        rows = [
            (r.image_weight, r)
            for r in self.labels
            if r.support >= LEANING_SUPPORT and r.image_weight is not None
        ]
        ranked = [row for _, row in sorted(rows, key=lambda pair: -pair[0])]
        return (ranked[0], ranked[-1]) if len(ranked) > 1 else None


def write_page(
    path: Path,
    bundle: Bundle,
    source: ProductSource,
    done: Evaluated,
    issues: Mapping[str, Suspicion],
) -> None:
    """Write the page of an evaluation to `path`.

    Whatever the catalog holds stands there as text: the template escapes it, and the page forbids
    all scripts but its own.

    Raises:
        DiskFullError, OutputError: `path` cannot be written.
    """
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    digest = hashlib.sha256(script.encode()).digest()
    text = (
        templates()
        .get_template("report.html")
        .render(
            catalog=source.path.name,
            model=bundle.path.name,
            model_sha256=bundle.sha256,
            calibrated=bundle.calibration is not None,
            version=__version__,
            figures=done.figures,
            target=f"{100 * done.figures.precision:g}%",
            view_names={view: VIEW_NAMES[view] for view in done.judged},
            kinds={kind: kind if kind == "most doubtful" else f"{kind}s" for kind in KINDS},
            per_kind=PER_KIND,
            weak_share=WEAK_SHARE,
            tasks=[_task_part(name, bundle, source, done, issues[name]) for name in issues],
            style=(TEMPLATES / "report.css").read_text(encoding="utf-8"),
            script=script,
            script_hash=base64.b64encode(digest).decode("ascii"),
        )
    )
    # A title that is not UTF-8 holds lone surrogates, which no file can.
    write_text(path, valid_text(text))


def templates() -> Environment:
    """The templates of all pages: they escape whatever they are given."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = _percent
    environment.filters["counted"] = counted
    return environment


def _task_part(
    name: str, bundle: Bundle, source: ProductSource, done: Evaluated, issues: Suspicion
) -> TaskPart:
    precision = done.figures.precision
    scores = {view: by_task[name] for view, by_task in done.figures.scores.items()}
    views = {view: by_task[name] for view, by_task in done.judged.items()}
    both = views["both"]
    any_answer = bool(both.answered.any())
    seen = done.answers.answered & ~done.trained_on
    fair = seen[both.rows] & (both.truth >= 0) & both.whole
    return TaskPart(
        name=name,
        separator=bundle.task(name).separator,
        calibration=bundle.calibration.tasks.get(name) if bundle.calibration else None,
        threshold=bundle.threshold(name, precision),
        scores=scores,
        curve=precision_coverage(views, precision, scores["both"].published) if any_answer else "",
        reliability=reliability_diagram(both) if any_answer else "",
        matrix=confusion_matrix(both),
        labels=_label_rows(scores["both"]),
        cards=make_cards(bundle, source.root, done, name, issues, precision),
        any_answer=any_answer,
        num_judged=int(fair.sum()),
        num_issues=len(issues.rows),
    )


def confusion_matrix(judged: Judged) -> Matrix:
    """The labels that take part in most confusions, and who is taken for whom among them."""
    wrong = judged.answered & ~judged.correct
    involved, counts = np.unique(
        np.concatenate([judged.labels[wrong], judged.predicted[wrong]]), return_counts=True
    )
    top = np.sort(involved[np.argsort(-counts, kind="stable")[:MATRIX_LABELS]])
    given, rows, others = [], [], []
    for label in top:
        said = judged.predicted[judged.answered & (judged.labels == label)]
        if len(said):
            given.append(str(label))
            rows.append([int((said == column).sum()) for column in top])
            others.append(len(said) - sum(rows[-1]))
    return Matrix(given, top.tolist(), rows, others)


def _label_rows(score: Score) -> list[LabelRow]:
    """The labels that products carry, the most frequent first."""
    rows = [
        LabelRow(
            name=name,
            known=name not in score.unknown_labels,
            support=one.support,
            precision=one.precision,
            recall=one.recall,
            image_weight=one.image_weight,
        )
        for name, one in score.labels.items()
    ]
    return sorted(rows, key=lambda row: (-row.support, row.name))


def _percent(value: float | None) -> str:
    """0.9132 -> '91.3%', None and NaN -> '-'."""
    return "-" if value is None or value != value else f"{100 * value:.1f}%"
