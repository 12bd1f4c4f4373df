"""Models of trees: the sums in their heads and losses, and the commands from end to end."""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tagger import bundle, cli
from tagger.calibration import Calibration, TaskCalibration, Threshold, write_calibration
from tagger.catalog import Catalog, Columns
from tagger.config import (
    Applicability,
    Architecture,
    Config,
    ConvTower,
    Fusion,
    Preprocess,
    TokenTower,
    Training,
    write_config,
)
from tagger.fit import Learner, cross_entropy, label_weights
from tagger.hashes import file_digest
from tagger.network import Head, PathSum
from tagger.pixel_cache import PixelCache
from tagger.products import Products, ProductSource
from tagger.tasks import UNKNOWN_LABEL, UNLABELED, Task
from tagger.tree import NO_NODE, Tree
from tagger.views import score_views

from .conftest import MakeCatalog, randomise, save_tiny, tiny_config
from .test_tree import random_task

FUSION = Fusion(width=8, heads=2, head_width=8)
KINDS = {
    "Boot": "Shoes > Boots > Rain",
    "Yeti": "Shoes > Boots > Snow",
    "Mule": "Shoes > Mules",
    "Tote": "Bags",
    "Shirt": "Clothing > Shirts",
    "Dress": "Clothing > Dresses",
}
LEAVES = tuple(sorted(KINDS.values()))
SLEEVES = {"alpha": "Long", "beta": "Short"}
NODES = {*LEAVES, "Shoes", "Shoes > Boots", "Clothing"}


def logits_by_hand(tree: Tree, scores: Tensor) -> Tensor:
    """(n, leaves) from the scores (n, nodes)."""
    paths = [
        [tree.find(n[:k]) for k in range(1, len(n) + 1)] for n in tree.names[: tree.num_leaves]
    ]
    return torch.stack([scores[:, path].sum(1) for path in paths], 1)


def random_head(task: Task, seed: int) -> Head:
    torch.manual_seed(seed)
    head = Head(FUSION, task.tree).eval()
    for parameter in head.parameters():
        parameter.data.normal_()
    return head


@pytest.mark.parametrize("seed", range(10))
def test_logit_of_a_leaf_is_the_sum_of_the_scores_on_its_path(seed: int) -> None:
    task = random_task(seed)
    head, inputs = random_head(task, seed), torch.randn(7, 8)
    scores = head[3](head[1](head[0](inputs)))
    assert scores.shape == (7, len(task.tree))
    torch.testing.assert_close(head(inputs), logits_by_hand(task.tree, scores))


@pytest.mark.parametrize("seed", range(10))
def test_folding_a_head_changes_no_logit_and_leaves_one_matrix(seed: int) -> None:
    task = random_task(seed)
    head, inputs = random_head(task, seed), torch.randn(7, 8)
    before = head(inputs)
    for _ in range(2):  # the second time there is nothing to do
        head.fold()
        assert not any(isinstance(part, PathSum) for part in head)
        assert head[-1].weight.shape == (task.tree.num_leaves, 8)
        torch.testing.assert_close(head(inputs), before, rtol=1e-4, atol=1e-4)


def test_head_of_a_flat_task_has_no_paths() -> None:
    for task in (Task("color", ("Blue", "Red > x")), Task("kind", ("A", "B"), ">")):
        head = random_head(task, 0)
        assert list(head.state_dict()) == ["0.weight", "0.bias", "3.weight", "3.bias"]
        assert not isinstance(head[-1], PathSum)


def spans_of(task: Task) -> Tensor:
    return torch.from_numpy(task.tree.spans)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_loss_of_leaves_is_the_cross_entropy_of_torch(seed: int, smoothing: float) -> None:
    task = random_task(seed)
    leaves = task.tree.num_leaves
    torch.manual_seed(seed)
    logits, weights = torch.randn(20, leaves) * 3, torch.rand(len(task.tree)) + 0.1
    target = torch.randint(0, leaves, (20,))
    expected = F.cross_entropy(logits, target, weights[:leaves], label_smoothing=smoothing)
    found = cross_entropy(logits, target, spans_of(task), weights, smoothing)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("seed", range(5))
def test_loss_of_a_node_is_that_of_the_leaves_below_it_together(seed: int) -> None:
    task = random_task(seed)
    torch.manual_seed(seed)
    logits, weights = torch.randn(30, task.tree.num_leaves) * 3, torch.rand(len(task.tree)) + 0.1
    target = torch.randint(0, len(task.tree), (30,))
    shares = logits.softmax(1)
    below = torch.stack(
        [shares[i, slice(*task.tree.spans[node])].sum() for i, node in enumerate(target)]
    )
    expected = (-below.log() * weights[target]).sum() / weights[target].sum()
    found = cross_entropy(logits, target, spans_of(task), weights, 0.0)
    torch.testing.assert_close(found, expected)


def test_product_labelled_with_an_inner_node_says_nothing_of_the_leaves_below() -> None:
    task = Task("kind", LEAVES, ">")
    shoes = torch.tensor([task.tree.find(("Shoes",))])
    first, end = task.tree.spans[int(shoes)]
    weights = torch.ones(len(task.tree))
    torch.manual_seed(0)
    shares = torch.rand(1, 6).softmax(1)
    moved = shares.clone()
    moved[0, first:end] = shares[0, first:end].flip(0) * 0.5 + shares[0, first:end].mean() * 0.5
    losses = [cross_entropy(s.log(), shoes, spans_of(task), weights, 0.0) for s in (shares, moved)]
    torch.testing.assert_close(losses[0], losses[1])
    logits = shares.log().requires_grad_()
    cross_entropy(logits, shoes, spans_of(task), weights, 0.0).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    # Leaves below keep their proportions: each is pulled by its own share.
    pull = (logits.grad / shares)[0].detach()
    torch.testing.assert_close(pull[first:end], pull[first].expand(end - first))
    assert bool((pull[first:end] < 0).all())
    torch.testing.assert_close(logits.grad.sum(), torch.tensor(0.0), atol=1e-6, rtol=0)


