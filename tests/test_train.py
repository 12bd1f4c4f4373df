"""Training: what it learns, what it leaves out, what it keeps, and that a kill loses nothing."""

from __future__ import annotations

import contextlib
import random
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tagger import bundle, cli
from tagger.bundle import load
from tagger.catalog import Columns
from tagger.checkpoint import Epoch
from tagger.config import (
    MAX_RATE,
    Architecture,
    Config,
    ConvTower,
    Fusion,
    Preprocess,
    TokenTower,
    Training,
    read_config,
    write_config,
)
from tagger.console import Bar
from tagger.device import has_bf16
from tagger.errors import (
    CatalogError,
    DiskFullError,
    LockedError,
    ModelError,
    OutputError,
    TrainingError,
    UsageError,
)
from tagger.evaluate import evaluate_catalog
from tagger.frozen import FrozenTowers
from tagger.lock import Lock
from tagger.model import CMAClip
from tagger.preprocess import collate_titles
from tagger.products import ProductSource
from tagger.shelf import resolve
from tagger.towers import TokenTextTower
from tagger.train import LOCK, TrainOptions, TrainResult, override, train
from tagger.training_data import Data
from tagger.training_messages import TrainMonitor

from .conftest import largest_file, save_picture

COLORS = {"Red": (220, 30, 30), "Green": (30, 180, 60), "Blue": (40, 60, 220)}
SHAPES = ("Tie", "Belt")
MADE_UP = ("alba", "brio", "cosa", "dune", "ermo", "fala", "gilo", "hera", "isto", "juno")
TRAINING = Training(
    epochs=3,
    batch_size=16,
    optimizer="muon",
    lr=2e-3,
    tower_lr=2e-3,
    word_dropout=0.1,
    scrub=0.3,
    min_support=4,
)


class Silent:
    """A monitor that keeps the epochs and can interrupt the run after one of them."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.epochs: list[Epoch] = []
        self.stop_after = stop_after

    def prepared(self, data: Data, model: torch.nn.Module, device: torch.device) -> None:
        pass

    def step(self, step: int, total: int, loss: float) -> None:
        if self.stop_after is not None and len(self.epochs) == self.stop_after:
            raise KeyboardInterrupt

    def epoch(self, number: int, epoch: Epoch) -> None:
        self.epochs.append(epoch)

    def left_aside(self, trouble: str) -> None:
        pytest.fail(trouble)


@pytest.fixture(scope="module")
def definition(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("definition")
    config = Config(
        architecture=Architecture(
            image=ConvTower(widths=(8, 16), depths=(1, 1)),
            text=TokenTower(vocabulary_size=120, context_length=12, width=16, layers=1, heads=2),
        ),
        fusion=Fusion(width=16, layers=1, heads=2, mlp_ratio=2, head_width=16),
        preprocess=Preprocess(height=16, width=12, resize="squash"),
        training=TRAINING,
    )
    write_config(config, folder / "config.json")
    return folder


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 products: the picture alone tells the color, the title alone tells the shape."""
    folder = tmp_path_factory.mktemp("catalog")
    dice = random.Random(0)
    rows = []
    for number in range(120):
        color, shape = dice.choice(list(COLORS)), dice.choice(SHAPES)
        shade = tuple(min(255, max(0, c + dice.randint(-25, 25))) for c in COLORS[color])
        Image.new("RGB", (24, 32), shade).save(folder / f"{number}.png")
        rows.append(
            {
                "image": f"{number}.png" if number % 10 else None,
                "title": f"Brand{dice.choice(MADE_UP)} {dice.choice(MADE_UP)} {shape} {number}"
                if number % 11
                else "",
                "color": color if number % 5 else None,
                "shape": shape,
                "rare": "often" if number > 1 else "seldom",
            }
        )
    pd.DataFrame(rows).to_parquet(folder / "catalog.parquet")
    return folder / "catalog.parquet"


@pytest.fixture
def options(catalog: Path, definition: Path, tmp_path: Path) -> TrainOptions:
    return TrainOptions(catalog, ["color", "shape"], tmp_path / "model", str(definition))


def weights(result_dir: Path) -> dict[str, torch.Tensor]:
    return {name: t.clone() for name, t in load(result_dir).model.state_dict().items()}


def run(options: TrainOptions, monitor: Silent | None = None) -> TrainResult:
    return train(options, monitor or Silent())


def test_it_learns_each_task_from_the_modality_that_tells_it(options: TrainOptions) -> None:
    run(replace(options, epochs=12, batch_size=8))
    source = ProductSource(options.catalog)
    done = evaluate_catalog(load(options.out), source, ["color", "shape"])
    scores = done.figures.scores
    assert (scores["image"]["color"].accuracy or 0) > 0.85  # a tenth has no picture
    assert (scores["title"]["shape"].accuracy or 0) > 0.85  # an eleventh has no title
    assert (scores["title"]["color"].accuracy or 1) < 0.7
    image_weight = {t: scores["both"][t].image_weight or 0 for t in ("color", "shape")}
    assert image_weight["color"] > image_weight["shape"]


