"""What people see of one model: figures on labelled products, calibration, drift."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from tagger.console import add_column, percent, plain, results, say, table
from tagger.errors import listing
from tagger.modalities import VIEW_NAMES
from tagger.picture_messages import say_pictures
from tagger.wording import counted

if TYPE_CHECKING:
    from tagger.calibrate import Calibrated
    from tagger.calibration import Threshold
    from tagger.drift import Drift
    from tagger.evaluate import Evaluation
    from tagger.images import ImageStatus
    from tagger.label_issues import Suspicion
    from tagger.products import ProductSource
    from tagger.scores import Score, TreeScore


MOST_LABELS = 5
"""Labels of a task that a table shows; the JSON and the page have all."""


def show_evaluation(
    evaluation: Evaluation,
    calibrated: bool,
    image_statuses: Counter[ImageStatus],
    source: ProductSource,
) -> None:
    """One table per measure, a row per task, a column per view; then what is worth a warning."""
    target = f"at {100 * evaluation.precision:g}% precision, %"
    measures = {
        "accuracy": "accuracy, % [95% interval]",
        "macro_f1": "macro-F1, %",
        "recall_at_precision": f"recall {target} [95% interval]",
        "coverage_at_precision": f"coverage {target}",
        "calibration_error": "expected calibration error, %",
        "brier": "Brier score, x 100",
        "image_weight": "weight of the picture, %",
    }
    for measure, name in measures.items():
        made = table(name, "task", "labelled products", *VIEW_NAMES.values())
        for task, both in evaluation.scores["both"].items():
            made.add_row(
                plain(task),
                f"{both.num_products:,}",
                *(
                    _with_interval(evaluation.scores[v][task], measure, v == "both")
                    for v in VIEW_NAMES
                ),
            )
        results.print(made)
    _show_published(evaluation)
    _show_trees(evaluation)
    _show_applicability(evaluation)
    _show_labels(evaluation)
    _show_confusions(evaluation)
    say_pictures(image_statuses, source)
    if calibrated and not any(s.published for s in evaluation.scores["both"].values()):
        say(f"the model is calibrated, but not for a precision of {evaluation.precision:g}")
    if evaluation.trained_on:
        say(
            f"the model was trained on {evaluation.trained_on:,} of these "
            f"{counted(evaluation.num_products, 'product')}, which flatters every figure"
        )
    if evaluation.held_back:
        say(
            f"{evaluation.held_back:,} of these {counted(evaluation.num_products, 'product')} "
            "chose the epoch when the model was trained, which flatters it, if less than learning "
            "from them"
        )
    if evaluation.calibrated_on:
        say(
            f"calibrated on this very catalog: {listing(evaluation.calibrated_on)}; that "
            "confidences and thresholds hold here says nothing of other products"
        )
    for task, both in evaluation.scores["both"].items():
        if not both.num_products:
            say(f"{task}: no product has a label, so that there is nothing to measure")
        if both.unknown_labels:
            say(
                f"{counted(sum(both.unknown_labels.values()), 'product')} with a {task} that the "
                f"model does not know, which counts as wrong: {listing(list(both.unknown_labels))}"
            )


def _with_interval(score: Score, measure: str, wide: bool) -> str:
    """A rate in percent; if `wide`, with the ends of its interval."""
    ends = {"accuracy": score.accuracy_interval, "recall_at_precision": score.recall_interval}
    interval = ends.get(measure)
    text = percent(getattr(score, measure))
    if interval is None or not wide:
        return text
    return escape(f"{text} [{percent(interval[0])}, {percent(interval[1])}]")


def _show_published(evaluation: Evaluation) -> None:
    """What the stored thresholds would publish of these products, and how much of it is right."""
    made = table(
        f"published by `predict --min-precision {evaluation.precision:g}`",
        "task",
        "threshold",
        "coverage, %",
        "precision there, %",
        "of these at depth 1, 2 ..., %",
    )
    for task, score in evaluation.scores["both"].items():
        if (published := score.published) is not None:
            made.add_row(
                plain(task),
                _threshold(published.threshold, published.by_label),
                percent(published.coverage),
                percent(published.precision),
                _shares(published.by_depth) if score.tree is not None else "",
            )
    if made.row_count:
        results.print(made)


def _shares(shares: Sequence[float]) -> str:
    return "  ".join(percent(share) for share in shares)


def _show_trees(evaluation: Evaluation) -> None:
    """Figures of tasks whose labels are paths, with picture and title; a column a task."""
    both = evaluation.scores["both"].items()
    trees = {task: score.tree for task, score in both if score.tree is not None}
    if not trees:
        return
    figures = {task: _tree_figures(tree, evaluation.precision) for task, tree in trees.items()}
    made = table("trees", "", *map(plain, trees))
    for name in dict.fromkeys(name for one in figures.values() for name in one):
        made.add_row(name, *(one.get(name, "") for one in figures.values()))
    results.print(made)


def _tree_figures(tree: TreeScore, precision: float) -> dict[str, str]:
    """Each by its name."""
    away = "-" if tree.error_distance is None else f"{tree.error_distance:.2f}"
    return {
        "hierarchical precision, %": percent(tree.precision),
        "hierarchical recall, %": percent(tree.recall),
        "hierarchical F1, %": percent(tree.f1),
        **{
            f"accuracy at depth {depth}, %": percent(rate)
            for depth, rate in enumerate(tree.accuracy_by_depth, 1)
        },
        "edges to the right node, of errors": away,
        f"coverage at {100 * precision:g}% precision, rolled up, %": percent(tree.rollup_coverage),
    }


def _show_applicability(evaluation: Evaluation) -> None:
    """How well the status not_applicable does, with picture and title."""
    made = table(
        "not applicable",
        "task",
        "precision, %",
        "recall, %",
        "products with a label",
        "of these wrongly without an answer",
    )
    for task, score in evaluation.scores["both"].items():
        if (found := score.applicability) is not None:
            made.add_row(
                plain(task),
                percent(found.precision),
                percent(found.recall),
                f"{found.filled:,}",
                f"{found.withheld:,}",
            )
    if made.row_count:
        results.print(made)


def _show_labels(evaluation: Evaluation) -> None:
    """The most frequent labels of each task, with picture and title."""
    made = table(
        f"labels, the {MOST_LABELS} most frequent of each task",
        "task",
        "products",
        "precision, %",
        "recall, %",
        "weight of the picture, %",
    )
    add_column(made, "label")
    for task, score in evaluation.scores["both"].items():
        ranked = sorted(score.labels.items(), key=lambda item: -item[1].support)
        for name, label in ranked[:MOST_LABELS]:
            rates = (percent(r) for r in (label.precision, label.recall, label.image_weight))
            made.add_row(plain(task), f"{label.support:,}", *rates, plain(name))
    if made.row_count:
        results.print(made)


def _show_confusions(evaluation: Evaluation) -> None:
    """What was most often taken for what, with picture and title."""
    made = table("most frequent confusions", "task", "products")
    add_column(made, "of label")
    add_column(made, "taken for")
    for task, score in evaluation.scores["both"].items():
        for confusion in score.confusions[:3]:
            made.add_row(
                plain(task),
                f"{confusion.count:,}",
                plain(confusion.truth),
                plain(confusion.predicted),
            )
    if made.row_count:
        results.print(made)


def show_calibration(
    calibrated: Calibrated,
    tasks: Sequence[str],
    precision: float,
    directory: Path,
    source: ProductSource,
) -> None:
    """Per task what was fitted for `precision`, and how it fared on the products kept back."""
    fitted = {name: calibrated.calibration.tasks[name] for name in tasks}
    thresholds = {name: calibrated.calibration.threshold(name, precision) for name in tasks}
    first = fitted[tasks[0]]
    made = table(
        f"published at precision {percent(precision)}%, promised for each task with certainty "
        f"{percent(1 - first.delta)}%",
        "task",
        "temperature",
        "fitted on",
        "threshold",
        "coverage, %",
        "precision there, %",
    )
    for name, threshold in thresholds.items():
        made.add_row(
            plain(name),
            f"{fitted[name].temperature:.2f}",
            f"{threshold.num_products:,}",
            _threshold(threshold.threshold, bool(threshold.by_label)),
            percent(threshold.published / max(1, threshold.reported_products)),
            percent(threshold.reported_precision),
        )
    results.print(made)
    say_pictures(calibrated.image_statuses, source)
    if first.left_out:
        say(f"left out, since the model was trained on them: {counted(first.left_out, 'product')}")
    if calibrated.num_different < calibrated.num_new:
        say(
            f"{calibrated.num_different:,} of {counted(calibrated.num_new, 'product')} were used: "
            "the others are copies, of the same picture and title, and tell nothing new"
        )
    if calibrated.num_held_back:
        say(
            f"{counted(calibrated.num_held_back, 'product')} chose the epoch when the model was "
            "trained; a promise that rests on such is weaker than one on what it never saw"
        )
    for name, threshold in thresholds.items():
        if not threshold.promises:
            say(
                f"{name}: no threshold keeps that promise on "
                f"{counted(threshold.num_products, 'labelled product')}: too few of them, or too "
                "many wrong; it will abstain from all"
            )
        if threshold.promises and threshold.by_label:
            say(f"{name}: {_each_label(threshold)}")
        labelled = threshold.num_products + threshold.reported_products
        if threshold.promises and labelled < calibrated.num_different:
            say(
                f"{name}: a label to judge by is given for {labelled:,} of "
                f"{counted(calibrated.num_different, 'product')}; what is promised holds for "
                "products like these"
            )
    named = shlex.join(["--tasks", ",".join(tasks), "--model", str(directory)])
    say(
        f"{directory} is calibrated; next: tagger predict CATALOG {named} "
        f"--min-precision {precision:g}"
    )


def _threshold(threshold: float | None, by_label: bool) -> str:
    """What a table says of a threshold."""
    if by_label:
        return "by label"
    return "abstains" if threshold is None else f"{threshold:.3f}"


def _each_label(threshold: Threshold) -> str:
    """Which labels keep the precision on their own, which abstain, and what becomes of the rest."""
    own = [label for label, least in threshold.by_label.items() if least is not None]
    silent = [label for label, least in threshold.by_label.items() if least is None]
    return "; ".join(
        (
            f"on their own keep the promise {listing(own)}",
            f"abstains from {listing(silent)}",
            "all others, with too few products each, "
            + ("abstain" if threshold.threshold is None else "keep it together"),
        )
    )


def show_drift(drift: Drift, source: ProductSource) -> None:
    """What was compared, the largest distance first."""
    made = table("drift", "compared", "distance")
    add_column(made, "before")
    add_column(made, "now")
    add_column(made, "verdict")
    for finding in drift.findings:
        verdict = f"[bold red]{finding.verdict}[/]" if finding.drifted else finding.verdict
        made.add_row(
            plain(finding.what),
            f"{finding.distance:.3f}",
            plain(finding.before),
            plain(finding.now),
            verdict,
        )
    results.print(made)
    say_pictures(drift.image_statuses, source)


def show_label_issues(found: Mapping[str, Suspicion], out: Path | None) -> None:
    """How many labels are suspect, by task; the file `out` lists them."""
    for task, suspicion in found.items():
        if suspicion.num_judged:
            say(f"{task}: {counted(len(suspicion.rows), 'product')} whose label may be wrong")
        else:
            say(
                f"{task}: no given label can be judged: the model was trained on the products, "
                "knows none of the labels, or has no answer"
            )
    if out is not None:
        say(f"{out} ranks them, the surest first")
