"""From logits to an answer: the likeliest leaf, its ancestors, and whether the task applies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tagger.applicability import mask
from tagger.calibration import Outcomes, deepest_level
from tagger.runtime import BatchAnswers, Logits, Model, softmax
from tagger.tasks import Task
from tagger.tree import NO_NODE

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Decision:
    """What a model says of one task for n products.

    leaves (n,): the likeliest label of each. chain (n, depth): the nodes from the top to it, then
    NO_NODE. confidences (n, depth): the probability of each, 0..1, that of a parent the sum of its
    children's; -1 behind the end. A flat task has depth 1. probabilities (n, labels).
    """

    task: Task
    probabilities: Floats
    leaves: Ids
    chain: Ids
    confidences: Floats

    @property
    def confidence(self) -> Floats:
        """(n,) of the likeliest label."""
        at: Floats = self.probabilities[np.arange(len(self.leaves)), self.leaves]
        return at

    @property
    def top_labels(self) -> NDArray[np.str_]:
        """(n,) the node at the top of each chain: of a flat task the label itself."""
        return np.array([self.task.nodes[top] for top in self.chain[:, 0]], dtype=np.str_)

    def deepest(self, needed: Floats) -> tuple[Ids, Floats]:
        """(n,) each: the deepest node of the chain that is at least as sure as `needed` (n,), with
        its confidence; NO_NODE and that of the likeliest label where not even the top is.

        Less specific rather than wrong: Deng et al. 2012, "Hedging your bets".
        """
        level = deepest_level(self.confidences, needed)
        row, found = np.arange(len(level)), level >= 0
        node = np.where(found, self.chain[row, level], NO_NODE)
        return node, np.where(found, self.confidences[row, level], self.confidence)


def decide(task: Task, logits: Logits, temperature: float) -> Decision:
    """The decision that `logits` (n, labels) make at `temperature`.

    The label is the leaf with the highest probability, and its ancestors are what it rolls up to,
    so that levels never contradict each other.
    """
    probabilities = softmax(logits, temperature)
    leaves = probabilities.argmax(1)
    tree = task.tree
    chain = tree.lineage[leaves]
    if tree.depth == 1:
        return Decision(task, probabilities, leaves, chain, probabilities.max(1)[:, None])
    # Of each pair of places in the flat array, what is between them is summed.
    places = tree.spans[chain] + np.arange(len(leaves))[:, None, None] * tree.num_leaves
    sums = np.add.reduceat(np.append(probabilities, 0.0), places.ravel())[::2]
    confidences = sums.reshape(chain.shape).clip(0, 1)
    confidences[chain == NO_NODE] = -1.0
    # No rounding may make a child surer than its parent.
    confidences = np.maximum.accumulate(confidences[:, ::-1], axis=1)[:, ::-1]
    return Decision(task, probabilities, leaves, chain, confidences)


def outcomes_of(
    task: Task, labels: Sequence[str | None], chain: Ids, confidences: Floats
) -> Outcomes:
    """What `chain` and `confidences` (n, depth) come to beside the true `labels` of n products,
    which all have one. Below a label that is an inner node nothing is right; see `is_whole`."""
    truth = task.nearest_ids(labels)
    true_chain = np.where(truth[:, None] >= 0, task.tree.lineage[truth], NO_NODE)
    return Outcomes(
        np.array([task.nodes[top] for top in chain[:, 0]], dtype=np.str_),
        confidences,
        (chain == true_chain) & (chain != NO_NODE),
    )


def is_whole(task: Task, labels: Sequence[str | None]) -> Bools:
    """(n,) whether a node at any depth can be judged by the label: it is no inner node."""
    whole: Bools = task.label_ids(labels) < task.tree.num_leaves
    return whole


def applies(bundle: Model, name: str, answers: BatchAnswers) -> Bools:
    """(n,) whether task `name` applies to each product, by the likeliest leaf of the task that
    decides about that."""
    allowed = mask(bundle.config, name)
    rule = bundle.config.applicability
    if allowed is None or rule is None:
        return np.ones(len(answers.modality_weights), dtype=bool)
    by_product: Bools = allowed[answers.logits[rule.task].argmax(1)]
    return by_product
