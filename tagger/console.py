"""What people see: progress on a terminal, tables, errors in two lines."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from tqdm import tqdm

from tagger.errors import StoppedError, TaggerError, listing

if TYPE_CHECKING:
    import torch

    from tagger.calibrate import Calibrated
    from tagger.checkpoint import Epoch
    from tagger.compare import Difference, ModelComparison, ModelFigures
    from tagger.drift import Drift
    from tagger.evaluate import Evaluation
    from tagger.export import Comparison
    from tagger.images import ImageStatus
    from tagger.label_issues import Suspicion
    from tagger.run import Estimate, Result
    from tagger.scores import Score, TreeScore
    from tagger.train import TrainResult
    from tagger.training_data import Data


MOST_LABELS = 5
"""Labels of a task that a table shows; the JSON and the page have all."""


class _Console(Console):
    """A console whose reader went away stops the command, as a signal would."""

    def on_broken_pipe(self) -> None:
        # What is still in the buffer must not fail a second time when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())
        raise StoppedError(signal.SIGPIPE)


console = _Console(stderr=True, highlight=False)
results = _Console(highlight=False)
"""Standard output: what a command was asked for, never progress or messages."""


@dataclass
class _Style:
    """How messages look: nothing but errors if `quiet`, JSON lines if `json`."""

    quiet: bool = False
    json: bool = False


_style = _Style()


def set_style(quiet: bool, json: bool) -> None:
    """Choose how messages look from here on; JSON lines also replace the progress bar."""
    _style.quiet, _style.json = quiet, json


def say(text: str) -> None:
    """One line of plain text; nothing in it is read as markup."""
    if _style.quiet:
        return
    if _style.json:
        _log("info", message=text)
        return
    with tqdm.external_write_mode():
        console.print(escape(text), soft_wrap=True)


def _log(level: str, **fields: object) -> None:
    stamp = datetime.now(UTC).isoformat(timespec="milliseconds")
    line = msgspec.json.encode({"time": stamp, "level": level, **fields}).decode()
    console.print(line, markup=False, soft_wrap=True)


def show_stopped(stopped: StoppedError) -> None:
    """Which signal ended the command, and how to go on."""
    name = signal.Signals(stopped.exit_code - 128).name
    if name != "SIGPIPE":
        show_error(TaggerError(f"stopped by {name}", stopped.hint), stopped.exit_code)


def show_error(error: TaggerError, exit_code: int | None = None) -> None:
    """What went wrong, and the next thing to do: two lines."""
    if _style.json:
        code = error.exit_code if exit_code is None else exit_code
        _log("error", message=error.message, hint=error.hint, exit_code=code)
        return
    console.print(f"[bold red]error:[/] {escape(_one_line(error.message))}", soft_wrap=True)
    if error.hint:
        console.print(f"[bold]hint:[/] {escape(_one_line(error.hint))}", soft_wrap=True)


def _plain(text: str) -> str:
    """`text` for the cell of a table: no markup, no control characters."""
    return escape(_one_line(text))


def _one_line(text: str) -> str:
    """`text` with the control characters of file names and labels spelled out."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class Bar:
    """A progress bar with rate and ETA on a terminal; nothing where nobody looks (cron, pipes)."""

    def __init__(self, unit: str, total: int | None = None) -> None:
        hidden = not console.is_terminal or _style.quiet or _style.json
        self._bar = tqdm(total=total, unit=f" {unit}", disable=hidden, smoothing=0.1)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def advance(self, count: int) -> None:
        """`count` more are done."""
        self._bar.update(count)

    def move(self, done: int, total: int, text: str = "") -> None:
        """`done` of `total` are done."""
        self._bar.total = total
        self._bar.set_description_str(text, refresh=False)
        self._bar.update(done - self._bar.n)


def percent(value: float | None) -> str:
    """0.9132 -> '91.3', None and NaN -> '-'."""
    return "-" if value is None or value != value else f"{100 * value:.1f}"


