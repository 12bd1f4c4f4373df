"""What a model is trained and validated on, and the tasks that it can learn from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tagger.applicability import learn_applicability, stated_applicability
from tagger.config import Applicability, Training
from tagger.errors import TrainingError, listing
from tagger.products import Products, ProductSource, require_labels
from tagger.scrub import giveaways
from tagger.split import LEARNED, validation_rows
from tagger.tasks import Task, is_plain, join_leaves, learn_task
from tagger.taxonomy import Taxonomy
from tagger.trained_on import keys_of, past_of


@dataclass(frozen=True)
class Data:
    """Products to learn from and to validate on, the tasks learned from them, which of them apply
    to what, and the labels that were left out; and how many of the products to validate on are
    among those to learn from, or a model that the run starts from has learned from them."""

    train: Products
    validation: Products
    tasks: tuple[Task, ...]
    left_out: dict[str, dict[str, int]]
    applicability: Applicability | None = None
    num_known: int = 0


def read_data(
    catalog: ProductSource,
    validation: ProductSource | None,
    tasks: Sequence[str],
    training: Training,
    earlier: Sequence[Path] = (),
) -> Data:
    """Both parts of the data; without a `validation` catalog a share of `catalog` is kept back, of
    products that the models `earlier` have not learned from as far as that leaves new ones to
    learn.

    The tree of the first task is that of the taxonomy of `catalog`, with all its nodes, if there is
    one.

    Raises:
        CatalogError, TaxonomyError: see `ProductSource.read`; a task without any label.
        TrainingError: an empty part, nothing to validate by, or a task without two labels of
            enough support.
        ModelError: see `past_of`.
    """
    products = catalog.read(tasks)
    # All nodes of a taxonomy are labels, whoever has them.
    for task in tasks if catalog.taxonomy is None else tasks[1:]:
        require_labels(products, [task], catalog)
    if validation is not None:
        train_part, kept_back = products, validation.read(tasks)
    else:
        train_part, kept_back = split(products, training, past_of(products, earlier))
    if not len(train_part) or not len(kept_back):
        raise TrainingError(
            f"{catalog.path}: {len(train_part)} products to train on, {len(kept_back)} to validate "
            "on",
            "use a larger catalog, or give --validation FILE",
        )
    if training.epochs and not any(any(labels) for labels in kept_back.labels.values()):
        raise TrainingError(
            f"none of the {len(kept_back):,} products to validate on has a label of "
            f"{listing(list(tasks))}, so that no epoch is better than another",
            "label more products, or give --validation FILE",
        )
    tree = catalog.tree
    learned = _learn_tasks(train_part, tasks, catalog.columns.separator, tree, training.min_support)
    found = tuple(task for task, _ in learned)
    rare = {task.name: left_out for task, left_out in learned if left_out}
    applicability = learn_applicability(
        found, train_part.labels, train_part.titles, stated_applicability(found, tree)
    )
    known = np.isin(keys_of(kept_back), keys_of(train_part))
    num_known = int((known | (past_of(kept_back, earlier) == LEARNED)).sum())
    return Data(train_part, kept_back, found, rare, applicability, num_known)


def _learn_tasks(
    products: Products,
    names: Sequence[str],
    separator: str | None,
    tree: Taxonomy | None,
    min_support: int,
) -> list[tuple[Task, dict[str, int]]]:
    """Each task with the labels that it leaves out, and how many products have them.

    Raises:
        TrainingError: fewer than two labels are left.
    """
    learned = [learn_task(name, products.labels[name], min_support, separator) for name in names]
    if tree is not None:
        learned[0] = (Task(names[0], join_leaves(tree.nodes, separator), separator), {})
    for task, left_out in learned:
        if len(task.labels) < 2:
            if broken := [label for label in left_out if not is_plain(label)]:
                raise TrainingError(
                    f"task {task.name!r} needs two labels; left out, since they hold control "
                    f"characters or what was not UTF-8: {listing(broken, 5)}",
                    "take these characters out of its column, or leave the task out",
                )
            raise TrainingError(
                f"task {task.name!r}: {len(task.labels)} of its labels have at least {min_support} "
                f"products to learn from, two are needed; left out: {listing(list(left_out), 5)}",
                "use more labelled products, or leave the task out",
            )
    return learned


def split(
    products: Products, training: Training, past: NDArray[np.int64]
) -> tuple[Products, Products]:
    """A training and a validation part, see `validation_rows`, by the `past` (n,) of each; of
    near-duplicate titles all are on one side."""
    words = giveaways(
        {label for labels in products.labels.values() for label in labels if label is not None}
    )
    chosen = validation_rows(
        products.titles,
        products.images,
        training.validation_share,
        training.seed,
        words,
        past=past.tolist(),
    )
    return (
        products.take([row for row, hit in enumerate(chosen) if not hit]),
        products.take([row for row, hit in enumerate(chosen) if hit]),
    )
