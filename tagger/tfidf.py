"""The baseline that people really use: TF-IDF of titles with logistic regression, per task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tagger.decision import Decision, decide
from tagger.errors import TrainingError
from tagger.modalities import TEXT, VIEWS, View
from tagger.products import Products, ProductSource
from tagger.robustness import Said, Shown
from tagger.runtime import Logits
from tagger.scores import Judged, Predictions, judge
from tagger.scrub import scrub
from tagger.tasks import Task
from tagger.titles import title_status

REGULARISATION, MAX_ITERATIONS = 10.0, 1000
"""C of the regression; with scikit-learn's 1 a fashion catalog's colors and patterns came out half
a point worse, and a baseline should be a good one."""
AT_ONCE = 1024
"""Titles that are answered at a time: with 10,000 labels their probabilities are 80 MB."""
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class TitleModel:
    """A fitted vectorizer and classifier; column k of the latter is leaf `leaves[k]` of `task`."""

    task: Task
    vectorizer: Any
    classifier: Any
    leaves: NDArray[np.int64]

    @property
    def num_parameters(self) -> int:
        """Coefficients and intercepts."""
        return int(self.classifier.coef_.size + self.classifier.intercept_.size)

    def decide(self, titles: Sequence[str | None]) -> tuple[Decision, Bools]:
        """What it says of n products, and whether (n,) there was a title to say it from."""
        given = np.array([title_status(title) == "ok" for title in titles], dtype=bool)
        logits: Logits = np.zeros((len(titles), len(self.task.labels)), np.float32)
        logits[given] = -np.inf  # the labels that no title taught
        if given.any():
            seen = [title for title, there in zip(titles, given, strict=True) if there]
            scores = self.classifier.predict_log_proba(self.vectorizer.transform(seen))
            logits[np.ix_(given, self.leaves)] = scores
        return decide(self.task, logits, 1.0), given


@dataclass(frozen=True)
class TitleSubject:
    """The models of all tasks, to be shown worse titles; see `tagger.robustness.Subject`."""

    models: Sequence[TitleModel]
    preprocess: None = None

    @property
    def tasks(self) -> list[Task]:
        """One of each model."""
        return [model.task for model in self.models]

    def ask(self, products: Sequence[Shown], tasks: Sequence[str]) -> dict[str, Said]:
        """From the titles alone; every task applies to everything."""
        titles = [product.title for product in products]
        said = {}
        for model in self.models:
            if model.task.name in tasks:
                decision, given = model.decide(titles)
                said[model.task.name] = Said(decision, given, np.ones(len(titles), np.bool_))
        return said


def fit_titles(source: ProductSource, tasks: Sequence[Task]) -> tuple[list[TitleModel], set[str]]:
    """A model per task, of the titles and labels of `source`, and the titles that one of them
    learned from.

    Products without a usable title, or without a label that is a leaf of the task, are left out.

    Raises:
        TrainingError: fewer than two labels of a task are left.
        CatalogError: see `ProductSource.read`.
    """
    products = source.read([task.name for task in tasks])
    fitted = [_fit(task, products, source) for task in tasks]
    return [model for model, _ in fitted], set().union(*(titles for _, titles in fitted))


def _fit(task: Task, products: Products, source: ProductSource) -> tuple[TitleModel, Sequence[str]]:
    """The model of one task, and the titles that it is fitted to."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    truth = task.nearest_ids(products.labels[task.name])
    usable = np.array([title_status(title) == "ok" for title in products.titles], dtype=bool)
    rows = np.flatnonzero(usable & (truth >= 0) & (truth < task.tree.num_leaves))
    found = np.unique(truth[rows])
    if len(found) < 2:
        raise TrainingError(
            f"{source.path} has titles for {len(found)} of the {len(task.labels)} labels of task "
            f"{task.name!r} that the first model knows; TF-IDF needs two",
            "name a catalog with titles and labels with --tfidf, or leave the task out of --tasks",
        )
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    classifier = LogisticRegression(C=REGULARISATION, max_iter=MAX_ITERATIONS)
    titles = [title for row in rows if (title := products.titles[row]) is not None]
    try:
        vectors = vectorizer.fit_transform(titles)
    except ValueError as error:  # no title has a word of two letters
        raise TrainingError(
            f"{source.path}: TF-IDF finds no words in the titles: {error}",
            "name another column with --title-column, or compare without --tfidf",
        ) from error
    classifier.fit(vectors, truth[rows])
    return TitleModel(task, vectorizer, classifier, classifier.classes_), titles


def judge_titles(
    models: Sequence[TitleModel], products: Products, words: Mapping[str, frozenset[str]]
) -> dict[View, dict[str, Judged]]:
    """What the models say of `products` in each view, beside the labels.

    As a model's own views are: scrubbed titles lack the `words` of the task; of the picture alone
    nothing can be said.
    """
    return {
        view: {
            one.task.name: _judge(
                one, products, _shown(products.titles, view, words[one.task.name])
            )
            for one in models
        }
        for view in VIEWS
    }


def _shown(titles: Sequence[str | None], view: View, words: frozenset[str]) -> Sequence[str | None]:
    if view == "image":
        return [None] * len(titles)
    if view == "scrubbed":
        return [None if title is None else scrub(title, words) for title in titles]
    return titles


def _judge(model: TitleModel, products: Products, titles: Sequence[str | None]) -> Judged:
    labels = products.labels[model.task.name]
    truth, predictions = model.task.label_ids(labels), Predictions()
    for start in range(0, len(titles), AT_ONCE):
        end = start + AT_ONCE
        decision, given = model.decide(titles[start:end])
        weights = np.zeros((len(given), 2))
        weights[given, TEXT] = 1.0
        predictions.add(decision, given, truth[start:end], weights)
    return judge(model.task, labels, predictions)
