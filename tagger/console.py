"""What people see: progress on a terminal, tables, errors in two lines."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from tqdm import tqdm

from tagger.errors import TaggerError, listing

if TYPE_CHECKING:
    import torch

    from tagger.checkpoint import Epoch
    from tagger.evaluate import Evaluation
    from tagger.predict import Summary
    from tagger.train import TrainResult
    from tagger.training_data import Data

console = Console(stderr=True, highlight=False)
results = Console(highlight=False)
"""Standard output: what a command was asked for, never progress or messages."""


def say(text: str) -> None:
    """One line of plain text; nothing in it is read as markup."""
    with tqdm.external_write_mode():
        console.print(escape(text), soft_wrap=True)


def show_error(error: TaggerError) -> None:
    """What went wrong, and the next thing to do: two lines."""
    console.print(f"[bold red]error:[/] {escape(_one_line(error.message))}", soft_wrap=True)
    if error.hint:
        console.print(f"[bold]hint:[/] {escape(_one_line(error.hint))}", soft_wrap=True)


def _one_line(text: str) -> str:
    """`text` with the control characters of file names and labels spelled out."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class Bar:
    """A progress bar with rate and ETA on a terminal; nothing where nobody looks (cron, pipes)."""

    def __init__(self, unit: str, total: int | None = None) -> None:
        self._bar = tqdm(
            total=total, unit=f" {unit}", disable=not console.is_terminal, smoothing=0.1
        )

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
            say(f"{task.name}: {len(task.labels)} labels, {count:,} labelled products")
        for name, labels in data.left_out.items():
            say(f"{name}: too rare to be learned: {listing(list(labels))}")

    def step(self, step: int, total: int, loss: float) -> None:
        """Move the bar."""
        self._bar.move(step, total, f"loss {loss:.3f}")

    def epoch(self, number: int, epoch: Epoch) -> None:
        """One line that also a log keeps."""
        from tagger.checkpoint import mean

        views = "  ".join(
            f"{view} {percent(mean(by_task.values()))}" for view, by_task in epoch.accuracy.items()
        )
        say(
            f"{time.strftime('%H:%M:%S')} epoch {number + 1}: loss {epoch.loss:.3f}  "
            f"accuracy: {views}  ({epoch.seconds:.0f} s)"
        )


def show_training(result: TrainResult, out: Path) -> None:
    """The best epoch as a table, where the model is, and what to type next."""
    best = result.history[result.best_epoch]
    made = table(
        f"validation accuracy, epoch {result.best_epoch + 1} of {len(result.history)}, %",
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
    tasks = ",".join(task.name for task in result.data.tasks)
    say(
        f"{out} is ready ({result.seconds / 60:.0f} minutes); "
        f"next: tagger predict CATALOG --tasks {tasks} --model {out}"
    )


def show_evaluation(evaluation: Evaluation) -> None:
    """One table per measure, a row per task, a column per view; then the unknown labels."""
    views = {
        "both": "picture and title",
        "scrubbed": "words scrubbed",
        "image": "picture alone",
        "title": "title alone",
    }
    measures = {
        "accuracy": "accuracy, %",
        "macro_f1": "macro-F1, %",
        "recall_at_90_precision": "recall at 90% precision, %",
        "image_weight": "weight of the picture, %",
    }
    views = {view: name for view, name in views.items() if view in evaluation.scores}
    for measure, name in measures.items():
        made = table(name, "task", "labelled products", *views.values())
        for task, both in evaluation.scores["both"].items():
            made.add_row(
                task,
                f"{both.num_products:,}",
                *(percent(getattr(evaluation.scores[v][task], measure)) for v in views),
            )
        results.print(made)
    for task, both in evaluation.scores["both"].items():
        if both.unknown_labels:
            say(
                f"{sum(both.unknown_labels.values()):,} products have a {task} that the model does "
                f"not know; they count as wrong: {listing(list(both.unknown_labels))}"
            )


def show_prediction(summary: Summary, out: Path) -> None:
    """How many rows, what was wrong with some, and where the result is."""
    _say_bad("pictures", summary.image_status, summary.examples)
    _say_bad("titles", summary.title_status)
    for task, statuses in summary.task_status.items():
        say(f"{task}: {statuses['ok']:,} of {summary.num_rows:,} products labelled")
    say(f"{out}: {summary.num_rows:,} rows")


def _say_bad(
    what: str, statuses: Counter[str], examples: Mapping[str, Sequence[str]] | None = None
) -> None:
    bad = [
        f"{count:,} {status}" + _such_as(examples, status, count)
        for status, count in statuses.most_common()
        if status != "ok"
    ]
    if bad:
        say(f"{what} that could not be used: {', '.join(bad)}")


def _such_as(examples: Mapping[str, Sequence[str]] | None, status: str, count: int) -> str:
    if not examples:
        return ""
    names = examples[status]
    return f" ({', '.join(names)}{', ...' if count > len(names) else ''})"