def with_recipe(config: Config, recipe: Mapping[str, object], folder: Path) -> str:
    """A definition in `folder`, of `config` with another recipe."""
    training = msgspec.structs.replace(config.training, **recipe)
    folder.mkdir()
    write_config(msgspec.structs.replace(config, training=training), folder / "config.json")
    return str(folder)


def averaging(definition: Path, decay: float, folder: Path) -> str:
    """A copy of `definition` that averages weights."""
    return with_recipe(read_config(definition / "config.json"), {"weight_average": decay}, folder)


def test_best_epoch_is_the_one_with_the_best_mean_over_views_and_tasks(
    options: TrainOptions, tmp_path: Path
) -> None:
    result = run(replace(options, epochs=5))
    accuracies = [
        [value for by_task in epoch.accuracy.values() for value in by_task.values()]
        for epoch in result.history
    ]
    scores = [sum(a or 0 for a in known) / len(known) for known in accuracies]
    assert [epoch.score for epoch in result.history] == pytest.approx(scores)
    assert result.best_epoch == int(np.argmax(scores))


NOTHING: dict[str, object] = {
    "flip": False,
    **dict.fromkeys(("shift", "scale", "brightness", "erase", "cutmix", "mismatch"), 0.0),
    **dict.fromkeys(("word_dropout", "invented_words", "scrub"), 0.0),
    **dict.fromkeys(("class_balance", "label_smoothing", "weight_average"), 0.0),
}
"""A recipe without any variation."""
SOMETHING: dict[str, object] = {
    "flip": True,
    "shift": 0.4,
    "scale": 0.5,
    "brightness": 0.9,
    "erase": 1.0,
    "cutmix": 1.0,
    "mismatch": 0.9,
    "word_dropout": 0.9,
    "invented_words": 0.9,
    "scrub": 1.0,
    "class_balance": 1.0,
    "label_smoothing": 0.5,
    "weight_average": 0.9,
    "epochs": 2,
    "batch_size": 12,
    "accumulate": 2,
    "optimizer": "adamw",
    "lr": 1e-3,
    "tower_lr": 1e-3,
    "muon_lr": 0.01,
    "weight_decay": 0.5,
    "warmup": 1.0,
    "clip_norm": 1e-9,
    "image_only_weight": 3.0,
    "title_only_weight": 3.0,
    "min_support": 10,
    "validation_share": 0.4,
    "seed": 1,
}