def test_loss_stays_finite_where_the_network_is_sure_of_something_else() -> None:
    task = Task("kind", LEAVES, ">")
    logits = torch.zeros(len(task.tree), 6)
    logits[:, 0] = 1e4
    logits.requires_grad_()
    target = torch.arange(len(task.tree))
    loss = cross_entropy(logits, target, spans_of(task), torch.ones(len(task.tree)), 0.1)
    loss.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert bool(loss.isfinite())
    assert bool(logits.grad.isfinite().all())


# From end to end.

Row = dict[str, Any]
Tagged = Callable[..., list[Row]]


def make_rows(count: int, seed: int) -> list[Row]:
    """Products whose title tells everything; half of them are shoes. Some are labelled with inner
    nodes, and one in seven with nothing."""
    dice = random.Random(seed)
    shares = [3, 2, 2, 1, 3, 3]
    rows = []
    for number in range(count):
        (word,) = dice.choices(list(KINDS), shares)
        path, sleeve = KINDS[word].split(" > "), dice.choice(list(SLEEVES))
        made_up = ["".join(dice.choices("bdfgklmnprstvz", k=4)) for _ in range(2)]
        clothing = path[0] == "Clothing"
        title = " ".join([*made_up, *([sleeve] if clothing else []), word, str(number)])
        depth = len(path) if number % 5 else 1
        shown = None if number % 7 == 6 else path[:depth]
        levels = [*(shown or []), None, None, None]
        rows.append(
            {
                "id": f"{number:04d}",
                "title": title,
                "kind": " > ".join(shown) if shown else None,
                "department": levels[0],
                "category": levels[1],
                "style": levels[2],
                "sleeve": SLEEVES[sleeve] if clothing else None,
                "truth": " > ".join(path),
            }
        )
    return rows


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), path)
    return path


def call(*arguments: str | Path) -> int:
    """`tagger` with these arguments, in this process; its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["tagger", *map(str, arguments)])
        try:
            cli.main()
        except SystemExit as end:
            return int(end.code or 0)
    return 0


@pytest.fixture(scope="module")
def definition(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("definition")
    config = Config(
        architecture=Architecture(
            image=ConvTower(widths=(4,), depths=(1,)),
            text=TokenTower(vocabulary_size=150, context_length=12, width=16, layers=1, heads=2),
        ),
        fusion=Fusion(width=16, layers=1, heads=2, mlp_ratio=2, head_width=16),
        preprocess=Preprocess(height=8, width=8, resize="squash"),
        training=Training(
            epochs=8,
            batch_size=32,
            optimizer="muon",
            lr=4e-3,
            tower_lr=4e-3,
            word_dropout=0.0,
            scrub=0.0,
            image_only_weight=0.0,
            min_support=4,
        ),
    )
    write_config(config, folder / "config.json")
    return folder


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("catalog") / "catalog.parquet", make_rows(560, 0))


@pytest.fixture(scope="module")
def feed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other products."""
    rows = make_rows(150, 1)
    return write(tmp_path_factory.mktemp("feed") / "feed.parquet", rows)


