"""Decisions in a tree: from leaves to their ancestors, what is right, what may be published."""

from __future__ import annotations

import numpy as np
import pytest

from tagger.calibration import (
    GRID,
    Outcomes,
    Threshold,
    deepest_level,
    fit_by_label,
    fit_threshold,
)
from tagger.decision import Decision, decide, is_whole, outcomes_of
from tagger.runtime import softmax
from tagger.scores import (
    Judged,
    Predictions,
    applicability_score,
    judge,
    published,
    rollup_coverage,
    score,
)
from tagger.tasks import Task
from tagger.tree import NO_NODE, split_path

from .test_tree import random_task

DELTA = 0.1
KIND = Task(
    "kind", ("Bags", "Shoes > Boots > Rain", "Shoes > Boots > Snow", "Shoes > Mules"), " > "
)
BAGS, RAIN, SNOW, MULES, SHOES, BOOTS = range(6)


def random_decision(seed: int, count: int = 40, temperature: float = 1.3) -> Decision:
    task = random_task(seed)
    logits = np.random.default_rng(seed).normal(0, 3, (count, task.tree.num_leaves))
    return decide(task, logits.astype(np.float32), temperature)


def threshold_of(value: float | None, **by_label: float | None) -> Threshold:
    return Threshold(
        precision=0.9,
        threshold=value,
        by_label=by_label,
        num_products=1,
        reported_products=1,
        published=0,
        reported_precision=None,
    )


@pytest.mark.parametrize("seed", range(20))
def test_confidences_never_rise_and_are_the_sums_of_the_leaves_below(seed: int) -> None:
    decision = random_decision(seed)
    tree = decision.task.tree
    sums = tree.sums(decision.probabilities)
    np.testing.assert_array_equal(decision.leaves, decision.probabilities.argmax(1))
    np.testing.assert_array_equal(decision.chain, tree.lineage[decision.leaves])
    assert (np.diff(decision.confidences, axis=1) <= 0).all()
    for row, chain in enumerate(decision.chain):
        there = chain != NO_NODE
        assert (decision.confidences[row, ~there] == -1).all()
        np.testing.assert_allclose(
            decision.confidences[row, there], sums[row, chain[there]], rtol=0, atol=1e-12
        )
        top = decision.task.nodes[chain[0]]
        assert decision.top_labels[row] == top
    assert decision.confidences.max() <= 1
    last = (decision.chain != NO_NODE).sum(1) - 1
    np.testing.assert_allclose(
        decision.confidence, decision.confidences[np.arange(40), last], rtol=0, atol=1e-12
    )


