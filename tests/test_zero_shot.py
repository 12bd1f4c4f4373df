"""CLIP zero-shot: labels are prompts, and what is learned are pictures with their titles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import open_clip
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import tagger
from tagger import bundle
from tagger.bundle import Bundle
from tagger.config import (
    PROMPTS,
    Applicability,
    Architecture,
    Config,
    Fusion,
    Preprocess,
    Training,
    read_config,
    write_config,
)
from tagger.conv_towers import MobileImageTower
from tagger.errors import ModelError, UsageError
from tagger.products import Products
from tagger.prompting import with_labels
from tagger.split import LEARNED
from tagger.systems import build_network
from tagger.systems.zero_shot import MAX_SCALE, ClipZeroShot
from tagger.tasks import Task, parse_asked
from tagger.tokenizer import learn_pieces
from tagger.train import TrainOptions, train
from tagger.trained_on import past_of, write_trained_on

from .conftest import (
    MakeCatalog,
    mixed_rows,
    random_titles,
    randomise,
    register_architectures,
    tiny_config,
)
from .test_conv_towers import TINY, tiny_mobile
from .test_systems import CLIP, PIECES, SMALL, make_inputs
from .test_train import Silent
from .test_tree_model import call

LABELS = ("Black", "Red", "White")
NECKS = ("v-neck", "crew neck", "boat neck")
WORDS = {"context_length": 77, "width": 16, "heads": 2, "layers": 2}
VIT = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}


@pytest.fixture(scope="module", autouse=True)
def architectures(tmp_path_factory: pytest.TempPathFactory) -> None:
    full = {"embed_dim": 8, "vision_cfg": VIT, "text_cfg": WORDS}
    words = {**WORDS, "context_length": 12, "vocab_size": 60}
    tiny = {"tiny-zero-shot": full, "tiny-systems-clip": {**full, "text_cfg": words}}
    register_architectures(tmp_path_factory.mktemp("architectures"), tiny)


def make_network(tasks: Sequence[Task], towers: Architecture = SMALL) -> ClipZeroShot:
    """Seeded weights, and the prompts of `tasks` read."""
    torch.manual_seed(0)
    config = Config(
        architecture=towers,
        fusion=Fusion(system="clip-zero-shot", width=16),
        preprocess=Preprocess(height=32, width=32),
        tasks=tuple(tasks),
    )
    network = build_network(config).eval()
    assert isinstance(network, ClipZeroShot)
    randomise(network, seed=3)  # type: ignore[arg-type]
    network.read_labels(PIECES)
    return network


def reading_with(config: Config, kernel: int) -> Config:
    """`config`, its text tower with that kernel."""
    assert config.architecture.text is not None
    text = msgspec.structs.replace(config.architecture.text, kernel=kernel)
    architecture = msgspec.structs.replace(config.architecture, text=text)
    return msgspec.structs.replace(config, architecture=architecture)


def save_zero_shot(path: Path, kernel: int = 3) -> Path:
    """A model directory with one task, of the towers of the tiny model."""
    config = msgspec.structs.replace(
        reading_with(tiny_config(), kernel),
        fusion=Fusion(system="clip-zero-shot", width=16),
        tasks=(Task("color", LABELS),),
    )
    torch.manual_seed(0)
    network = build_network(config)
    randomise(network, seed=3)  # type: ignore[arg-type]
    pieces = learn_pieces(random_titles(60), 200, 16)
    network.read_labels(pieces)
    bundle.save(path, config, network, pieces, "# tiny\n")
    return path


@pytest.fixture(scope="module")
def clip_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_zero_shot(tmp_path_factory.mktemp("models") / "clip")


@pytest.mark.parametrize("towers", [SMALL, CLIP], ids=["small", "clip"])
def test_the_order_of_labels_changes_no_answer(towers: Architecture) -> None:
    one = make_network([Task("color", LABELS)], towers)
    other = make_network([Task("color", LABELS[::-1])], towers)
    inputs = make_inputs()
    torch.testing.assert_close(one(*inputs).logits["color"], other(*inputs).logits["color"].flip(1))


def test_a_label_is_answered_as_it_would_be_among_others() -> None:
    few = make_network([Task("color", LABELS)])
    many = make_network([Task("color", (*LABELS, "Green", "Blue")), Task("size", ("S", "M"))])
    inputs = make_inputs()
    torch.testing.assert_close(
        few(*inputs).logits["color"], many(*inputs).logits["color"][:, : len(LABELS)]
    )


@pytest.mark.parametrize("towers", [SMALL, CLIP], ids=["small", "clip"])
def test_both_is_the_mean_of_what_picture_and_title_say_alone(towers: Architecture) -> None:
    network = make_network([Task("color", LABELS)], towers)
    pixels, present, ids, mask = make_inputs()
    image, text = network.encode_image(pixels, present), network.encode_text(ids, mask)
    both, seen, read = (
        network.fuse(image, text),
        network.fuse(image, None),
        network.fuse(None, text),
    )
    mean = (seen.logits["color"] + read.logits["color"]) / 2
    torch.testing.assert_close(both.logits["color"], mean)
    assert not torch.allclose(seen.logits["color"], read.logits["color"])
    assert (both.modality_weights == 0.5).all()


def test_logits_are_cosines_at_the_scale_of_the_weights_and_at_most_100() -> None:
    network = make_network([Task("color", LABELS)])
    inputs = make_inputs()
    with torch.no_grad():
        for scale in (5.0, MAX_SCALE, 3000.0):
            network.logit_scale.fill_(torch.tensor(scale).log())
            cosines = network(*inputs).logits["color"] / min(scale, MAX_SCALE)
            assert (cosines.abs() <= 1.0001).all()
            if scale == 5.0:
                first = cosines
            torch.testing.assert_close(cosines, first, rtol=1e-4, atol=1e-5)


def reference(weights: Path, pixels: Tensor, labels: Sequence[str]) -> Tensor:
    """open_clip's own zero-shot classification of pictures, by the recipe of CLIP's paper."""
    model = open_clip.create_model("tiny-zero-shot", pretrained=str(weights)).eval()
    tokenizer = open_clip.get_tokenizer("tiny-zero-shot")
    with torch.no_grad():
        prompts = []
        for label in labels:
            texts = [prompt.format(task="color", label=label) for prompt in PROMPTS]
            encoded = model.encode_text(tokenizer(texts), normalize=True)
            prompts.append(F.normalize(encoded.mean(0), dim=-1))
        image = model.encode_image(pixels, normalize=True)
        logits: Tensor = model.logit_scale.exp() * image @ torch.stack(prompts).T
    return logits


def open_clip_definition(folder: Path, epochs: int = 0) -> Path:
    config = Config(
        architecture=Architecture(open_clip="tiny-zero-shot"),
        fusion=Fusion(system="clip-zero-shot"),
        preprocess=Preprocess(height=32, width=32),
        training=Training(epochs=epochs, min_support=2),
    )
    (folder / "zero").mkdir()
    write_config(config, folder / "zero" / "config.json")
    return folder / "zero"


def labelled_rows(folder: Path, count: int = 24) -> list[dict[str, object]]:
    rows = mixed_rows(folder, count)
    return [{**row, "color": LABELS[k % 3]} for k, row in enumerate(rows)]


def test_pretrained_weights_answer_without_training_as_open_clip_does(
    tmp_path: Path, make_catalog: MakeCatalog
) -> None:
    torch.manual_seed(5)
    model = open_clip.create_model("tiny-zero-shot")
    with torch.no_grad():
        model.logit_scale.fill_(3.0)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    catalog = make_catalog(labelled_rows(tmp_path))  # type: ignore[arg-type]
    options = TrainOptions(
        catalog,
        ["color"],
        tmp_path / "out",
        str(open_clip_definition(tmp_path)),
        pretrained=str(tmp_path / "weights.pt"),
    )
    result = train(options, Silent())
    assert [epoch.loss for epoch in result.history] == [None]
    loaded = bundle.load(tmp_path / "out")
    pixels, present, _, _ = make_inputs()
    seen = loaded.model.fuse(loaded.model.encode_image(pixels, present), None)
    expected = reference(
        tmp_path / "weights.pt", loaded.model.normalise(pixels), loaded.task("color").labels
    )
    torch.testing.assert_close(seen.logits["color"], expected, rtol=1e-3, atol=1e-3)
    assert not (past_of(result.data.train, [loaded.path]) == LEARNED).any()
    assert "Learned from no product" in (tmp_path / "out" / "README.md").read_text()


def test_without_weights_it_says_which_are_needed(
    tmp_path: Path, make_catalog: MakeCatalog, model_dir: Path, clip_dir: Path
) -> None:
    catalog = make_catalog(labelled_rows(tmp_path))  # type: ignore[arg-type]
    definition = open_clip_definition(tmp_path)
    options = TrainOptions(catalog, ["color"], tmp_path / "out", str(definition))
    with pytest.raises(UsageError, match="needs contrastively pretrained weights"):
        train(options, Silent())
    # The towers of a model that learned labels have left the space of pictures and titles.
    other = replace(options, model=str(model_dir), system="clip-zero-shot", epochs=0)
    with pytest.raises(UsageError, match="needs contrastively pretrained weights") as refused:
        train(other, Silent())
    assert "--pretrained" in refused.value.hint
    # Towers alone are not enough: what leads from them into the common space is no part of them.
    towers = replace(options, model=str(small_definition(tmp_path, 0)), pretrained=str(clip_dir))
    with pytest.raises(UsageError, match="needs contrastively pretrained weights"):
        train(towers, Silent())
    # Nor is an image tower that learned from pictures without titles.
    weights = tmp_path / "weights.pth"
    torch.save(MobileImageTower(TINY).state_dict(), weights)
    mobile = msgspec.structs.replace(
        tiny_mobile(), fusion=Fusion(system="clip-zero-shot"), training=Training(epochs=0), tasks=()
    )
    write_config(mobile, tmp_path / "config.json")
    with pytest.raises(UsageError, match="needs contrastively pretrained weights"):
        train(replace(options, model=str(tmp_path), pretrained=str(weights)), Silent())
    with pytest.raises(UsageError, match="knows no label before it has learned it"):
        train(replace(other, system="embracenet"), Silent())
    assert not (tmp_path / "out" / "config.json").exists()


def small_definition(folder: Path, epochs: int) -> Path:
    config = msgspec.structs.replace(
        tiny_config(),
        fusion=Fusion(system="clip-zero-shot", width=16),
        training=Training(
            epochs=epochs, batch_size=8, lr=3e-3, tower_lr=3e-3, min_support=2, scrub=0.0
        ),
        tasks=(),
    )
    (folder / "small").mkdir()
    write_config(config, folder / "small" / "config.json")
    return folder / "small"


def test_training_reads_no_label(tmp_path: Path, make_catalog: MakeCatalog) -> None:
    rows = labelled_rows(tmp_path)
    shuffled = [{**row, "color": LABELS[(k // 3) % 3]} for k, row in enumerate(rows)]
    definition = small_definition(tmp_path, epochs=2)
    states = []
    for name, own in (("one", rows), ("other", shuffled)):
        catalog = make_catalog(own, f"{name}.parquet")  # type: ignore[arg-type]
        options = TrainOptions(
            catalog, ["color"], tmp_path / name, str(definition), catalog, tmp_path
        )
        # The last epoch may not be the best: what it has is what training left in the network.
        train(replace(options, epochs=1), Silent())
        states.append(bundle.load(tmp_path / name).model.state_dict())
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][name], rtol=0, atol=0, msg=name)


def test_one_product_at_a_time_teaches_nothing_and_is_refused(
    tmp_path: Path, make_catalog: MakeCatalog
) -> None:
    catalog = make_catalog(labelled_rows(tmp_path))  # type: ignore[arg-type]
    options = TrainOptions(catalog, ["color"], tmp_path / "out", "clip-zero-shot-small")
    with pytest.raises(UsageError, match="a batch of one product"):
        train(replace(options, batch_size=1), Silent())


def test_pictures_find_their_own_titles_once_learned() -> None:
    torch.manual_seed(0)
    network = make_network([Task("color", LABELS)]).train()
    inputs = make_inputs()
    optimizer = torch.optim.AdamW(network.parameters(), 5e-3)
    for _ in range(60):
        image, text = network.encode_image(*inputs[:2]), network.encode_text(*inputs[2:])
        loss = network.pair_loss(image, text)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    image, text = network.encode_image(*inputs[:2]), network.encode_text(*inputs[2:])
    nearest = (image.tokens[:, 0] @ text.tokens[:, 0].T).argmax(1)
    assert nearest.tolist() == list(range(len(nearest)))


def test_pictures_look_for_their_titles_as_hard_as_titles_for_their_pictures() -> None:
    network = make_network([Task("color", LABELS)])
    inputs = make_inputs()
    image, text = network.encode_image(*inputs[:2]), network.encode_text(*inputs[2:])
    cosines = network.logit_scale.exp() * image.tokens[:, 0] @ text.tokens[:, 0].T
    both = (cosines.log_softmax(0) + cosines.log_softmax(1)).diagonal().mean() / 2
    torch.testing.assert_close(network.pair_loss(image, text), -both)


def test_products_that_lack_one_modality_are_no_pair() -> None:
    network = make_network([Task("color", LABELS)])
    pixels, present, ids, mask = make_inputs()
    some = present.clone()
    some[[1, 4]] = False
    rows = some.nonzero()[:, 0]
    whole = network.pair_loss(network.encode_image(pixels, some), network.encode_text(ids, mask))
    part = network.pair_loss(
        network.encode_image(pixels[rows], some[rows]), network.encode_text(ids[rows], mask[rows])
    )
    torch.testing.assert_close(whole, part)
    none = network.pair_loss(
        network.encode_image(pixels, torch.zeros_like(present)), network.encode_text(ids, mask)
    )
    assert float(none.detach()) == 0.0


@pytest.mark.parametrize(
    ("system", "kernel"), [("cma-clip", 1), ("cma-clip", 5), ("one-stream", 1), ("title-only", 1)]
)
def test_other_systems_take_its_towers_and_its_words_and_nothing_else(
    system: str, kernel: int, tmp_path: Path, make_catalog: MakeCatalog
) -> None:
    clip = save_zero_shot(tmp_path / "clip", kernel=1)
    seen = Products(["images/0.jpg"], ["red shirt"])
    write_trained_on(clip, seen)
    catalog = make_catalog(labelled_rows(tmp_path))  # type: ignore[arg-type]
    definition = with_kernel(small_definition(tmp_path, epochs=1), kernel)
    out = tmp_path / "out"
    options = TrainOptions(
        catalog, ["color"], out, str(definition), system=system, pretrained=str(clip), lr=0.0
    )
    train(options, Silent())
    parent, child = bundle.load(clip), bundle.load(out)
    assert child.config.fusion.system == system
    assert child.tokenizer.encode("red shirt") == parent.tokenizer.encode("red shirt")
    taken = 0
    for name, tensor in child.model.state_dict().items():
        if name.startswith("text_tower.") and name in parent.model.state_dict():
            torch.testing.assert_close(tensor, parent.model.state_dict()[name], msg=name)
            taken += 1
    assert taken
    if kernel > 1:
        assert not child.model.get_parameter("text_tower.neighbours.weight").any()
    assert (past_of(seen, [out]) == LEARNED).all()


def with_kernel(definition: Path, kernel: int) -> Path:
    """The definition, its text tower with that kernel."""
    file = definition / "config.json"
    write_config(reading_with(read_config(file), kernel), file)
    return definition


def test_a_kernel_that_has_learned_is_not_left_behind(
    tmp_path: Path, make_catalog: MakeCatalog
) -> None:
    catalog = make_catalog(labelled_rows(tmp_path))  # type: ignore[arg-type]
    definition = small_definition(tmp_path, epochs=1)
    options = TrainOptions(catalog, ["color"], tmp_path / "with", str(with_kernel(definition, 3)))
    train(options, Silent())
    pretrained = replace(
        options,
        out=tmp_path / "without",
        model=str(with_kernel(definition, 1)),
        pretrained=str(options.out),
    )
    with pytest.raises(UsageError, match="its towers are others"):
        train(pretrained, Silent())


def test_towers_of_another_architecture_are_refused(
    tmp_path: Path, make_catalog: MakeCatalog, clip_dir: Path
) -> None:
    catalog = make_catalog(labelled_rows(tmp_path))  # type: ignore[arg-type]
    definition = open_clip_definition(tmp_path, epochs=1)
    options = TrainOptions(
        catalog, ["color"], tmp_path / "out", str(definition), pretrained=str(clip_dir)
    )
    with pytest.raises(UsageError, match="its towers are others") as refused:
        train(options, Silent())
    assert f"--model {clip_dir}" in refused.value.hint


def test_labels_that_nobody_has_given_yet_are_answered_from_the_command_line(
    tmp_path: Path, make_catalog: MakeCatalog, clip_dir: Path
) -> None:
    catalog = make_catalog(mixed_rows(tmp_path, 12))
    asked = f"color,neckline={', '.join(NECKS)}"
    given = ("predict", catalog, "--model", clip_dir, "--out", tmp_path / "out.parquet")
    assert call(*given, "--tasks", asked, "--top-k", "3") == 0
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    answered = [row for row in rows if row["neckline_status"] == "ok"]
    assert answered
    assert {row["color_label"] for row in answered} <= set(LABELS)
    for row in answered:
        assert {one["label"] for one in row["neckline_top_k"]} == set(NECKS)
        assert sum(one["confidence"] for one in row["neckline_top_k"]) == pytest.approx(1, abs=1e-3)
        has = [row["image_status"] == "ok", row["title_status"] == "ok"]
        weights = [row["neckline_image_weight"], row["neckline_text_weight"]]
        assert weights == [there / sum(has) for there in has]
    # Other labels are another run: the finished output is not taken for theirs.
    assert call(*given, "--tasks", f"neckline={NECKS[0]},{NECKS[1]}") != 0


def test_models_that_learned_labels_refuse_others_and_say_what_can_answer(
    tmp_path: Path,
    make_catalog: MakeCatalog,
    model_dir: Path,
    onnx_dir: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    catalog = make_catalog([{"title": "red shirt"}])
    for model in (model_dir, onnx_dir):
        given = ("predict", catalog, "--model", model, "--tasks", "neckline=v-neck,crew neck")
        assert call(*given) == ModelError.exit_code
        said = " ".join(capsys.readouterr().err.split())
        assert "needs contrastively pretrained weights" in said
        assert "color" in said
        assert "--model fashion-zero-shot" in said


def test_asked_labels_replace_a_task_of_that_name_and_make_another_model(clip_dir: Path) -> None:
    def fresh() -> Bundle:
        return bundle.load(clip_dir)

    asked = with_labels(fresh(), {"color": NECKS, "size": ("S", "M")})
    assert [task.name for task in asked.config.tasks] == ["color", "size"]
    assert asked.task("color").labels == NECKS
    hashes = {
        fresh().sha256,
        asked.sha256,
        with_labels(fresh(), {"color": NECKS}).sha256,
        with_labels(fresh(), {"color": NECKS[::-1]}).sha256,
    }
    assert len(hashes) == 4
    assert with_labels(fresh(), {"color": NECKS}).sha256 in hashes


def test_what_does_not_apply_to_a_kind_of_product_holds_for_tasks_that_are_not_asked_anew(
    clip_dir: Path,
) -> None:
    model = bundle.load(clip_dir)
    kind = Task("kind", ("Bags > Totes", "Shoes > Boots"), " > ")
    rule = Applicability(task="kind", not_for={"color": ("Bags",), "size": ("Bags",)})
    tasks = (kind, *model.config.tasks, Task("size", ("S", "M")))
    ruled = replace(
        model, config=msgspec.structs.replace(model.config, tasks=tasks, applicability=rule)
    )

    def after(*asked: str) -> Applicability | None:
        return with_labels(ruled, dict.fromkeys(asked, NECKS)).config.applicability

    assert after("neckline") == rule
    assert after("color") == Applicability(task="kind", not_for={"size": ("Bags",)})
    assert after("color", "size") is None
    assert after("kind") is None


def test_from_python_labels_are_given_when_the_model_is_loaded(clip_dir: Path) -> None:
    frame = pd.DataFrame({"title": ["red shirt", "blue shoe", None]})
    model = tagger.load(clip_dir, labels={"neckline": NECKS})
    answers = model.predict(frame, tasks=["neckline", "color"])
    assert set(answers["neckline_label"].dropna()) <= set(NECKS)
    assert answers["neckline_status"].tolist() == ["ok", "ok", "error"]
    plain = tagger.load(clip_dir).predict(frame, tasks=["color"])
    pd.testing.assert_frame_equal(answers[plain.columns], plain)


@pytest.mark.parametrize("labels", [["a", "b"], ("a", "b")])
def test_labels_from_python_may_be_a_list(clip_dir: Path, labels: list[str]) -> None:
    frame = pd.DataFrame({"title": ["red shirt"]})
    model = tagger.load(clip_dir, labels={"neckline": labels})
    assert model.predict(frame, tasks=["neckline"])["neckline_label"][0] in ("a", "b")


@pytest.mark.parametrize(
    "labels",
    [
        [],
        ["a"],
        ["a", "a"],
        "ab",
        ["a", "b\x1b"],
        ["a", " "],
        [38, 39],
        None,
        5,
        ["red ", "red"],
        ["caf\u00e9", "cafe\u0301"],
    ],
)
def test_labels_from_python_that_make_no_choice_are_refused(
    clip_dir: Path, labels: list[str]
) -> None:
    with pytest.raises(UsageError, match="neckline=") as caught:
        tagger.load(clip_dir, labels={"neckline": labels})
    assert "--" not in caught.value.message, "there are no options in Python"


def test_labels_from_python_are_those_that_the_command_would_read(clip_dir: Path) -> None:
    given: Any = {"neckline": (label for label in (" v-neck", "de\u0301collete\u0301"))}
    model = tagger.load(clip_dir, labels=given)
    assert model.bundle.task("neckline").labels == ("v-neck", "d\u00e9collet\u00e9")
    (written,) = parse_asked("neckline= v-neck,de\u0301collete\u0301").values()
    assert model.bundle.task("neckline").labels == written


@pytest.mark.parametrize("labels", [["a", "b"], "neckline", 5, pd.Series(["a", "b"]), {1: "ab"}])
def test_labels_from_python_that_name_no_task_are_refused_with_an_example(
    clip_dir: Path, labels: Any
) -> None:
    with pytest.raises(UsageError) as caught:
        tagger.load(clip_dir, labels=labels)
    assert "labels=" in caught.value.hint or "name" in caught.value.hint


@pytest.mark.parametrize("name", ["", " ", "title", "image", "a,b", "a=b", " a", "a\nb"])
def test_tasks_from_python_have_names_that_the_command_could_say(clip_dir: Path, name: str) -> None:
    with pytest.raises(UsageError):
        tagger.load(clip_dir, labels={name: ("a", "b")})


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("color", {"color": None}),
        ("color, pattern", {"color": None, "pattern": None}),
        ("neckline=v-neck,crew neck", {"neckline": ("v-neck", "crew neck")}),
        ("color,a=x, y ,b=z,w", {"color": None, "a": ("x", "y"), "b": ("z", "w")}),
        ("a=x,,y,", {"a": ("x", "y")}),
        ("a=x > y,z = 1,2", {"a": ("x > y", "z"), "z": ("1", "2")}),
    ],
)
def test_labels_follow_their_task_up_to_the_next(text: str, asked: dict[str, object]) -> None:
    if text.startswith("a=x > y"):
        with pytest.raises(UsageError, match="less than two labels"):
            parse_asked(text)
    else:
        assert parse_asked(text) == asked


@pytest.mark.parametrize(
    "text", ["", "a=", "a=x", "a=x,x", "=x,y", "a=x,y,a=z,w", "a,a=x,y", "a=\x1b,b"]
)
def test_labels_that_make_no_choice_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_asked(text)