Learn = Callable[[Mapping[str, object]], dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def learn(definition: Path, tmp_path_factory: pytest.TempPathFactory) -> Learn:
    """The weights after an epoch on 40 products, by a recipe that varies nothing but as given."""
    folder = tmp_path_factory.mktemp("recipes")
    rows = []
    for number in range(40):
        save_picture(folder / f"{number}.jpg", number)
        color = ("Red", "Blue", "Green")[number % 5 % 3]
        word, other = MADE_UP[number % 10], MADE_UP[number // 4]
        shape = "Rare" if number % 3 == 0 else "Tie"
        title = f"{word} {other}{number} {color} {shape} of {other}"
        rows.append({"image": f"{number}.jpg", "title": title, "color": color, "shape": shape})
    pd.DataFrame(rows).to_parquet(folder / "catalog.parquet")

    def learned(recipe: Mapping[str, object]) -> dict[str, torch.Tensor]:
        made = folder / f"recipe-{len(list(folder.glob('recipe-*')))}"
        given = {"epochs": 1, "min_support": 2, **NOTHING, **recipe}
        model = with_recipe(read_config(definition / "config.json"), given, made)
        run(TrainOptions(folder / "catalog.parquet", ["color", "shape"], made / "out", model))
        return weights(made / "out")

    return learned


@pytest.fixture(scope="module")
def plain(learn: Learn) -> dict[str, torch.Tensor]:
    return learn({})


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_one_recipe_teaches_the_same_twice(learn: Learn, plain: dict[str, torch.Tensor]) -> None:
    assert same(learn({}), plain)


@pytest.mark.parametrize("name", [n for n in Training.__struct_fields__ if n != "freeze_towers"])
def test_every_part_of_the_recipe_changes_what_is_learned(
    learn: Learn, plain: dict[str, torch.Tensor], name: str
) -> None:
    assert not same(learn({name: SOMETHING[name]}), plain)


class Losses(Silent):
    """Keeps the loss of every step, a running mean."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []

    def step(self, step: int, total: int, loss: float) -> None:
        self.losses.append(loss)


def test_order_of_the_products_is_another_in_every_epoch(
    options: TrainOptions, definition: Path, tmp_path: Path
) -> None:
    # A model that does not learn has another loss only where the batches are others.
    still = dict.fromkeys(("lr", "tower_lr", "muon_lr", "weight_decay"), 0.0)
    config = read_config(definition / "config.json")
    config = msgspec.structs.replace(
        config, fusion=msgspec.structs.replace(config.fusion, dropout=0.0)
    )
    model = with_recipe(config, {**NOTHING, **still}, tmp_path / "still")
    seen = Losses()
    run(replace(options, model=model, epochs=3), seen)
    epochs = np.split(np.array(seen.losses), 3)
    assert all(len(set(firsts)) == 3 for firsts in zip(*epochs, strict=True))


@pytest.mark.parametrize(("killed_after", "decay"), [(1, 0.0), (2, 0.0), (2, 0.9)])
def test_a_resumed_run_equals_an_uninterrupted_one(
    options: TrainOptions, definition: Path, killed_after: int, decay: float, tmp_path: Path
) -> None:
    options = replace(options, model=averaging(definition, decay, tmp_path / "averaging"))
    whole = replace(options, out=tmp_path / "whole")
    uninterrupted = run(whole)
    with pytest.raises(KeyboardInterrupt):
        run(options, Silent(stop_after=killed_after))
    assert not (options.out / bundle.WEIGHTS).exists()
    resumed = run(replace(options, resume=True))
    assert resumed.best_epoch == uninterrupted.best_epoch
    for one, other in zip(resumed.history, uninterrupted.history, strict=True):
        assert (one.loss, one.accuracy) == (other.loss, other.accuracy)
    expected = weights(whole.out)
    for name, tensor in weights(options.out).items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0)


def test_of_the_checkpoints_only_the_last_is_kept(options: TrainOptions) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(options, Silent(stop_after=2))
    assert len([*options.out.glob("checkpoint-*")]) == 1


def test_the_mean_of_weights_goes_on_in_a_resumed_run(
    options: TrainOptions, definition: Path, tmp_path: Path
) -> None:
    options = replace(options, model=averaging(definition, 0.9, tmp_path / "averaging"))
    whole = replace(options, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(whole, Silent(stop_after=2))
    with pytest.raises(KeyboardInterrupt):
        run(options, Silent(stop_after=1))
    with pytest.raises(KeyboardInterrupt):
        run(replace(options, resume=True), Silent(stop_after=1))
    resumed, expected = (
        load_file(out / "checkpoint-00002" / "tensors.safetensors")
        for out in (options.out, whole.out)
    )
    averages = [name for name in expected if name.startswith("average/")]
    assert averages
    assert all(torch.equal(resumed[name], expected[name]) for name in averages)


def test_averaged_weights_are_kept_and_judged_while_the_run_itself_stays_the_same(
    options: TrainOptions, definition: Path, tmp_path: Path
) -> None:
    last = run(options)
    model = averaging(definition, 0.9, tmp_path / "averaging")
    mean = run(replace(options, model=model, out=tmp_path / "mean"))
    assert [epoch.loss for epoch in mean.history] == [epoch.loss for epoch in last.history]
    assert [epoch.accuracy for epoch in mean.history] != [epoch.accuracy for epoch in last.history]
    moved = weights(options.out)
    assert any((t != moved[name]).any() for name, t in weights(tmp_path / "mean").items())


def test_an_unfinished_run_is_no_model_and_how_to_finish_it_is_said(
    options: TrainOptions,
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(options, Silent(stop_after=1))
    with pytest.raises(ModelError, match="training has not finished") as refused:
        resolve(options.out)
    assert shlex.split(refused.value.hint)[-3:] == ["--out", str(options.out), "--resume"]


def test_an_unfinished_run_is_neither_overwritten_nor_resumed_with_other_settings(
    options: TrainOptions,
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(options, Silent(stop_after=1))
    with pytest.raises(OutputError, match="unfinished") as refused:
        run(options)
    assert "--resume" in refused.value.hint
    with pytest.raises(
        TrainingError, match=r"another configuration \(.*training.lr: 0.002, now 0.5"
    ):
        run(replace(options, resume=True, lr=0.5))
    with pytest.raises(TrainingError, match=r"another configuration \(tasks\), another training"):
        run(replace(options, resume=True, tasks=["color"]))
    with pytest.raises(TrainingError, match="another training catalog"):
        run(replace(options, resume=True, limit=100))
    elsewhere = options.out.parent
    with pytest.raises(TrainingError, match=rf"another image root \(.*, now {elsewhere}"):
        run(replace(options, resume=True, image_root=elsewhere))


def test_a_trained_model_is_never_overwritten_and_resume_says_that_it_has_finished(
    options: TrainOptions,
) -> None:
    run(replace(options, epochs=1))
    for resume in (False, True):
        with pytest.raises(OutputError, match="its training has finished") as refused:
            run(replace(options, resume=resume))
        assert f"--tasks color,shape --model {options.out}" in refused.value.hint


def test_the_same_seed_gives_the_same_model_and_another_seed_another(
    options: TrainOptions, tmp_path: Path
) -> None:
    outs = [tmp_path / name for name in ("a", "b", "c")]
    for out, seed in zip(outs, (0, 0, 1), strict=True):
        run(replace(options, out=out, seed=seed, epochs=1))
    a, b, c = (weights(out) for out in outs)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert any(not torch.equal(a[name], c[name]) for name in a)


def test_labels_below_the_minimum_support_are_left_out_and_named(options: TrainOptions) -> None:
    with pytest.raises(TrainingError, match=r"'rare'.*'seldom'"):
        run(replace(options, tasks=["rare"]))


def test_labels_with_control_characters_are_named_as_such_and_not_as_rare(
    options: TrainOptions, catalog: Path
) -> None:
    frame = pd.read_parquet(catalog)
    frame["odd"] = ["b\0", "c\0", "plain"] * 40
    frame.loc[0, "odd"] = "seldom"
    frame.to_parquet(odd := catalog.with_name("odd.parquet"))
    with pytest.raises(TrainingError, match="control characters") as caught:
        run(replace(options, catalog=odd, tasks=["odd"]))
    assert "'b\\x00'" in caught.value.message
    assert "seldom" not in caught.value.message
    assert "more labelled products" not in caught.value.hint


def test_what_it_found_of_bf16_is_in_the_configuration_and_the_card(options: TrainOptions) -> None:
    result = run(replace(options, epochs=1))
    assert (result.bf16 is not None) == has_bf16(torch.device("cpu"))
    written = load(options.out).config.computes_in
    if result.bf16 is not None:
        assert written == result.bf16.computes_in
        assert f"Measured: {result.bf16}." in (options.out / "README.md").read_text()
    else:
        assert written == "bfloat16"


def test_the_directory_is_complete_and_the_checkpoint_is_gone(options: TrainOptions) -> None:
    run(replace(options, epochs=1, command="tagger train --anything"))
    assert sorted(path.name for path in options.out.iterdir()) == [
        "README.md",
        "config.json",
        "learning_curve.png",
        "model.safetensors",
        "profile.json",
        "tokenizer.json",
        "trained_on.safetensors",
    ]
    modes = {path.stat().st_mode for path in options.out.iterdir()}
    assert len(modes) == 1  # all readable by whoever may read one of them
    card = (options.out / "README.md").read_text()
    assert "tagger train --anything" in card
    with Image.open(options.out / "learning_curve.png") as curve:
        assert curve.width > 600


def test_fine_tuning_keeps_what_both_models_know(options: TrainOptions, tmp_path: Path) -> None:
    run(replace(options, epochs=1))
    child = replace(options, model=str(options.out), out=tmp_path / "child", tasks=["shape"], lr=0)
    run(replace(child, epochs=1))
    parent, tuned = load(options.out), load(child.out)
    assert [task.name for task in tuned.config.tasks] == ["shape"]
    mine, theirs = weights(child.out), weights(options.out)
    same = [n for n in mine if not n.startswith(("heads", "modality")) and "running" not in n]
    # The rate is 0, so only what was inherited can be there.
    for name in (n for n in same if "num_batches" not in n):
        torch.testing.assert_close(mine[name], theirs[name])
    for name in ("0.weight", "3.weight", "3.bias"):
        torch.testing.assert_close(mine[f"heads.0.{name}"], theirs[f"heads.1.{name}"])
    row = parent.model.modality_attention.w[1]
    torch.testing.assert_close(tuned.model.modality_attention.w[0], row)


def test_fine_tuning_validates_on_products_that_its_parent_has_not_learned(
    options: TrainOptions, tmp_path: Path, catalog: Path
) -> None:
    parent = run(replace(options, epochs=1))
    assert parent.data.num_known == 0
    child = replace(options, model=str(options.out), out=tmp_path / "child", epochs=1, seed=5)
    result = run(child)
    kept = set(zip(parent.data.validation.images, parent.data.validation.titles, strict=True))
    chosen = set(zip(result.data.validation.images, result.data.validation.titles, strict=True))
    assert chosen <= kept
    assert result.data.num_known == 0
    # What is new in a grown catalog is learned, but for its own share.
    table = pd.read_parquet(catalog)
    fresh = table.assign(title="fresh " + table["title"].fillna("one"), color="Mauve")
    fresh["image"] = None
    pd.concat([table, fresh.head(40)]).to_parquet(catalog.parent / "grown.parquet")
    grown = replace(child, catalog=catalog.parent / "grown.parquet", out=tmp_path / "grown")
    data = run(grown).data
    assert data.num_known == 0
    assert data.train.labels["color"].count("Mauve") > 30
    # Those that it must validate on are counted, and said.
    new = pd.concat([fresh.head(40), fresh.head(20).assign(color="Taupe")])
    new.to_parquet(catalog.parent / "new.parquet")
    given = replace(child, catalog=catalog.parent / "new.parquet", validation=catalog)
    given = replace(given, out=tmp_path / "given")
    num_known = run(given).data.num_known
    assert num_known == len(parent.data.train)
    card = (given.out / "README.md").read_text(encoding="utf-8")
    assert f"of which it learned from {num_known:,} as well" in card


def test_products_to_validate_on_that_are_learned_from_are_counted(
    options: TrainOptions, catalog: Path
) -> None:
    some = catalog.parent / "some.parquet"
    pd.read_parquet(catalog).head(30).to_parquet(some)
    assert run(replace(options, epochs=1, validation=some)).data.num_known == 30


def test_an_empty_label_column_is_named_as_that(options: TrainOptions, catalog: Path) -> None:
    empty = options.out.parent / "empty.parquet"
    pd.read_parquet(catalog).assign(shape=None).to_parquet(empty)
    with pytest.raises(CatalogError, match="none of 120 products has a label of 'shape'"):
        run(replace(options, catalog=empty))


def test_without_a_label_to_validate_by_nothing_is_trained(
    options: TrainOptions, catalog: Path
) -> None:
    table = pd.read_parquet(catalog)
    table["color"] = None
    table.astype({"color": object}).to_csv(catalog.parent / "unlabelled.csv", index=False)
    blind = replace(options, tasks=["color"], validation=catalog.parent / "unlabelled.csv")
    with pytest.raises(TrainingError, match="no epoch is better"):
        run(blind)


def test_two_runs_never_write_one_directory(options: TrainOptions) -> None:
    other = Lock(options.out / LOCK)
    other.take(shared=False, patience=0.0)
    with pytest.raises(LockedError, match="another run"):
        run(replace(options, epochs=1))
    assert [path.name for path in options.out.iterdir()] == [LOCK]
    other.release()  # as a run that was killed leaves it
    run(replace(options, epochs=1))
    assert not (options.out / LOCK).exists()


@pytest.mark.parametrize("room", [2_000, 20_000, 150_000])
def test_a_full_disk_is_its_own_error_and_says_how_to_go_on(
    options: TrainOptions, room: int
) -> None:
    with largest_file(room), pytest.raises(DiskFullError, match="cannot write") as caught:
        run(replace(options, epochs=1))
    assert "--resume" in caught.value.hint
    run(replace(options, epochs=1, resume=True))


def test_a_recipe_of_no_epochs_says_what_to_add(options: TrainOptions, tmp_path: Path) -> None:
    config = bundle.read_config(Path(options.model) / "config.json")
    none = msgspec.structs.replace(config.training, epochs=0)
    write_config(msgspec.structs.replace(config, training=none), tmp_path / "config.json")
    with pytest.raises(UsageError, match="is 0 epochs") as caught:
        run(replace(options, model=str(tmp_path)))
    assert "--epochs" in caught.value.hint


def test_fine_tuning_takes_new_tasks_and_labels(
    options: TrainOptions, tmp_path: Path, catalog: Path
) -> None:
    run(replace(options, epochs=1))
    table = pd.read_parquet(catalog)
    table["color"] = table["color"].replace("Green", "Lime")
    table["size"] = ["S" if number % 2 else "L" for number in range(len(table))]
    table.to_parquet(catalog.parent / "new.parquet")
    child = replace(
        options,
        catalog=catalog.parent / "new.parquet",
        model=str(options.out),
        out=tmp_path / "child",
        tasks=["size", "color"],
        epochs=1,
    )
    run(child)
    labels = {task.name: task.labels for task in load(child.out).config.tasks}
    assert labels == {"size": ("L", "S"), "color": ("Blue", "Lime", "Red")}


def test_batches_without_any_label_teach_nothing_and_stop_nothing(
    options: TrainOptions, catalog: Path
) -> None:
    table = pd.read_parquet(catalog)
    table["color"] = [c if n < 25 else None for n, c in enumerate(table["color"])]
    table.to_parquet(catalog.parent / "few.parquet")
    few = replace(options, catalog=catalog.parent / "few.parquet", validation=catalog)
    result = run(replace(few, tasks=["color"], epochs=1, batch_size=4))
    assert result.history[0].loss > 0


@pytest.mark.parametrize("column", ["image", "title"])
def test_a_catalog_may_lack_a_whole_modality(
    options: TrainOptions, column: str, catalog: Path
) -> None:
    path = catalog.parent / f"without-{column}.parquet"
    pd.read_parquet(catalog).drop(columns=[column]).to_parquet(path)
    result = run(replace(options, catalog=path, epochs=1))
    assert len(result.history) == 1


def test_gradient_accumulation_takes_one_step_for_several_batches(
    options: TrainOptions, definition: Path, tmp_path: Path
) -> None:
    """11 batches of 10, four to a step: as many steps as 3 batches of 40 make."""
    config = read_config(definition / "config.json")
    steps = []
    for batch_size, accumulate in ((10, 4), (40, 1)):
        recipe = {"accumulate": accumulate, "batch_size": batch_size, "epochs": 1}
        model = with_recipe(config, recipe, tmp_path / f"accumulate-{accumulate}")
        out = tmp_path / f"out-{accumulate}"
        with pytest.raises(KeyboardInterrupt):
            run(replace(options, model=model, out=out, epochs=2), Silent(stop_after=1))
        found = next(out.glob("checkpoint-*/tensors.safetensors"))
        tensors = load_file(found)
        steps.append({float(t) for name, t in tensors.items() if name.endswith("/step")})
    assert steps == [{3.0}, {3.0}]


def test_a_task_without_validation_labels_neither_stops_nor_spoils_a_resumed_run(
    options: TrainOptions, catalog: Path, tmp_path: Path
) -> None:
    table = pd.read_parquet(catalog)
    table["color"] = None
    table.to_parquet(catalog.parent / "unlabelled.parquet")
    validated = replace(options, validation=catalog.parent / "unlabelled.parquet")
    with pytest.raises(KeyboardInterrupt):
        run(validated, Silent(stop_after=1))
    result = run(replace(validated, resume=True))
    assert result.history[-1].accuracy["both"]["color"] is None
    assert result.history[-1].score > 0


def test_a_kill_while_the_first_checkpoint_is_written_does_not_block_the_directory(
    options: TrainOptions,
) -> None:
    (options.out / ".checkpoint.new").mkdir(parents=True)
    (options.out / ".checkpoint.new" / "tensors.safetensors").write_bytes(b"half")
    assert len(run(replace(options, epochs=1, resume=True)).history) == 1
    assert not (options.out / ".checkpoint.new").exists()


def test_a_kill_between_the_model_and_the_clean_up_is_finished_by_resume(
    options: TrainOptions, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(options, Silent(stop_after=2))
    kept = tmp_path / "kept"
    shutil.copytree(options.out, kept)
    run(replace(options, resume=True))
    before = weights(options.out)
    shutil.copytree(kept, options.out, dirs_exist_ok=True)
    (options.out / "checkpoint-00000").mkdir()  # an older one, half deleted
    (options.out / "checkpoint-00000" / "tensors.safetensors").write_bytes(b"half")
    run(replace(options, resume=True))
    after = weights(options.out)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not list(options.out.glob("*checkpoint*"))


def test_a_place_that_cannot_be_written_is_said_before_the_work(options: TrainOptions) -> None:
    monitor = Silent()
    with pytest.raises(OutputError, match="cannot write"):
        run(replace(options, out=Path("/proc/nowhere")), monitor)
    assert not monitor.epochs


def test_pretrained_weights_are_for_open_clip_towers(options: TrainOptions) -> None:
    with pytest.raises(UsageError, match="given by their dimensions"):
        run(replace(options, pretrained="openai"))


def test_columns_may_have_other_names(options: TrainOptions, catalog: Path) -> None:
    path = catalog.parent / "renamed.parquet"
    names = {"image": "picture", "title": "name"}
    pd.read_parquet(catalog).rename(columns=names).to_parquet(path)
    renamed = replace(options, catalog=path, columns=Columns("picture", "name"), epochs=1)
    one = run(renamed)
    other = run(replace(options, out=options.out.with_name("other"), epochs=1))
    assert one.history[0].loss == other.history[0].loss


class Watcher(Silent):
    """Counts after each epoch what has passed the frozen towers."""

    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__(stop_after)
        self.seen: list[tuple[int, int]] = []

    def prepared(self, data: Data, model: torch.nn.Module, device: torch.device) -> None:
        assert isinstance(model, CMAClip)
        self.model = model

    def epoch(self, number: int, epoch: Epoch) -> None:
        super().epoch(number, epoch)
        assert isinstance(self.model.frozen, FrozenTowers)
        encoder = self.model.frozen.encoder
        self.seen.append((encoder.num_images, encoder.num_titles))


@pytest.fixture
def frozen(options: TrainOptions, tmp_path: Path) -> TrainOptions:
    """The options of a run on the towers of a trained model, with other labels to learn."""
    run(replace(options, out=tmp_path / "parent", epochs=1))
    return replace(
        options,
        model=str(tmp_path / "parent"),
        freeze_towers=True,
        tasks=["shape"],
        epochs=3,
    )


def test_frozen_towers_see_each_picture_in_the_first_epoch_and_stay_as_they_are(
    frozen: TrainOptions,
) -> None:
    watcher = Watcher()
    result = run(frozen, watcher)
    first, second, third = watcher.seen
    assert first[0] > 60  # several of 108 pictures are equal
    assert first[0] == second[0] == third[0]
    # Of the titles a share is scrubbed at random.
    assert third[1] - second[1] < second[1] - first[1] + 30 < first[1]
    before, after = weights(Path(frozen.model)), weights(frozen.out)
    towers = [name for name in before if "_tower." in name]
    assert towers
    assert all(torch.equal(before[name], after[name]) for name in towers)
    assert not torch.equal(before["norm.weight"], after["norm.weight"])
    assert result.history[-1].loss < result.history[0].loss
    assert sorted(path.name for path in frozen.out.iterdir() if path.name.startswith(".")) == []


def test_run_with_frozen_towers_is_resumed_to_the_same_weights(
    frozen: TrainOptions, tmp_path: Path
) -> None:
    whole = replace(frozen, out=tmp_path / "whole")
    run(whole)
    with pytest.raises(KeyboardInterrupt):
        run(frozen, Silent(stop_after=1))
    (checkpoint,) = frozen.out.glob("checkpoint-*/tensors.safetensors")
    assert not any("_tower." in name for name in load_file(checkpoint)), "they are in the parent"
    watcher = Watcher()
    run(replace(frozen, resume=True), watcher)
    assert watcher.seen[0][0] == 0  # what the towers said was kept
    expected = weights(whole.out)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(frozen.out).items())


class SpoilsTheCache(TrainMonitor):
    """From the first epoch on, nothing can be written to it."""

    def prepared(self, data: Data, model: torch.nn.Module, device: torch.device) -> None:
        assert isinstance(model, CMAClip)
        self.model = model

    def epoch(self, number: int, epoch: Epoch) -> None:
        assert isinstance(self.model.frozen, FrozenTowers)
        cache = self.model.frozen.encoder.cache
        assert cache is not None
        cache._connection.execute("PRAGMA query_only = ON")


def test_cache_of_frozen_towers_that_cannot_be_written_is_said_once(
    frozen: TrainOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    with Bar("batches") as bar:
        train(frozen, SpoilsTheCache(bar, frozen.image_roots))
    said = capsys.readouterr().err.replace("\n", " ")
    assert said.count("was left aside: attempt to write a readonly database") == 1
    assert "takes longer" in said


def test_frozen_towers_say_what_the_towers_say(frozen: TrainOptions) -> None:
    trained = load(frozen.model)
    pixels = torch.randint(0, 256, (5, 16, 12, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    ids, mask = collate_titles(
        ["Brandzu fa bag 1", None, "one", "a shoe and a bag", None], trained.tokenizer, None
    )
    model = trained.model
    present = torch.tensor([True, True, False, True, False])
    with torch.inference_mode():
        want = model(pixels, present, ids, mask)
        model.frozen = FrozenTowers(model, trained.tokenizer, None)
        for _ in range(2):
            got = model(pixels, present, ids, mask)
            torch.testing.assert_close(
                got.modality_weights, want.modality_weights, atol=0.02, rtol=0
            )
            for name, logits in want.logits.items():
                torch.testing.assert_close(got.logits[name], logits, atol=0.05, rtol=0.05)
    assert model.frozen.encoder.num_images == 5


def test_a_tower_that_got_no_weights_is_not_frozen(options: TrainOptions, tmp_path: Path) -> None:
    run(replace(options, out=tmp_path / "seeing", system="image-only", tasks=["color"], epochs=1))
    for start in ({"pretrained": str(tmp_path / "seeing")}, {"model": str(tmp_path / "seeing")}):
        blind = replace(options, **start, system="cma-clip", freeze_towers=True)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="no weights for the text tower"):
            run(blind)


def test_towers_that_know_nothing_are_not_frozen(options: TrainOptions) -> None:
    with pytest.raises(UsageError, match="know nothing yet"):
        run(replace(options, freeze_towers=True))
    assert not (options.out / "config.json").exists()


def test_a_kill_while_the_checkpoint_of_a_finished_run_is_deleted_leaves_a_model_that_resume_tidies(
    options: TrainOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(path: Path, **_: object) -> None:
        if path.name.startswith("checkpoint-"):
            raise KeyboardInterrupt

    monkeypatch.setattr("tagger.checkpoint.shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        run(replace(options, epochs=1))
    assert list(options.out.glob("checkpoint-*"))
    assert load(options.out).config.tasks
    monkeypatch.undo()
    (options.out / "checkpoint-00007").mkdir()
    (options.out / "checkpoint-00007" / "model.safetensors").write_bytes(b"of another program")
    with pytest.raises(OutputError, match="holds a trained model already"):
        run(replace(options, resume=True))
    assert [path.name for path in options.out.glob("*checkpoint*")] == ["checkpoint-00007"]
    assert load(options.out).config.tasks


def test_a_loss_that_is_no_number_stops_the_run_at_once(options: TrainOptions) -> None:
    steps: list[int] = []

    class Watched(Silent):
        def step(self, step: int, total: int, loss: float) -> None:
            steps.append(step)

    with pytest.raises(TrainingError, match="in epoch 1") as caught:
        run(replace(options, lr=1e30), Watched())
    assert len(steps) < 5
    assert "--lr" in caught.value.hint


def test_the_highest_rate_that_may_be_asked_for_leaves_a_config_that_can_be_read(
    options: TrainOptions,
) -> None:
    asked = replace(options, lr=MAX_RATE)
    recipe = override(Training(lr=1e-30), asked, None)
    assert recipe.lr == MAX_RATE
    assert msgspec.convert(msgspec.to_builtins(recipe), Training) == recipe


def test_a_rate_beyond_all_sense_is_refused_as_an_option(
    options: TrainOptions, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--tasks", "color", "--out", str(options.out), "--model", options.model]
    monkeypatch.setattr(
        sys, "argv", ["tagger", "train", str(options.catalog), *given, "--lr", "1e38"]
    )
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "--lr" in capsys.readouterr().err


@pytest.mark.parametrize("batch_size", [1, 16])
def test_a_step_that_does_not_fit_says_what_to_try(
    options: TrainOptions, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(TokenTextTower, "forward", full)
    with pytest.raises(UsageError, match=f"a step of {batch_size} products needs more") as caught:
        run(replace(options, batch_size=batch_size))
    assert ("--batch-size 8," in caught.value.hint) == (batch_size == 16)


def test_definition_may_say_that_towers_stay_frozen(
    options: TrainOptions, definition: Path, tmp_path: Path
) -> None:
    frozen = tmp_path / "frozen" / "config.json"
    frozen.parent.mkdir()
    config = read_config(definition / "config.json")
    recipe = msgspec.structs.replace(config.training, freeze_towers=True)
    write_config(msgspec.structs.replace(config, training=recipe), frozen)
    with pytest.raises(UsageError, match="know nothing yet"):
        run(replace(options, model=str(frozen.parent)))


def test_a_run_that_is_refused_leaves_no_folder(options: TrainOptions, tmp_path: Path) -> None:
    with pytest.raises(CatalogError):
        run(replace(options, tasks=["colour"]))
    assert not options.out.exists()
    options.out.mkdir()
    with pytest.raises(CatalogError):
        run(replace(options, tasks=["colour"]))
    assert options.out.exists()


Call = Callable[..., str]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """What `tagger` with these arguments says, in this process."""

    def run_command(*arguments: str | Path) -> str:
        monkeypatch.setattr(sys, "argv", ["tagger", *map(str, arguments)])
        with contextlib.suppress(SystemExit):
            cli.main()
        return capsys.readouterr().err

    return run_command


def test_where_no_picture_is_found_it_is_said_before_the_first_epoch_and_at_the_end(
    call: Call, catalog: Path, definition: Path, tmp_path: Path
) -> None:
    lost = shutil.copy(catalog, tmp_path / "lost.parquet")
    given = ("--tasks", "color", "--model", definition, "--epochs", "1")
    said = call("train", lost, *given, "--out", tmp_path / "a")
    advice = f"their paths start at {tmp_path}; name that with --image-root"
    assert [advice in part for part in said.split("epoch 1:")] == [True, True]
    found = call("train", lost, *given, "--out", tmp_path / "b", "--image-root", catalog.parent)
    assert "--image-root" not in found
    addresses = pd.read_parquet(catalog)
    addresses["image"] = "https://shop.example/" + addresses["image"]
    addresses.to_parquet(lost)
    said = call("train", lost, *given, "--out", tmp_path / "c")
    assert ["is an address" in part for part in said.split("epoch 1:")] == [True, True]


def test_labels_that_differ_in_case_alone_are_named_once(
    call: Call, catalog: Path, definition: Path, tmp_path: Path
) -> None:
    table = pd.read_parquet(catalog)
    table.loc[::3, "color"] = table["color"].str.lower()
    table.to_parquet(tmp_path / "mixed.parquet")
    options = ("--model", definition, "--epochs", "1", "--out", tmp_path / "model")
    said = call("train", tmp_path / "mixed.parquet", "--tasks", "color,shape", *options)
    (line,) = (line for line in said.splitlines() if "upper and lower case" in line)
    assert "color: " in line
    assert "'Blue', 'blue', 'Green', 'green', 'Red', 'red';" in line


def test_the_next_command_can_be_typed_whatever_tasks_and_folders_are_called(
    call: Call, catalog: Path, definition: Path, tmp_path: Path
) -> None:
    feed = tmp_path / "feed.parquet"
    pd.read_parquet(catalog).rename(columns={"color": "color (main)"}).to_parquet(feed)
    shutil.copytree(catalog.parent, tmp_path, dirs_exist_ok=True)
    out = tmp_path / "my model"
    given = ("--tasks", "color (main)", "--model", definition, "--epochs", "1", "--limit", "60")
    said = call("train", feed, *given, "--out", out)
    after = ["predict", "CATALOG", "--tasks", "color (main)", "--model", str(out)]
    assert shlex.split(said.split("next: tagger ")[1]) == after
    use = (out / "README.md").read_text().split("Use: `tagger ")[1].split("`")[0]
    assert shlex.split(use) == [*after[:5], "DIR"]

    said = call("predict", feed, "--tasks", "color (main)", "--model", out, "--min-precision", ".9")
    calibrate = ["eval", "LABELLED", *after[2:], "--calibrate"]
    assert shlex.split(said.split("calibrate it: tagger ")[1]) == calibrate
    said = call("eval", feed, *calibrate[2:], "--precision", ".2")
    assert shlex.split(said.split("next: tagger ")[1])[: len(after)] == after

    said = call("predict", feed, "--tasks", "color", "--model", definition)
    assert f"--model {definition} " in said.split("train it: tagger ")[1]


def test_brackets_bars_and_markup_in_names_of_tasks_are_shown_as_they_are(
    call: Call, catalog: Path, definition: Path, tmp_path: Path
) -> None:
    names = {"color": "color [/b]", "shape": "a|b <i>c</i>"}
    feed = catalog.with_name("feed.parquet")
    pd.read_parquet(catalog).rename(columns=names).to_parquet(feed)
    given = ("--tasks", ",".join(names.values()), "--model", definition, "--epochs", "1")
    said = call("train", feed, *given, "--out", tmp_path / "out")
    assert "color [/b]" in said.split("validation accuracy")[1].split("next:")[0]
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    shown = re.sub("`[^`]*`|^    .*", "", card, flags=re.MULTILINE)
    assert not re.search(r"(?<!\\)<", shown)
    cells = {
        line: len(re.findall(r"(?<!\\)\|", line)) for line in card.splitlines() if line[:1] == "|"
    }
    assert len(cells) == 4
    assert len(set(cells.values())) == 1