def table(title: str, *headers: str) -> Table:
    """An empty table: the first column left, the others right aligned."""
    made = Table(title=title, title_justify="left", header_style="bold", title_style="bold")
    for position, header in enumerate(headers):
        made.add_column(header, justify="left" if position == 0 else "right")
    return made


class TrainMonitor:
    """Draws a training run: what is learned, a bar with an ETA, a line per epoch."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar

    def prepared(self, data: Data, model: torch.nn.Module, device: torch.device) -> None:
        """What will be learned, from how much, and which labels are left out."""
        millions = sum(p.numel() for p in model.parameters()) / 1e6
        say(
            f"{len(data.train):,} products to train on, {len(data.validation):,} to validate on; "
            f"{millions:.1f} million parameters on {device}"
        )
        for task in data.tasks:
            count = sum(label is not None for label in data.train.labels[task.name])
            levels = f" in a tree of {task.tree.depth} levels" if task.is_tree else ""
            say(f"{task.name}: {len(task.labels):,} labels{levels}, {count:,} labelled products")
        trees = [task.name for task in data.tasks if task.is_tree]
        for name, labels in data.left_out.items():
            fate = "too rare"
            if name in trees:
                fate += ", or no path; they count as the node that they stand under, if any"
            say(f"{name}: {fate}: {listing(list(labels))}")
        if data.applicability is not None:
            for name, nodes in data.applicability.not_for.items():
                say(f"{name}: does not apply to {data.applicability.task} {listing(nodes)}")

    def step(self, step: int, total: int, loss: float) -> None:
        """Move the bar."""
        self._bar.move(step, total, f"loss {loss:.3f}")

    def epoch(self, number: int, epoch: Epoch) -> None:
        """One line that also a log keeps."""
        from tagger.checkpoint import mean

        views = "  ".join(
            f"{view} {percent(mean(by_task.values()))}" for view, by_task in epoch.accuracy.items()
        )
        loss = "as it came" if epoch.loss is None else f"epoch {number + 1}: loss {epoch.loss:.3f}"
        say(f"{time.strftime('%H:%M:%S')} {loss}  accuracy: {views}  ({epoch.seconds:.0f} s)")


def show_training(result: TrainResult, out: Path) -> None:
    """The best epoch as a table, where the model is, and what to type next."""
    best = result.history[result.best_epoch]
    learned = f"epoch {result.best_epoch + 1} of {len(result.history)}"
    made = table(
        f"validation accuracy, {learned if best.loss is not None else 'without training'}, %",
        "task",
        "picture and title",
        "picture alone",
        "title alone",
    )
    for task in result.data.tasks:
        made.add_row(
            task.name,
            *(percent(best.accuracy[view][task.name]) for view in ("both", "image", "title")),
        )
    console.print(made)
    _say_bad("pictures", Counter(result.image_statuses))
    if result.bf16 is not None:
        say(str(result.bf16))
    tasks = ",".join(task.name for task in result.data.tasks)
    say(
        f"{out} is ready ({result.seconds / 60:.0f} minutes); "
        f"next: tagger predict CATALOG --tasks {tasks} --model {out}"
    )


def show_evaluation(
    evaluation: Evaluation, calibrated: bool, image_statuses: Counter[ImageStatus]
) -> None:
    """One table per measure, a row per task, a column per view; then what is worth a warning."""
    from tagger.modalities import VIEW_NAMES

    target = f"at {100 * evaluation.precision:g}% precision, %"
    measures = {
        "accuracy": "accuracy, % [95% bootstrap interval over products]",
        "macro_f1": "macro-F1, %",
        "recall_at_precision": f"recall {target} [95% bootstrap interval over products]",
        "coverage_at_precision": f"coverage {target}",
        "calibration_error": "expected calibration error, %",
        "brier": "Brier score, x 100",
        "image_weight": "weight of the picture, %",
    }
    for measure, name in measures.items():
        made = table(name, "task", "labelled products", *VIEW_NAMES.values())
        for task, both in evaluation.scores["both"].items():
            made.add_row(
                _plain(task),
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
    _say_bad("pictures", image_statuses)
    if calibrated and not any(s.published for s in evaluation.scores["both"].values()):
        say(f"the model is calibrated, but not for a precision of {evaluation.precision:g}")
    if evaluation.trained_on:
        say(
            f"the model was trained on {evaluation.trained_on:,} of these "
            f"{evaluation.num_products:,} products, which flatters every figure"
        )
    for task, both in evaluation.scores["both"].items():
        if both.unknown_labels:
            say(
                f"{sum(both.unknown_labels.values()):,} products have a {task} that the model does "
                f"not know; they count as wrong: {listing(list(both.unknown_labels))}"
            )


def _with_interval(score: Score, measure: str, wide: bool) -> str:
    """A rate in percent; if `wide`, with the ends of its bootstrap interval."""
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
                _plain(task),
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
    made = table("trees", "", *map(_plain, trees))
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
        "products whose levels agree, %": percent(tree.consistency),
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
                _plain(task),
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
    made.add_column("label")
    for task, score in evaluation.scores["both"].items():
        ranked = sorted(score.labels.items(), key=lambda item: -item[1].support)
        for name, label in ranked[:MOST_LABELS]:
            rates = (percent(r) for r in (label.precision, label.recall, label.image_weight))
            made.add_row(_plain(task), f"{label.support:,}", *rates, _plain(name))
    if made.row_count:
        results.print(made)


def _show_confusions(evaluation: Evaluation) -> None:
    """What was most often taken for what, with picture and title."""
    made = table("most frequent confusions", "task", "products")
    made.add_column("of label")
    made.add_column("taken for")
    for task, score in evaluation.scores["both"].items():
        for confusion in score.confusions[:3]:
            made.add_row(
                _plain(task),
                f"{confusion.count:,}",
                _plain(confusion.truth),
                _plain(confusion.predicted),
            )
    if made.row_count:
        results.print(made)


def show_calibration(
    calibrated: Calibrated, tasks: Sequence[str], precision: float, directory: Path
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
            _plain(name),
            f"{fitted[name].temperature:.2f}",
            f"{threshold.num_products:,}",
            _threshold(threshold.threshold, bool(threshold.by_label)),
            percent(threshold.published / max(1, threshold.reported_products)),
            percent(threshold.reported_precision),
        )
    results.print(made)
    _say_bad("pictures", calibrated.image_statuses)
    if first.left_out:
        say(f"{first.left_out:,} products were left out: the model was trained on them")
    for name, threshold in thresholds.items():
        if not threshold.promises:
            say(
                f"{name}: no threshold keeps that promise on {threshold.num_products:,} labelled "
                "products: too few of them, or too many wrong; it will abstain from all"
            )
    say(
        f"{directory} is calibrated; next: tagger predict CATALOG --tasks {','.join(tasks)} "
        f"--model {directory} --min-precision {precision:g}"
    )


def _threshold(threshold: float | None, by_label: bool) -> str:
    """What a table says of a threshold."""
    if by_label:
        return "by label"
    return "abstains" if threshold is None else f"{threshold:.3f}"


def show_drift(drift: Drift) -> None:
    """What was compared, the largest distance first."""
    made = table("drift", "compared", "distance")
    made.add_column("before")
    made.add_column("now")
    made.add_column("verdict")
    for finding in drift.findings:
        verdict = "[bold red]drifted[/]" if finding.drifted else "alike"
        made.add_row(
            _plain(finding.what),
            f"{finding.distance:.3f}",
            _plain(finding.before),
            _plain(finding.now),
            verdict,
        )
    results.print(made)
    _say_bad("pictures", drift.image_statuses)


def show_label_issues(found: Mapping[str, Suspicion], out: Path | None) -> None:
    """How many labels are suspect, by task; the file `out` lists them."""
    for task, suspicion in found.items():
        say(f"{task}: {len(suspicion.rows):,} products whose label is probably wrong")
    if out is not None:
        say(f"{out} ranks them, the surest first")


def show_comparison(comparison: Comparison) -> None:
    """How an export answers beside its source, and size and speed of both."""
    made = table(
        "the export beside its source: labels, and the largest differences",
        "compared on",
        "products",
        "labels agree, %",
        "confidences differ by",
        "weights differ by",
    )
    for agreement in comparison.agreements:
        made.add_row(
            _plain(agreement.compared_on),
            f"{agreement.num_products:,}",
            "-" if agreement.labels_agree is None else f"{100 * agreement.labels_agree:.2f}",
            f"{agreement.confidence_difference:.1e}",
            "-" if agreement.weight_difference is None else f"{agreement.weight_difference:.1e}",
        )
    results.print(made)
    sides = table("size and speed", "", "MB", "products a second")
    for name, side in (("source, torch, fp32", comparison.source), ("export", comparison.export)):
        rate = side.products_per_second
        sides.add_row(name, f"{side.num_bytes / 1e6:,.1f}", "-" if rate is None else f"{rate:,.1f}")
    results.print(sides)


def show_models(comparison: ModelComparison, image_statuses: Counter[ImageStatus]) -> None:
    """One table with a row per model, then one per task; differences are to the first model."""
    from tagger.compare import MEAN
    from tagger.modalities import VIEW_NAMES

    first, *others = comparison.models
    recall = f"recall at {100 * comparison.precision:g}% precision"
    made = table(
        f"means over tasks, %; below: difference to {_plain(first.name)}, and its 95% interval "
        "(paired bootstrap over products)",
        "model",
        "accuracy",
        *(f"{recall if view == 'both' else 'recall'}, {name}" for view, name in VIEW_NAMES.items()),
        "parameters, FLOPs and products a second",
    )
    for model in comparison.models:
        means = model.means
        made.add_row(
            _plain(model.name),
            _beside(means["both"].accuracy, model, "both", MEAN, "accuracy"),
            *(
                _beside(means[v].recall_at_precision, model, v, MEAN, "recall_at_precision")
                for v in VIEW_NAMES
            ),
            _cost(model),
            end_section=True,
        )
    _print_folded(made)
    for task in first.scores["both"]:
        _show_task(comparison, task)
    if others:
        say("(noise): the interval holds 0, so that other products may turn the difference around")
    _say_bad("pictures", image_statuses)
    _say_learned(comparison)
    _say_unknown(comparison)


def _show_task(comparison: ModelComparison, task: str) -> None:
    """One task with picture and title, and with its own words scrubbed; a row per model."""
    first = comparison.models[0]
    labelled = first.scores["both"][task].num_products
    views = {"both": "", "scrubbed": ", scrubbed"}
    measures = {
        "accuracy": "accuracy",
        "macro_f1": "macro-F1",
        "recall_at_precision": f"recall at {100 * comparison.precision:g}%",
    }
    made = table(
        f"{_plain(task)}, %, {labelled:,} labelled products",
        "model",
        *(f"{name}{view}" for view in views.values() for name in measures.values()),
    )
    for model in comparison.models:
        made.add_row(
            _plain(model.name),
            *(
                _beside(getattr(model.scores[view][task], measure), model, view, task, measure)
                for view in views
                for measure in measures
            ),
            end_section=True,
        )
    _print_folded(made)


def _print_folded(made: Table) -> None:
    """On a narrow terminal an interval breaks into two lines: cut, it would be another one."""
    for column in made.columns:
        column.overflow = "fold"
    results.print(made)


def _beside(rate: float | None, model: ModelFigures, view: str, task: str, measure: str) -> str:
    """A rate in percent; below it, where it is known, its difference to the first model."""
    from tagger.compare import points

    found = model.differences.get(view, {}).get(task)
    difference: Difference | None = getattr(found, measure, None)
    if difference is None:
        return percent(rate)
    low, high = difference.interval
    style = "dim" if difference.is_noise else "green" if low > 0 else "red"
    noise = " (noise)" if difference.is_noise else ""
    below = f"{points(difference.difference)}{noise}\n{points(low)} to {points(high)}"
    return f"{percent(rate)}\n[{style}]{below}[/]"


def _cost(model: ModelFigures) -> str:
    """Three lines, as the cells beside it have."""
    from tagger.compare import short_count

    flops, rate = model.flops_per_product, model.products_per_second
    return "\n".join(
        (
            short_count(model.parameters),
            "-" if flops is None else f"{short_count(flops)}FLOP",
            f"{rate:,.{1 if rate < 100 else 0}f}/s",
        )
    )


def _say_learned(comparison: ModelComparison) -> None:
    """Which models know some of the products already."""
    guilty = [f"{one.name} from {one.trained_on:,}" for one in comparison.models if one.trained_on]
    if guilty:
        say(
            f"{comparison.trained_on:,} of these {comparison.num_products:,} products were "
            f"trained on ({', '.join(guilty)}), which flatters every figure of the model"
        )


def _say_unknown(comparison: ModelComparison) -> None:
    """Labels that a model does not know, of which each product counts as wrong."""
    for model in comparison.models:
        for task, both in model.scores["both"].items():
            if both.unknown_labels:
                say(
                    f"{sum(both.unknown_labels.values()):,} products have a {task} that "
                    f"{model.name} does not know; they count as wrong: "
                    f"{listing(list(both.unknown_labels))}"
                )


def show_prediction(result: Result, out: Path) -> None:
    """How many rows, what was wrong with some, and where the result is."""
    summary = result.summary
    _say_bad("pictures", summary.image_status, summary.image_examples)
    _say_bad("titles", summary.title_status, summary.title_examples)
    for task, statuses in summary.task_status.items():
        line = f"{task}: {statuses['ok']:,} of {summary.num_rows:,} products labelled"
        if statuses["not_applicable"]:
            line += f"; it does not apply to {statuses['not_applicable']:,}"
        if statuses["abstain"]:
            coverage = percent(statuses["ok"] / (statuses["ok"] + statuses["abstain"]))
            line += f"; the model abstained from {statuses['abstain']:,}, coverage {coverage}%"
        say(line)
    if result.remark:
        say(result.remark)
    carried = summary.num_rows - result.stages.computed_rows
    if result.was_done:
        say(f"{out}: {summary.num_rows:,} rows; this run was finished already")
    elif not result.finished:
        say(f"{out}: this share is done; {result.missing:,} parts of other shards are missing")
    else:
        kept = f", {carried:,} of them kept from before" if carried else ""
        say(f"{out}: {summary.num_rows:,} rows{kept}")


def show_review(count: int, path: Path) -> None:
    """How many products wait for a person."""
    say(f"{path}: {count:,} products to look at, those that teach most first")


def show_estimate(estimate: Estimate, out: Path) -> None:
    """What a dry run found, and what the whole run would take."""
    summary = estimate.sample
    _say_bad("pictures", summary.image_status, summary.image_examples)
    _say_bad("titles", summary.title_status, summary.title_examples)
    say(f"{estimate.num_rows:,} rows; {summary.num_rows:,} of them were tried")
    minutes, megabytes = estimate.seconds / 60, estimate.num_bytes / 1e6
    say(f"{out} can be written: about {minutes:,.1f} minutes and {megabytes:,.1f} MB")
    say("dry run: nothing was written")


def _say_bad(
    what: str, statuses: Mapping[Any, int], examples: Mapping[str, Sequence[str]] | None = None
) -> None:
    bad = [
        f"{count:,} {status}" + _such_as(examples, status, count)
        for status, count in Counter(statuses).most_common()
        if status != "ok"
    ]
    if bad:
        say(f"{what} that could not be used: {', '.join(bad)}")


def _such_as(examples: Mapping[str, Sequence[str]] | None, status: str, count: int) -> str:
    if not examples:
        return ""
    names = examples[status]
    return f" ({', '.join(names)}{', ...' if count > len(names) else ''})"
