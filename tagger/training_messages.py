"""What people see of a training run: what is learned, a line per epoch, the best one."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from tagger.checkpoint import Epoch, mean
from tagger.console import Bar, console, percent, plain, say, table
from tagger.errors import listing
from tagger.picture_messages import say_if_none_is_there, say_pictures
from tagger.tasks import is_plain
from tagger.wording import counted, lasting

if TYPE_CHECKING:
    import torch

    from tagger.products import ProductSource
    from tagger.train import TrainResult
    from tagger.training_data import Data


class TrainMonitor:
    """Draws a training run: what is learned, a bar with an ETA, a line per epoch.

    Image paths of the products to train and to validate on start at `image_roots`.
    """

    def __init__(self, bar: Bar, image_roots: tuple[Path, Path]) -> None:
        self._bar = bar
        self._image_roots = image_roots

    def prepared(self, data: Data, model: torch.nn.Module, device: torch.device) -> None:
        """What will be learned, from how much, and which labels are left out."""
        millions = sum(p.numel() for p in model.parameters()) / 1e6
        say(
            f"{counted(len(data.train), 'product')} to train on, {len(data.validation):,} to "
            f"validate on; {millions:.1f} million parameters on {device}"
        )
        if data.num_known:
            say(
                f"{data.num_known:,} of the products to validate on are learned from as well, here "
                "or by the model that training starts from, which flatters every accuracy"
            )
        for task in data.tasks:
            count = sum(label is not None for label in data.train.labels[task.name])
            levels = f" in a tree of {counted(task.tree.depth, 'level')}" if task.is_tree else ""
            say(
                f"{task.name}: {counted(len(task.labels), 'label')}{levels}, "
                f"{counted(count, 'labelled product')}"
            )
            if alike := _alike_but_for_case(data.train.labels[task.name]):
                say(
                    f"{task.name}: upper and lower case make several labels of "
                    f"{listing(alike)}; write them in one way if they are one"
                )
        trees = [task.name for task in data.tasks if task.is_tree]
        for name, labels in data.left_out.items():
            fate = "too rare"
            if not all(map(is_plain, labels)):
                fate += ", or with control characters or what was not UTF-8"
            if name in trees:
                fate += (
                    ", alone under a node with more of others, or no path; they count as the node "
                    "that they stand under, if any"
                )
            say(f"{name}: {fate}: {listing(list(labels))}")
        if data.applicability is not None:
            for name, nodes in data.applicability.not_for.items():
                say(f"{name}: does not apply to {data.applicability.task} {listing(nodes)}")
        # Now, not after hours: whoever reads it stops the run.
        for products, root in zip((data.train, data.validation), self._image_roots, strict=True):
            if say_if_none_is_there(products.images, root):
                break

    def step(self, step: int, total: int, loss: float) -> None:
        """Move the bar."""
        self._bar.move(step, total, f"loss {loss:.3f}")

    def epoch(self, number: int, epoch: Epoch) -> None:
        """One line that also a log keeps."""
        views = "  ".join(
            f"{view} {percent(mean(by_task.values()))}" for view, by_task in epoch.accuracy.items()
        )
        loss = "as it came" if epoch.loss is None else f"epoch {number + 1}: loss {epoch.loss:.3f}"
        say(f"{time.strftime('%H:%M:%S')} {loss}  accuracy: {views}  ({epoch.seconds:.0f} s)")

    def left_aside(self, trouble: str) -> None:
        """What frozen towers said is not kept: now, because every epoch to come is slower."""
        say(f"{trouble}; the towers see again what is not in memory, which takes longer")


def _alike_but_for_case(labels: Iterable[str | None]) -> list[str]:
    """Labels that another one equals but for upper and lower case, side by side."""
    spellings: dict[str, list[str]] = {}
    for label in sorted({label for label in labels if label is not None}):
        spellings.setdefault(label.casefold(), []).append(label)
    return [label for alike in spellings.values() if len(alike) > 1 for label in alike]


def show_training(result: TrainResult, out: Path, source: ProductSource) -> None:
    """The best epoch as a table, where the model is that learned from `source`, and what to type
    next."""
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
            plain(task.name),
            *(percent(best.accuracy[view][task.name]) for view in ("both", "image", "title")),
        )
    console.print(made)
    say_pictures(result.image_statuses, source)
    if result.bf16 is not None:
        say(str(result.bf16))
    tasks = ",".join(task.name for task in result.data.tasks)
    named = shlex.join(["--tasks", tasks, "--model", str(out)])
    say(f"{out} is ready ({lasting(result.seconds)}); next: tagger predict CATALOG {named}")
