"""What a model is trained and validated on, and the tasks that it can learn from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tagger.applicability import learn_applicability, stated_applicability
from tagger.catalog import Columns
from tagger.config import Applicability, Training
from tagger.errors import TrainingError, listing
from tagger.products import Products, read_products, resolve
from tagger.scrub import giveaways
from tagger.split import validation_rows
from tagger.tasks import Task, join_leaves, learn_task
from tagger.taxonomy import read_taxonomy


@dataclass(frozen=True)
class Data:
    """Products to learn from and to validate on, the tasks learned from them, which of them apply
    to what, and the labels that were left out."""

    train: Products
    validation: Products
    tasks: tuple[Task, ...]
    left_out: dict[str, dict[str, int]]
    applicability: Applicability | None = None


def read_data(
    catalog: Path,
    validation: Path | None,
    columns: Columns,
    tasks: Sequence[str],
    training: Training,
    limit: int | None = None,
    taxonomy: Path | None = None,
) -> Data:
    """Both parts of the data; without a `validation` catalog a share of `catalog` is kept back.

    The tree of the first task is that of `taxonomy`, with all its nodes, if there is one.

    Raises:
        CatalogError: see `read_products`.
        TaxonomyError: see `read_taxonomy` and `Taxonomy.resolve`.
        TrainingError: an empty part, or a task without two labels of enough support.
    """
    tree = None if taxonomy is None else read_taxonomy(taxonomy)
    products = read_products(catalog, columns, tasks, limit)
    products = resolve(products, tasks[0], tree, columns, catalog)
    if validation is not None:
        train_part = products
        kept_back = read_products(validation, columns, tasks)
        kept_back = resolve(kept_back, tasks[0], tree, columns, validation)
    else:
        train_part, kept_back = split(products, training)
    if not len(train_part) or not len(kept_back):
        raise TrainingError(
            f"{catalog}: {len(train_part)} products to train on, {len(kept_back)} to validate on",
            "use a larger catalog, or give --validation FILE",
        )
    learned = [
        learn_task(task, train_part.labels[task], training.min_support, columns.separator)
        for task in tasks
    ]
    if tree is not None:
        learned[0] = (
            Task(tasks[0], join_leaves(tree.nodes, columns.separator), columns.separator),
            {},
        )
    for task, left_out in learned:
        if len(task.labels) < 2:
            raise TrainingError(
                f"task {task.name!r}: {len(task.labels)} of its labels have at least "
                f"{training.min_support} products, two are needed; too rare: "
                f"{listing(list(left_out), 5)}",
                "use more labelled products, or leave the task out",
            )
    rare = {task.name: left_out for task, left_out in learned if left_out}
    found = tuple(task for task, _ in learned)
    applicability = learn_applicability(
        found, train_part.labels, train_part.titles, stated_applicability(found, tree)
    )
    return Data(train_part, kept_back, found, rare, applicability)


def split(products: Products, training: Training) -> tuple[Products, Products]:
    """A training and a validation part; near-duplicate titles stay on one side."""
    words = giveaways(
        {label for labels in products.labels.values() for label in labels if label is not None}
    )
    chosen = validation_rows(
        products.titles, products.images, training.validation_share, training.seed, words
    )
    return (
        products.take([row for row, hit in enumerate(chosen) if not hit]),
        products.take([row for row, hit in enumerate(chosen) if hit]),
    )