def test_rounding_makes_no_child_surer_than_its_parent() -> None:
    """Beside `b` stands only what is impossible, which shifts how its leaves are added up."""
    labels = ("a > a", *(f"a > b > {n:04d}" for n in range(300)), "c")
    logits = np.random.default_rng(0).normal(0, 1, (200, 302)).astype(np.float32)
    logits[:, 0] = -2000
    confidences = decide(Task("kind", labels, ">"), logits, 1.0).confidences
    deep = confidences[:, 2] > 0
    assert deep.sum() > 100
    assert (np.diff(confidences, axis=1) <= 0).all()
    np.testing.assert_allclose(confidences[deep, 0], confidences[deep, 1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_flat_task_is_decided_as_by_argmax_at_depth_one(temperature: float) -> None:
    logits = np.random.default_rng(1).normal(0, 2, (50, 4)).astype(np.float32)
    flat = decide(Task("color", ("a > x", "b", "c", "a > y")), logits, temperature)
    np.testing.assert_array_equal(flat.leaves, logits.argmax(1))
    assert flat.chain.shape == flat.confidences.shape == (50, 1)
    np.testing.assert_array_equal(flat.chain[:, 0], flat.leaves)
    shares = softmax(logits, temperature)
    np.testing.assert_array_equal(flat.confidences[:, 0], shares.max(1))
    np.testing.assert_array_equal(flat.confidence, shares.max(1))
    node, confidence = flat.deepest(np.full(50, 0.5))
    np.testing.assert_array_equal(node, np.where(shares.max(1) >= 0.5, flat.leaves, NO_NODE))
    np.testing.assert_array_equal(confidence, shares.max(1))


def test_temperature_flattens_leaves_and_so_their_ancestors() -> None:
    logits = np.array([[0, 4, 2, 1]], dtype=np.float32)
    cold, warm = (decide(KIND, logits, temperature).confidences[0] for temperature in (0.5, 2.0))
    assert (cold > warm).all()


@pytest.mark.parametrize("seed", range(20))
def test_deepest_is_the_last_node_of_the_chain_that_is_sure_enough(seed: int) -> None:
    decision = random_decision(seed)
    needed = np.random.default_rng(seed).uniform(0.2, 1.01, 40)
    nodes, confidences = decision.deepest(needed)
    for row in range(40):
        pairs = zip(decision.chain[row], decision.confidences[row], strict=True)
        sure = [(node, c) for node, c in pairs if node != NO_NODE and c >= needed[row]]
        node, confidence = sure[-1] if sure else (NO_NODE, decision.confidence[row])
        assert nodes[row] == node
        assert confidences[row] == confidence
    none, _ = decision.deepest(np.full(40, np.inf))
    assert (none == NO_NODE).all()


@pytest.mark.parametrize("seed", range(10))
def test_deepest_level_is_the_last_that_is_sure_enough(seed: int) -> None:
    outcomes = random_outcomes(seed)
    needed = np.random.default_rng(seed).choice(GRID, len(outcomes))
    for found, row, least in zip(
        deepest_level(outcomes.confidence, needed), outcomes.confidence, needed, strict=True
    ):
        assert found == max((k for k, c in enumerate(row) if c >= least), default=-1)


def chains(*leaves: int) -> tuple[np.ndarray, np.ndarray]:
    """Chain and confidences of products whose likeliest labels are `leaves` of KIND."""
    chain = KIND.tree.lineage[list(leaves)]
    return chain, np.where(chain == NO_NODE, -1.0, 0.9 - 0.1 * np.arange(chain.shape[1]))


@pytest.mark.parametrize(
    ("said", "label", "right"),
    [
        (SNOW, "Shoes > Boots > Snow", [True, True, True]),
        (SNOW, "Shoes>Boots>Snow", [True, True, True]),
        (SNOW, "Shoes > Boots > Rain", [True, True, False]),
        (SNOW, "Shoes > Mules", [True, False, False]),
        (SNOW, "Bags", [False, False, False]),
        (SNOW, "Hats", [False, False, False]),
        (SNOW, "Hats > Snow", [False, False, False]),
        (SNOW, "Shoes > Boots > Sand", [True, True, False]),
        (SNOW, "Shoes > Clogs > Snow", [True, False, False]),
        (SNOW, "Shoes > Boots > Snow > High", [True, True, True]),
        (SNOW, "Shoes > Boots", [True, True, False]),
        (SNOW, "Shoes", [True, False, False]),
        (MULES, "Shoes > Mules", [True, True, False]),
        (MULES, "Shoes > Boots", [True, False, False]),
        (BAGS, "Bags", [True, False, False]),
        (BAGS, "Hats", [False, False, False]),
    ],
)
def test_ancestors_of_the_true_node_are_right(said: int, label: str, right: list[bool]) -> None:
    chain, confidences = chains(said)
    outcomes = outcomes_of(KIND, [label], chain, confidences)
    assert outcomes.correct[0].tolist() == right
    assert outcomes.predicted.tolist() == [KIND.nodes[chain[0, 0]]]
    np.testing.assert_array_equal(outcomes.confidence, confidences)


def test_inner_nodes_alone_are_not_whole() -> None:
    labels = ["Bags", "Shoes", "Shoes > Boots", "Shoes > Mules", "Hats", "Shoes > Boots > Sand"]
    assert is_whole(KIND, labels).tolist() == [True, False, False, True, True, True]


def random_outcomes(seed: int, count: int = 200, depth: int = 4) -> Outcomes:
    """Arbitrary falling chains of different lengths, many of them exactly on the grid."""
    rng = np.random.default_rng(seed)
    values = np.where(rng.random((count, depth)) < 0.5, rng.choice(GRID, (count, depth)), 1)
    values = np.where(rng.random((count, depth)) < 0.5, rng.random((count, depth)), values)
    confidence = -np.sort(-values, axis=1)
    confidence[np.arange(depth) >= rng.integers(1, depth + 1, count)[:, None]] = -1
    correct = (rng.random((count, depth)) < 0.7) & (confidence >= 0)
    return Outcomes(rng.choice(["a", "b"], count), confidence, correct)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_counts_are_those_of_each_threshold_by_hand(seed: int, depth: int) -> None:
    outcomes = random_outcomes(seed, depth=depth)
    num_published, num_right = outcomes.counts
    for k, least in enumerate(GRID):
        chosen = [
            max((i for i, c in enumerate(row) if c >= least), default=None)
            for row in outcomes.confidence
        ]
        right = [i is not None and row[i] for i, row in zip(chosen, outcomes.correct, strict=True)]
        assert num_published[k] == sum(i is not None for i in chosen)
        assert num_right[k] == sum(right)
        level, is_right = outcomes.published(np.full(len(outcomes), least))
        assert level.tolist() == [-1 if i is None else i for i in chosen]
        assert is_right.tolist() == right


def test_nothing_is_counted_of_no_products() -> None:
    outcomes = random_outcomes(0)
    nothing = outcomes.where(np.zeros(len(outcomes), dtype=bool))
    assert [part.sum() for part in nothing.counts] == [0, 0]
    assert fit_threshold(nothing, nothing, 0.9, DELTA) is None


def draw(count: int, seed: int) -> Outcomes:
    """Products of an overconfident network with three levels, a third of which end at the second:
    a node is right with less than its confidence, and so is each ancestor, more often."""
    rng = np.random.default_rng(seed)
    logit = np.sort(np.abs(rng.normal(2.5, 2, (count, 3))), axis=1)[:, ::-1]
    confidence = 1 / (1 + np.exp(-logit))
    correct = rng.random((count, 1)) < 1 / (1 + np.exp(-0.8 * logit))
    short = rng.random(count) < 1 / 3
    confidence[short, 2], correct[short, 2] = -1, False
    return Outcomes(np.full(count, "Shoes"), confidence, correct)


POPULATION = draw(200_000, seed=1)


def precision_at(threshold: float) -> float:
    level, right = POPULATION.published(np.full(len(POPULATION), threshold))
    return float(right.sum() / max(1, (level >= 0).sum()))


@pytest.mark.parametrize(("precision", "count"), [(0.8, 600), (0.9, 600), (0.9, 2000)])
def test_promise_of_a_tree_is_broken_at_most_as_often_as_delta_says(
    precision: float, count: int
) -> None:
    thresholds = [
        fit_threshold(
            draw(count // 4, 2 * seed + 2), draw(count * 3 // 4, 2 * seed + 3), precision, DELTA
        )
        for seed in range(100)
    ]
    given = [threshold for threshold in thresholds if threshold is not None]
    assert len(given) > 50, "else nothing is tested"
    # 10 expected at most; 19 is what chance leaves in one of 300 tests.
    assert sum(precision_at(threshold) < precision for threshold in given) <= 19


def leaves_of(outcomes: Outcomes) -> Outcomes:
    """The same products, of which only the leaf can be published."""
    last = (outcomes.confidence >= 0).sum(1)[:, None] - 1
    return Outcomes(
        outcomes.predicted,
        np.take_along_axis(outcomes.confidence, last, 1),
        np.take_along_axis(outcomes.correct, last, 1),
    )


@pytest.mark.parametrize("seed", range(10))
def test_rolled_up_at_least_as_many_are_published_as_of_leaves_alone(seed: int) -> None:
    outcomes = random_outcomes(seed)
    assert (outcomes.counts[0] >= leaves_of(outcomes).counts[0]).all()
    guide, test = draw(500, 10 * seed), draw(1500, 10 * seed + 1)
    rolled = fit_threshold(guide, test, 0.9, DELTA)
    alone = fit_threshold(leaves_of(guide), leaves_of(test), 0.9, DELTA)
    assert rolled is not None
    covered = (POPULATION.confidence[:, 0] >= rolled).mean()
    assert covered >= (leaves_of(POPULATION).confidence[:, 0] >= (alone or 2)).mean()
    assert rollup_coverage(test, 0.9) >= rollup_coverage(leaves_of(test), 0.9)


def test_labels_of_a_tree_with_their_own_threshold_are_the_tops() -> None:
    outcomes = draw(4000, 3)
    names = np.where(np.arange(4000) % 2 == 0, "Shoes", "Bags")
    products = Outcomes(names, outcomes.confidence, outcomes.correct)
    rest, by_label = fit_by_label(products, products, 0.9, DELTA)
    assert rest is None
    assert set(by_label) == {"Shoes", "Bags"}
    assert all(by_label.values())


def best_coverage(outcomes: Outcomes, precision: float) -> float:
    """The largest share that one threshold publishes with so many right."""
    best = 0.0
    for least in GRID:
        level, right = outcomes.published(np.full(len(outcomes), least))
        if right.sum() >= precision * (level >= 0).sum():
            best = max(best, float((level >= 0).mean()))
    return best


@pytest.mark.parametrize("seed", range(5))
def test_rollup_coverage_is_the_best_of_all_thresholds(seed: int) -> None:
    outcomes = draw(300, seed)
    assert rollup_coverage(outcomes, 0.85) == pytest.approx(best_coverage(outcomes, 0.85))


INNER = {"Shoes", "Shoes > Boots"}
LABELS = [
    "Bags",
    "Shoes",
    "Shoes > Boots",
    "Shoes > Boots > Snow",
    "Shoes > Boots > Rain",
    "Shoes > Mules",
    "Shoes > Boots > Sand",
    "Hats > Caps",
    None,
]


def random_judged(seed: int, count: int = 120) -> tuple[Judged, Decision, np.ndarray, list[str]]:
    """Products of KIND with labels of all kinds; a fifth gets no answer. Returns with the verdict
    what was decided and given, and the labels, of the labelled ones."""
    rng = np.random.default_rng(seed)
    labels = [LABELS[i] for i in rng.integers(0, len(LABELS), count)]
    decision = decide(KIND, rng.normal(0, 1.5, (count, 4)).astype(np.float32), 1.0)
    given = rng.random(count) < 0.8
    predictions = Predictions()
    truth = KIND.label_ids(labels)
    for start in range(0, count, 50):
        rows = slice(start, start + 50)
        part = Decision(
            KIND,
            decision.probabilities[rows],
            decision.leaves[rows],
            decision.chain[rows],
            decision.confidences[rows],
        )
        weights = np.full((len(part.leaves), 2), 0.5)
        predictions.add(part, given[rows], truth[rows], weights)
    judged = judge(KIND, labels, predictions)
    kept = [row for row, label in enumerate(labels) if label is not None]
    mine = Decision(
        KIND,
        decision.probabilities[kept],
        decision.leaves[kept],
        decision.chain[kept],
        decision.confidences[kept],
    )
    assert judged.rows.tolist() == kept
    return judged, mine, given[kept], [label for label in labels if label is not None]


@pytest.mark.parametrize("seed", range(5))
def test_product_is_judged_no_deeper_than_its_label(seed: int) -> None:
    judged, decision, given, labels = random_judged(seed)
    for row, label in enumerate(labels):
        names = split_path(label, ">")
        path = KIND.tree.names[decision.leaves[row]]
        known = label in KIND.nodes
        said = path[: len(names)] if known else path
        assert judged.predicted[row] == (KIND.nodes[KIND.tree.find(said)] if given[row] else "")
        assert judged.correct[row] == (known and bool(given[row]) and said == names)
        level = int((decision.chain[row] != NO_NODE).sum() if not known else len(said)) - 1
        expected = decision.confidences[row, level] if given[row] else 0
        assert judged.confidence[row] == pytest.approx(expected)
    assert judged.whole.tolist() == [label not in INNER for label in labels]


@pytest.mark.parametrize("seed", range(5))
def test_figures_of_a_tree_are_those_counted_by_hand(seed: int) -> None:
    judged, decision, given, labels = random_judged(seed)
    scored = score(judged, 0.6)
    assert scored.tree is not None
    shared, num_said, num_true, steps = 0, 0, 0, []
    by_depth: dict[int, list[bool]] = {}
    for row, label in enumerate(labels):
        true = split_path(label, ">")
        said = KIND.tree.names[decision.leaves[row]] if given[row] else ()
        said = said[: len(true)] if label in KIND.nodes else said
        common = sum(said[: k + 1] == true[: k + 1] for k in range(min(len(said), len(true))))
        shared, num_said, num_true = shared + common, num_said + len(said), num_true + len(true)
        if given[row] and said != true:
            steps.append(len(said) + len(true) - 2 * common)
        for depth in range(1, len(true) + 1):
            by_depth.setdefault(depth, []).append(common >= depth)
    tree = scored.tree
    assert tree.precision == pytest.approx(shared / num_said)
    assert tree.recall == pytest.approx(shared / num_true)
    assert tree.f1 == pytest.approx(2 / (1 / tree.precision + 1 / tree.recall))
    assert tree.accuracy_by_depth == pytest.approx([np.mean(by_depth[d]) for d in (1, 2, 3)])
    assert tree.error_distance == pytest.approx(np.mean(steps))
    whole = judged.outcomes.where(np.array([label not in INNER for label in labels]))
    assert tree.rollup_coverage == pytest.approx(best_coverage(whole, 0.6))
    assert scored.accuracy == pytest.approx(judged.correct.mean())
    assert scored.unknown_labels.keys() == {"Shoes > Boots > Sand", "Hats > Caps"}
    leaf = [row for row, label in enumerate(labels) if label in KIND.labels]
    unknown = [row for row, label in enumerate(labels) if label not in KIND.nodes]
    errors = [
        (
            (decision.probabilities[r] * given[r] - np.eye(4)[KIND.labels.index(labels[r])]) ** 2
        ).sum()
        for r in leaf
    ]
    errors += [((decision.probabilities[r] * given[r]) ** 2).sum() + 1 for r in unknown]
    assert scored.brier == pytest.approx(np.mean(errors))


def test_figures_of_a_flat_task_have_no_tree() -> None:
    task, predictions = Task("color", ("Red", "Blue")), Predictions()
    decision = decide(task, np.array([[1, 0], [0, 1]], dtype=np.float32), 1.0)
    predictions.add(decision, np.ones(2, bool), np.array([0, 0]), np.full((2, 2), 0.5))
    scored = score(judge(task, ["Red", "Red"], predictions), 0.9)
    assert scored.tree is None
    assert scored.accuracy == 0.5


@pytest.mark.parametrize("seed", range(5))
def test_published_are_answered_products_whose_label_is_no_inner_node(seed: int) -> None:
    judged, decision, given, labels = random_judged(seed)
    found = published(judged, threshold_of(0.5, Bags=None))
    depths, right = [], []
    whole = [row for row, label in enumerate(labels) if label not in INNER]
    for row in whole:
        path = KIND.tree.names[decision.leaves[row]]
        sure = [k for k in range(len(path)) if decision.confidences[row, k] >= 0.5]
        if given[row] and sure and path[0] != "Bags":
            depths.append(sure[-1])
            right.append(split_path(labels[row], ">")[: sure[-1] + 1] == path[: sure[-1] + 1])
    assert found.by_label
    assert found.coverage == pytest.approx(len(depths) / len(whole))
    assert found.precision == pytest.approx(np.mean(right))
    assert found.by_depth == pytest.approx(np.bincount(depths, minlength=3) / len(depths))
    nothing = published(judged, threshold_of(None))
    assert (nothing.coverage, nothing.precision, nothing.by_depth) == (0, None, (0, 0, 0))


def test_withheld_answers_are_scored_against_labels_and_true_nodes() -> None:
    withheld = np.array([1, 1, 1, 0, 0, 0, 1], dtype=bool)
    filled = np.array([0, 1, 0, 1, 0, 0, 0], dtype=bool)
    excluded = np.array([1, 1, 0, 0, 1, 0, 1], dtype=float)
    found = applicability_score(withheld, filled, excluded)
    assert (found.filled, found.withheld) == (2, 1)
    assert found.precision == pytest.approx(2 / 4)
    assert found.recall == pytest.approx(2 / 3)
    # Without a true node there is no telling, but a label is one all the same.
    some = np.where(np.arange(7) < 4, excluded, np.nan)
    partly = applicability_score(withheld, filled, some)
    assert (partly.filled, partly.withheld) == (2, 1)
    assert partly.precision == pytest.approx(1 / 3)
    assert partly.recall == 1
    unknown = applicability_score(withheld, filled, np.full(7, np.nan))
    assert (unknown.filled, unknown.withheld) == (2, 1)
    assert unknown.precision is unknown.recall is None
    nothing = np.zeros(7)
    assert applicability_score(nothing > 0, filled, excluded).precision is None
    assert applicability_score(withheld, filled, nothing).recall is None