@pytest.fixture(scope="module")
def model(catalog: Path, definition: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model that knows kinds, and sleeves where there are some."""
    out = tmp_path_factory.mktemp("trained") / "model"
    given = ("train", catalog, "--tasks", "kind,sleeve", "--model", definition, "--out", out)
    assert call(*given) == 0
    return out


@pytest.fixture(scope="module")
def confused(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model of the tree, seldom sure of anything."""
    config = msgspec.structs.replace(
        tiny_config(), tasks=(Task("kind", LEAVES, " > "), Task("sleeve", ("Long", "Short")))
    )
    return save_tiny(tmp_path_factory.mktemp("confused") / "model", config, seed=3)


@pytest.fixture
def predict(tmp_path: Path) -> Tagged:
    """Labels a catalog and returns the rows."""

    def run(catalog: Path, model: Path, *options: str | Path, tasks: str = "kind") -> list[Row]:
        out = tmp_path / "out.parquet"
        given = ("predict", catalog, "--tasks", tasks, "--model", model, "--out", out)
        assert call(*given, "--overwrite", *options) == 0
        rows: list[Row] = pq.read_table(out).to_pylist()
        return rows

    return run


def with_rule(model: Path, out: Path, *nodes: str) -> Path:
    """A copy of `model` whose sleeves are not for `nodes`."""
    shutil.copytree(model, out)
    rule = Applicability(task="kind", not_for={"sleeve": nodes})
    config = msgspec.structs.replace(bundle.load(out).config, applicability=rule)
    write_config(config, out / "config.json")
    return out


def test_trained_task_is_the_tree_of_its_labels_of_mixed_depth(model: Path) -> None:
    kind, sleeve = bundle.load(model).config.tasks
    assert kind == Task("kind", LEAVES, " > ")
    assert set(kind.nodes) == NODES
    assert sleeve == Task("sleeve", ("Long", "Short"))


def test_sleeves_are_learned_to_be_none_of_shoes(model: Path) -> None:
    rule = bundle.load(model).config.applicability
    assert rule is not None
    assert rule.task == "kind"
    assert rule.not_for["sleeve"] in (("Shoes",), ("Bags", "Shoes"))


def test_it_learns_the_tree_and_writes_the_path_beside_the_name(
    predict: Tagged, feed: Path, model: Path
) -> None:
    rows = predict(feed, model)
    names = pq.read_schema(feed).names
    assert [name for name in rows[0] if name not in names] == [
        "image_status",
        "title_status",
        "kind_label",
        "kind_path",
        "kind_depth",
        "kind_confidence",
        "kind_image_weight",
        "kind_text_weight",
        "kind_status",
        "input_hash",
    ]
    for row in rows:
        path = row["kind_path"].split(" > ")
        assert row["kind_path"] in LEAVES
        assert row["kind_label"] == path[-1]
        assert row["kind_depth"] == len(path)
        assert 0 < row["kind_confidence"] <= 1
        assert row["kind_status"] == "ok"
    right = [row["kind_path"] == row["truth"] for row in rows]
    assert sum(right) > 0.8 * len(rows)


def test_task_that_does_not_apply_is_not_answered(predict: Tagged, feed: Path, model: Path) -> None:
    rows = predict(feed, model, "--top-k", "2", tasks="sleeve,kind")
    assert list(rows[0]).index("sleeve_label") < list(rows[0]).index("kind_label")
    seen = set()
    rule = bundle.load(model).config.applicability
    assert rule is not None
    for row in rows:
        applies = row["kind_path"].split(" > ")[0] not in rule.not_for["sleeve"]
        seen.add(applies)
        assert row["sleeve_status"] == ("ok" if applies else "not_applicable")
        columns = ("label", "confidence", "image_weight", "text_weight", "top_k")
        for column in columns:
            assert (row[f"sleeve_{column}"] is not None) == applies
        assert row["kind_confidence"] is not None
    assert seen == {True, False}
    # The deciding task need not be asked for.
    alone = predict(feed, model, tasks="sleeve")
    assert [row["sleeve_status"] for row in alone] == [row["sleeve_status"] for row in rows]
    assert [row["sleeve_label"] for row in alone] == [row["sleeve_label"] for row in rows]


def test_product_without_picture_and_title_is_an_error_before_all(
    confused: Path, predict: Tagged, tmp_path: Path
) -> None:
    model = with_rule(confused, tmp_path / "model", "Shoes", "Bags", "Clothing")
    path = write(tmp_path / "few.parquet", [{"title": None}, {"title": "Boot"}])
    nothing, boot = predict(path, model, tasks="kind,sleeve")
    assert nothing["kind_status"] == nothing["sleeve_status"] == "error"
    assert [nothing[f"kind_{c}"] for c in ("label", "path", "depth", "confidence")] == [None] * 4
    assert (boot["kind_status"], boot["sleeve_status"]) == ("ok", "not_applicable")


def test_csv_output_has_the_same_answers(predict: Tagged, feed: Path, model: Path) -> None:
    rows = predict(feed, model, tasks="kind,sleeve")
    out = feed.parent / "out.csv"
    given = ("predict", feed, "--tasks", "kind,sleeve", "--model", model, "--out", out)
    assert call(*given, "--overwrite") == 0
    again = Catalog(out).read(["kind_path", "kind_depth", "sleeve_label", "sleeve_status"])
    for one, other in zip(rows, again.to_pylist(), strict=True):
        assert one["kind_path"] == other["kind_path"]
        assert str(one["kind_depth"]) == other["kind_depth"]
        assert one["sleeve_label"] == other["sleeve_label"]
        assert one["sleeve_status"] == other["sleeve_status"]


def train(catalog: Path, definition: Path, out: Path, tasks: str, *options: str | Path) -> Config:
    """The config of a model trained for one epoch."""
    given = ("train", catalog, "--tasks", tasks, "--model", definition, "--out", out)
    assert call(*given, "--epochs", "1", *options) == 0
    return bundle.load(out).config


def test_columns_of_levels_give_the_same_model_as_a_column_of_paths(
    catalog: Path, definition: Path, tmp_path: Path
) -> None:
    few = ("--limit", "200")
    one = train(catalog, definition, tmp_path / "one", "kind", *few)
    levels = "kind=department>category>style"
    other = train(catalog, definition, tmp_path / "other", levels, *few)
    assert one.tasks == other.tasks == (Task("kind", LEAVES, " > "),)
    weights = [bundle.load(tmp_path / name).model.state_dict() for name in ("one", "other")]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    two = train(catalog, definition, tmp_path / "two", "kind=department>category", *few)
    assert set(two.tasks[0].nodes) == {node for node in NODES if node.count(">") < 2}


def test_level_below_an_empty_one_does_not_count(make_catalog: MakeCatalog) -> None:
    rows: list[dict[str, str | None]] = [
        {"title": "a", "a": "Shoes", "b": None, "c": "Rain"},
        {"title": "a", "a": None, "b": "Boots", "c": "Rain"},
        {"title": "a", "a": "Shoes", "b": " ", "c": None},
        {"title": "a", "a": "Shoes", "b": "Boots", "c": "Rain"},
    ]
    columns = Columns(labels={"kind": ("a", "b", "c")}, separator="/")
    found = ProductSource(make_catalog(rows), columns).read(["kind"]).labels["kind"]
    assert found == ["Shoes", None, "Shoes", "Shoes/Boots/Rain"]


def test_without_a_separator_the_task_is_flat(
    catalog: Path, definition: Path, tmp_path: Path, predict: Tagged, feed: Path
) -> None:
    config = train(catalog, definition, tmp_path / "flat", "kind", "--separator", "")
    assert config.tasks == (Task("kind", tuple(sorted({*LEAVES, "Shoes", "Clothing"}))),)
    assert config.applicability is None
    row = predict(feed, tmp_path / "flat")[0]
    assert row["kind_label"] in config.tasks[0].labels
    assert "kind_path" not in row
    assert "kind_depth" not in row


def test_levels_without_a_separator_are_refused(
    catalog: Path, definition: Path, tmp_path: Path
) -> None:
    given = ("train", catalog, "--tasks", "kind=department>category", "--separator", "")
    assert call(*given, "--model", definition, "--out", tmp_path / "m", "--epochs", "1") == 2


TAXONOMY = """parent,child,name,attributes
,s,Shoes,size
s,s-b,Boots,
s-b,s-b-r,Rain,
s-b,s-b-s,Snow,
s,s-m,Mules,
s,s-x,Clogs,
,b,Bags,
,c,Clothing,sleeve;size
c,c-s,Shirts,
c,c-d,Dresses,size
"""
IDS = {
    "Shoes": "s",
    "Clothing": "c",
    "Shoes > Boots > Rain": "s-b-r",
    "Shoes > Boots > Snow": "s-b-s",
    "Shoes > Mules": "Shoes>Mules",
    "Bags": "Bags",
    "Clothing > Shirts": "c-s",
    "Clothing > Dresses": "Dresses",
}
"""Of each label what means it in the taxonomy: an id, a path, a name."""


@pytest.fixture
def taxonomy(tmp_path: Path) -> Path:
    path = tmp_path / "taxonomy.csv"
    path.write_text(TAXONOMY)
    return path


def with_ids(path: Path, catalog: Path) -> Path:
    rows = pq.read_table(catalog).to_pylist()
    kinds = ({**row, "kind": row["kind"] and IDS[row["kind"]]} for row in rows)
    return write(path, list(kinds))


def test_labels_may_be_ids_of_a_taxonomy(
    catalog: Path, definition: Path, tmp_path: Path, taxonomy: Path, feed: Path
) -> None:
    path = with_ids(tmp_path / "ids.parquet", catalog)
    out = tmp_path / "model"
    config = train(path, definition, out, "kind,sleeve", "--taxonomy", taxonomy)
    labels = sorted([*LEAVES, "Shoes > Clogs"])
    assert config.tasks[0] == Task("kind", tuple(labels), " > ")
    assert config.applicability is not None
    stated = set(config.applicability.not_for["sleeve"])
    assert stated == {"Shoes", "Clothing > Dresses"}, "of bags nothing is stated or known"
    figures, same = tmp_path / "ids.json", tmp_path / "paths.json"
    given = ("--tasks", "kind,sleeve", "--model", out, "--json")
    ids = with_ids(tmp_path / "feed.parquet", feed)
    assert call("eval", ids, *given, figures, "--taxonomy", taxonomy) == 0
    assert call("eval", feed, *given, same) == 0
    assert json.loads(figures.read_text()) == json.loads(same.read_text())


def test_label_that_is_not_in_the_taxonomy_is_named_with_its_row(
    feed: Path, definition: Path, tmp_path: Path, taxonomy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = pq.read_table(feed).to_pylist()
    rows[4]["kind"] = "Shoes > Slippers"
    path = write(tmp_path / "wrong.parquet", rows)
    given = ("train", path, "--tasks", "kind", "--model", definition, "--out", tmp_path / "model")
    assert call(*given, "--taxonomy", taxonomy) == 16
    error, hint = capsys.readouterr().err.splitlines()
    assert "task 'kind', row 5: 'Shoes > Slippers' is no node of taxonomy.csv" in error
    assert hint.startswith("hint: ")
    assert call(*given, "--taxonomy", taxonomy, "--separator", "") == 2


@pytest.mark.parametrize("name", ["Mules>High", "Boots>Rain>High"])
def test_name_that_holds_the_separator_is_refused_even_where_no_product_has_it(
    feed: Path, definition: Path, tmp_path: Path, taxonomy: Path, name: str
) -> None:
    taxonomy.write_text(TAXONOMY + f"s,s-y,{name},\n")
    given = ("train", feed, "--tasks", "kind", "--model", definition, "--out", tmp_path / "model")
    try:
        code = call(*given, "--taxonomy", taxonomy, "--epochs", "1")
    except ValueError:
        code = -1
    assert code == 16


MAPPING = """from,to
Shoes,Footwear
Shoes > Boots,Footwear > High
Bags,Luggage > Hand > Bags
Clothing > Shirts,Wear > Upper
Clothing > Dresses,Wear
"""
TARGETS = {
    "Shoes > Boots > Rain": "Footwear > High",
    "Shoes > Boots > Snow": "Footwear > High",
    "Shoes > Boots": "Footwear > High",
    "Shoes": "Footwear",
    "Shoes > Mules": "Footwear",
    "Bags": "Luggage > Hand > Bags",
    "Clothing > Shirts": "Wear > Upper",
    "Clothing > Dresses": "Wear",
    "Clothing": "Wear",
}


def test_map_puts_out_the_nodes_of_another_tree(
    predict: Tagged, feed: Path, model: Path, tmp_path: Path
) -> None:
    mapping = tmp_path / "map.csv"
    mapping.write_text(MAPPING)
    plain = predict(feed, model, tasks="kind,sleeve")
    mapped = predict(feed, model, "--map", mapping, tasks="kind,sleeve")
    for one, other in zip(plain, mapped, strict=True):
        target = TARGETS[one["kind_path"]]
        assert other["kind_path"] == target
        assert other["kind_label"] == target.split(" > ")[-1]
        assert other["kind_depth"] == target.count(" > ") + 1
        for column in ("kind_confidence", "kind_status", "sleeve_label", "sleeve_status"):
            assert one[column] == other[column]


def test_map_is_for_one_tree(model: Path, feed: Path, tmp_path: Path) -> None:
    mapping = tmp_path / "map.csv"
    mapping.write_text(MAPPING)
    given = ("predict", feed, "--model", model, "--out", tmp_path / "o.parquet", "--map", mapping)
    assert call(*given, "--tasks", "sleeve") == 2


def calibrated(
    model: Path, out: Path, least: float, task: str = "kind", **by_label: float | None
) -> Path:
    """A copy of `model` that publishes answers to `task` from `least` on."""
    shutil.copytree(model, out)
    threshold = Threshold(
        precision=0.9,
        threshold=least,
        by_label=by_label,
        num_products=1,
        reported_products=1,
        published=0,
        reported_precision=None,
    )
    fitted = TaskCalibration(
        temperature=2.0, thresholds=(threshold,), delta=0.1, catalog="x", catalog_sha256="x"
    )
    weights = file_digest(out / bundle.WEIGHTS)
    write_calibration(Calibration(precision=0.9, weights_sha256=weights, tasks={task: fitted}), out)
    return out


def shares_of(row: Row) -> dict[str, float]:
    """The probability of each node, from that of all leaves."""
    return {
        node: sum(
            ranked["confidence"]
            for ranked in row["kind_top_k"]
            if f"{ranked['label']} > ".startswith(f"{node} > ")
        )
        for node in NODES
    }


def expected_node(row: Row, needed: Callable[[str], float]) -> str | None:
    """The deepest node on the way to the likeliest leaf that is as sure as `needed` of its top."""
    shares, names = shares_of(row), row["kind_top_k"][0]["label"].split(" > ")
    path = [" > ".join(names[:end]) for end in range(1, len(names) + 1)]
    sure = [node for node in path if shares[node] >= needed(path[0])]
    return sure[-1] if sure else None


def test_products_go_up_to_the_node_that_is_sure_enough(
    confused: Path, predict: Tagged, feed: Path, tmp_path: Path
) -> None:
    model = calibrated(confused, tmp_path / "model", 0.5, Clothing=0.6, Bags=None)
    needed = {"Clothing": 0.6, "Bags": np.inf, "Shoes": 0.5}
    options = ("--min-precision", "0.9", "--top-k", "6")
    rows = predict(feed, model, *options)
    for row in rows:
        node = expected_node(row, needed.__getitem__)
        shares = shares_of(row)
        assert row["kind_path"] == node
        assert row["kind_status"] == ("abstain" if node is None else "ok")
        assert row["kind_depth"] == (None if node is None else node.count(" > ") + 1)
        assert row["kind_label"] == (None if node is None else node.split(" > ")[-1])
        likeliest = row["kind_top_k"][0]["confidence"]
        confidence = likeliest if node is None else shares[node]
        assert row["kind_confidence"] == pytest.approx(confidence, abs=1e-5)
    assert {row["kind_depth"] for row in rows} >= {None, 1, 2}
    surer = calibrated(confused, tmp_path / "surer", 0.8)
    for one, other in zip(rows, predict(feed, surer, *options), strict=True):
        assert (other["kind_depth"] or 0) <= (one["kind_depth"] or 0) or one["kind_status"] != "ok"


def test_map_abstains_where_a_node_that_was_rolled_up_to_has_no_target(
    confused: Path, predict: Tagged, feed: Path, tmp_path: Path
) -> None:
    model = calibrated(confused, tmp_path / "model", 0.5)
    mapping = tmp_path / "map.csv"
    shoes = "Shoes > Mules,D > E\nShoes > Boots,D > F\n"
    mapping.write_text(f"from,to\nClothing > Shirts,A\nClothing > Dresses,B\nBags,C\n{shoes}")
    options = ("--min-precision", "default")
    plain = predict(feed, model, *options)
    mapped = predict(feed, model, *options, "--map", mapping)
    up = 0
    for one, other in zip(plain, mapped, strict=True):
        if one["kind_path"] == "Clothing":  # shirts and dresses have nothing in common
            up += 1
            assert (other["kind_status"], other["kind_path"]) == ("abstain", None)
            assert other["kind_confidence"] == one["kind_confidence"]
        else:
            assert one["kind_status"] == other["kind_status"]
            if one["kind_path"] == "Shoes":
                assert other["kind_path"] == "D"
    assert up


def test_products_without_an_answer_need_no_target(
    confused: Path, predict: Tagged, feed: Path, tmp_path: Path
) -> None:
    model = calibrated(confused, tmp_path / "model", 0.999999)
    mapping = tmp_path / "map.csv"
    boots = "Shoes > Boots > Rain,A\nShoes > Boots > Snow,B\nShoes > Mules,C\n"
    mapping.write_text(f"from,to\nClothing,A\nBags,C\n{boots}")
    rows = predict(feed, model, "--min-precision", "default", "--map", mapping)
    assert {row["kind_status"] for row in rows} == {"abstain"}
    assert {row["kind_path"] for row in rows} == {None}


def test_evaluation_tells_what_is_published_at_which_depth(
    confused: Path, predict: Tagged, feed: Path, tmp_path: Path
) -> None:
    model = calibrated(confused, tmp_path / "model", 0.5)
    labelled = write(
        tmp_path / "labelled.parquet",
        [{**row, "kind": row["truth"]} for row in pq.read_table(feed).to_pylist()],
    )
    rows = predict(labelled, model, "--min-precision", "0.9")
    figures = tmp_path / "figures.json"
    given = ("eval", labelled, "--tasks", "kind", "--model", model, "--json", figures)
    assert call(*given) == 0
    found = json.loads(figures.read_text())["scores"]["both"]["kind"]["published"]
    there = [row for row in rows if row["kind_status"] == "ok"]
    right = [f"{row['truth']} > ".startswith(f"{row['kind_path']} > ") for row in there]
    assert found["coverage"] == pytest.approx(len(there) / len(rows))
    assert found["precision"] == pytest.approx(np.mean(right))
    depths = np.bincount([row["kind_depth"] - 1 for row in there], minlength=3)
    assert found["by_depth"] == pytest.approx((depths / len(there)).tolist())


def test_calibration_of_a_tree_rolls_up_in_predict(
    model: Path, tmp_path: Path, predict: Tagged, feed: Path
) -> None:
    mine = Path(shutil.copytree(model, tmp_path / "mine"))
    rows = [{**row, "kind": row["truth"]} for row in make_rows(500, 5)]
    # Nobody can tell boots for the rain from boots for the snow.
    dice = random.Random(0)
    boots = ["Shoes > Boots > Rain", "Shoes > Boots > Snow"]
    for row in rows:
        row["kind"] = dice.choice(boots) if "Boots" in row["kind"] else row["kind"]
    # An inner node as a label says nothing of the nodes below it.
    inner = [{**row, "id": f"i{row['id']}", "kind": "Shoes"} for row in make_rows(100, 6)]
    labelled = write(tmp_path / "labelled.parquet", [*rows, *inner])
    given = ("eval", labelled, "--tasks", "kind", "--model", mine, "--calibrate")
    assert call(*given, "--precision", "0.9") == 0
    calibration = bundle.load(mine).calibration
    assert calibration is not None
    fitted = calibration.threshold("kind", 0.9)
    assert fitted.threshold is not None
    assert fitted.num_products + fitted.reported_products == len(rows)
    said = [row["kind_path"] for row in predict(feed, mine, "--min-precision", "default")]
    assert said.count("Shoes > Boots") > 10
    assert sum(path is not None for path in said) > 100


def test_evaluation_of_a_tree_and_of_what_does_not_apply(
    model: Path, feed: Path, tmp_path: Path
) -> None:
    figures = tmp_path / "figures.json"
    given = ("eval", feed, "--tasks", "kind,sleeve", "--model", model, "--json", figures)
    assert call(*given) == 0
    scores = json.loads(figures.read_text())["scores"]
    for view, by_task in scores.items():
        tree = by_task["kind"]["tree"]
        depths = tree["accuracy_by_depth"]
        assert len(depths) == 3
        assert by_task["sleeve"]["tree"] is None
        assert (by_task["sleeve"]["applicability"] is not None) == (view == "both")
        assert by_task["kind"]["applicability"] is None
        assert by_task["kind"]["unknown_labels"] == {}
    both = scores["both"]
    assert both["kind"]["accuracy"] > 0.8
    assert both["kind"]["tree"]["f1"] >= both["kind"]["accuracy"]
    found = both["sleeve"]["applicability"]
    labels = pq.read_table(feed).to_pylist()
    assert found["filled"] == sum(row["sleeve"] is not None for row in labels)
    assert found["withheld"] < 0.1 * found["filled"]
    assert found["precision"] > 0.8
    assert found["recall"] > 0.8


def test_withheld_answer_is_wrong_and_no_confusion_and_never_promised(
    confused: Path, predict: Tagged, feed: Path, tmp_path: Path
) -> None:
    said = predict(feed, confused, tasks="sleeve")
    titles = [(row["title"], row["sleeve_label"]) for row in said]
    path = write(tmp_path / "right.parquet", [{"title": t, "sleeve": s} for t, s in titles])
    silent = with_rule(confused, tmp_path / "silent", "Shoes", "Bags", "Clothing")
    figures = tmp_path / "figures.json"
    given = ("eval", path, "--tasks", "sleeve", "--model")
    assert call(*given, silent, "--json", figures) == 0
    for by_task in json.loads(figures.read_text())["scores"].values():
        score = by_task["sleeve"]
        assert (score["num_products"], score["accuracy"]) == (len(said), 0)
        assert (score["confusions"], score["coverage_at_precision"]) == ([], 0)
    told = shutil.copytree(confused, tmp_path / "told")
    assert call(*given, told, "--calibrate", "--precision", "0.8") == 0
    assert call(*given, silent, "--calibrate", "--precision", "0.8") == 3


def test_scrubbing_the_kind_does_not_hide_what_applies(
    model: Path, feed: Path, tmp_path: Path
) -> None:
    """No word of a sleeve's labels is in the titles, so nothing changes for sleeves."""
    for tasks in ("kind,sleeve", "sleeve"):
        figures = tmp_path / f"{tasks}.json"
        given = ("eval", feed, "--tasks", tasks, "--model", model, "--json", figures)
        assert call(*given) == 0
        scores = json.loads(figures.read_text())["scores"]
        both, scrubbed = scores["both"]["sleeve"], scores["scrubbed"]["sleeve"]
        assert both["accuracy"] > 0.7
        for figure in ("accuracy", "labels", "confusions", "brier"):
            assert both[figure] == scrubbed[figure]


def test_validation_takes_every_leaf_below_a_label_for_right(
    confused: Path, predict: Tagged, feed: Path
) -> None:
    known = bundle.load(confused)
    titles = pq.read_table(feed).column("title").to_pylist()
    paths = [row["kind_path"].split(" > ") for row in predict(feed, confused)]

    def accuracy(labels: Sequence[str | None]) -> float | None:
        products = Products(
            [None] * len(titles), titles, {"kind": [*labels], "sleeve": [None] * len(titles)}
        )
        with ThreadPoolExecutor(1) as pool:
            pixels = PixelCache(products.images, feed.parent, known.config.preprocess, pool)
            device = torch.device("cpu")
            scores = score_views(known.model, known.tokenizer, products, pixels, device)
        assert scores["both"] == scores["title"]
        assert scores["both"]["sleeve"] is None
        return scores["both"]["kind"]

    # It computes as in training, in bf16 where it can: a few answers differ.
    near = partial(pytest.approx, abs=0.03)
    assert accuracy([" > ".join(names[: 1 + n % 3]) for n, names in enumerate(paths)]) == near(1)
    halved = accuracy(["Hats" if n % 2 else names[0] for n, names in enumerate(paths)])
    assert halved == near(0.5)
    assert accuracy([None if n % 2 else names[0] for n, names in enumerate(paths)]) == near(1)
    assert accuracy([f"{' > '.join(names)} > x" for names in paths]) == 0
    tops = [names[0] for names in paths]
    others = ["Shoes" if top == "Clothing" else "Clothing" for top in tops]
    assert accuracy(others) == near(0)


def test_nobody_knows_whether_a_task_applies_to_a_node_with_leaves_of_either_kind(
    confused: Path, predict: Tagged, feed: Path, tmp_path: Path
) -> None:
    model = with_rule(confused, tmp_path / "model", "Shoes > Boots", "Clothing > Dresses")
    rows = pq.read_table(feed).to_pylist()
    silent = ("Shoes > Boots", "Clothing > Dresses")
    kinds = ("Shoes", "Clothing", "Shoes > Clogs", *silent, "Bags", None)
    given = [{**row, "kind": kinds[n % 7], "sleeve": None} for n, row in enumerate(rows)]
    path = write(tmp_path / "inner.parquet", given)
    figures = tmp_path / "figures.json"
    options = ("eval", path, "--tasks", "sleeve", "--model", model, "--json", figures)
    assert call(*options) == 0
    found = json.loads(figures.read_text())["scores"]["both"]["sleeve"]["applicability"]
    said = predict(path, model, tasks="sleeve")
    pairs = [
        (row["sleeve_status"] == "not_applicable", row["kind"] in silent)
        for row in said
        if row["kind"] in (*silent, "Bags")
    ]
    hits = sum(withheld and true for withheld, true in pairs)
    assert found["precision"] == pytest.approx(hits / sum(withheld for withheld, _ in pairs))
    assert found["recall"] == pytest.approx(hits / sum(true for _, true in pairs))
    assert (found["filled"], found["withheld"]) == (0, 0)


def test_learned_of_a_rare_leaf_is_its_ancestor(confused: Path, tmp_path: Path) -> None:
    known = bundle.load(confused)
    kinds = ["Bags", "Shoes > Clogs", "Shoes", "Hats", None, "Shoes > Boots > Ice", "Bags"]
    products = Products([None] * 7, [None] * 7, {"kind": kinds, "sleeve": ["Long"] * 7})
    with ThreadPoolExecutor(1) as pool:
        pixels = PixelCache(products.images, tmp_path, known.config.preprocess, pool)
        training = Training(class_balance=0.5)
        device = torch.device("cpu")
        learner = Learner(known.model, known.tokenizer, training, products, pixels, device)
        tree = known.config.tasks[0].tree
        shoes, boots = tree.find(("Shoes",)), tree.find(("Shoes", "Boots"))
        expected = [0, shoes, shoes, UNKNOWN_LABEL, UNLABELED, boots, 0]
        assert learner.targets["kind"].tolist() == expected
        weights = label_weights(learner)["kind"]
    assert weights.shape == (len(tree),)
    # Two bags, two shoes, one pair of boots.
    assert float(weights[0]) == pytest.approx(float(weights[shoes]))
    assert float(weights[boots] / weights[0]) == pytest.approx(2**0.5)


def test_what_is_saved_again_answers_the_same(
    model: Path, tmp_path: Path, predict: Tagged, feed: Path
) -> None:
    loaded = bundle.load(model)
    again = tmp_path / "again"
    bundle.save(again, loaded.config, loaded.model, loaded.tokenizer, "# again\n")
    assert bundle.load(again).config == loaded.config
    options = ("--top-k", "6")
    rows = [predict(feed, path, *options, tasks="kind,sleeve") for path in (model, again)]
    assert rows[0] == rows[1]
    assert loaded.model.heads[0].state_dict()["3.weight"].shape[0] == len(NODES)


def test_size_of_a_batch_changes_nothing(predict: Tagged, feed: Path, model: Path) -> None:
    options = ("--top-k", "6")
    one, few, many = (
        predict(feed, model, *options, "--batch-size", size, tasks="kind,sleeve")
        for size in ("1", "7", "200")
    )
    assert one == few == many


def test_list_of_doubts_leaves_out_what_does_not_apply(
    model: Path, feed: Path, tmp_path: Path
) -> None:
    given = ("predict", feed, "--tasks", "kind,sleeve", "--model", model)
    options = ("--out", tmp_path / "out.parquet", "--review", tmp_path / "review.csv")
    assert call(*given, *options) == 0
    assert (tmp_path / "review.csv").exists()


def test_fine_tuning_keeps_what_it_knows_of_nodes_that_both_have(
    model: Path, catalog: Path, tmp_path: Path
) -> None:
    rows = pq.read_table(catalog).to_pylist()
    for row in rows:
        if row["kind"] == "Shoes > Boots > Snow":
            row["kind"] = "Shoes > Boots > Ice"
        if row["kind"] == "Bags":
            row["kind"] = "Bags > Totes"
    path = write(tmp_path / "other.parquet", rows)
    out = tmp_path / "child"
    train(path, model, out, "sleeve,kind", "--lr", "0")
    # The rate is 0, so only what was inherited can be there.
    parent, child = bundle.load(model), bundle.load(out)
    old, new = parent.config.tasks[0].tree, child.config.tasks[1].tree
    mine, theirs = child.model.heads[1].state_dict(), parent.model.heads[0].state_dict()
    shared = [names for names in new.names if old.find(names) != NO_NODE]
    assert set(new.names) - set(shared) == {("Shoes", "Boots", "Ice"), ("Bags", "Totes")}
    assert len(shared) == 8
    for name in ("3.weight", "3.bias"):
        for names in shared:
            torch.testing.assert_close(mine[name][new.find(names)], theirs[name][old.find(names)])
    snow = theirs["3.weight"][old.find(("Shoes", "Boots", "Snow"))]
    ice = mine["3.weight"][new.find(("Shoes", "Boots", "Ice"))]
    assert not torch.allclose(ice, snow)
    torch.testing.assert_close(mine["0.weight"], theirs["0.weight"])
    torch.testing.assert_close(
        child.model.modality_attention.w[1], parent.model.modality_attention.w[0]
    )


def test_export_of_a_tree_answers_as_its_source(
    confused: Path, tmp_path: Path, predict: Tagged, feed: Path
) -> None:
    model = with_rule(confused, tmp_path / "model", "Shoes")
    out = tmp_path / "onnx"
    assert call("export", model, "--format", "onnx", "--out", out) == 0
    one, other = (predict(feed, path, tasks="kind,sleeve") for path in (model, out))
    for column in ("kind_path", "kind_depth", "sleeve_status", "sleeve_label"):
        assert [row[column] for row in one] == [row[column] for row in other]
    assert len({row["sleeve_status"] for row in one}) > 1


def test_random_weights_of_a_tree_model_are_kept_by_its_directory(tmp_path: Path) -> None:
    task = random_task(3)
    config = msgspec.structs.replace(tiny_config(), tasks=(task,))
    path = save_tiny(tmp_path / "model", config)
    loaded = bundle.load(path)
    assert loaded.config.tasks == (task,)
    before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    assert not [name for name in before if "lineage" in name]
    randomise(loaded.model, 5)
    bundle.save(tmp_path / "other", config, loaded.model, loaded.tokenizer, "")
    after = bundle.load(tmp_path / "other").model.state_dict()
    assert after.keys() == before.keys()
    assert not torch.equal(before["heads.0.3.weight"], after["heads.0.3.weight"])


def test_page_of_labels_that_are_all_inner_nodes_has_no_brier_score(
    model: Path, feed: Path, tmp_path: Path
) -> None:
    rows = [{**row, "kind": "Shoes"} for row in pq.read_table(feed).to_pylist()]
    path = write(tmp_path / "inner.parquet", rows)
    page = tmp_path / "page.html"
    assert call("eval", path, "--tasks", "kind", "--model", model, "--report", page) == 0
    overview = page.read_text(encoding="utf-8").split('id="overview"')[1].split("</tbody>")[0]
    assert "<td>-</td>" in overview


def test_page_judges_labels_of_products_that_the_task_is_said_not_to_apply_to(
    model: Path, feed: Path, tmp_path: Path
) -> None:
    """So do label issues: a label where none belongs is one."""
    rule = with_rule(model, tmp_path / "rule", "Shoes", "Bags", "Clothing")
    none = calibrated(rule, tmp_path / "model", 0.0, task="sleeve")
    rows = pq.read_table(feed).to_pylist()
    for number, row in enumerate(rows):
        said = next((sleeve for word, sleeve in SLEEVES.items() if word in row["title"]), "Long")
        row["sleeve"] = said if number % 6 else {"Long": "Short", "Short": "Long"}[said]
    path, page = write(tmp_path / "labelled.parquet", rows), tmp_path / "page.html"
    assert call("eval", path, "--tasks", "sleeve", "--model", none, "--report", page) == 0
    text = page.read_text(encoding="utf-8")
    assert f" of {len(rows):,} given labels." in text
    # None of them is published, as sure as the network may be.
    assert 'data-status="abstain"' in text
    assert 'data-status="ok"' not in text
