"""config.json is read strictly; every directory on the shelf is one that can be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tagger import shelf
from tagger.config import DEFAULT_DEFINITION, FORMAT_VERSION, Config, read_config, write_config
from tagger.errors import ModelError
from tagger.tasks import Task
from tagger.tokenizer import learn_pieces

from .conftest import tiny_config

SHELF = sorted(path.parent for path in shelf.shelf().glob("*/config.json"))
BY_SIZE: dict[str, Any] = {"image": {}, "text": {}}


def read(folder: Path, document: object) -> Config:
    path = folder / "config.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return read_config(path)


def document_of(config: Config) -> dict[str, Any]:
    document: dict[str, Any] = msgspec.to_builtins(config)
    return document


@pytest.mark.parametrize("path", SHELF, ids=lambda path: path.name)
def test_every_directory_on_the_shelf_is_read_by_its_name(path: Path, tmp_path: Path) -> None:
    assert shelf.resolve(path.name) == path
    config = read_config(path / shelf.CONFIG)
    write_config(config, tmp_path / "config.json")
    assert read_config(tmp_path / "config.json") == config


def test_shelf_is_not_empty() -> None:
    assert DEFAULT_DEFINITION in {path.name for path in SHELF}


def test_written_config_reads_back_equal_with_every_default_spelled_out(tmp_path: Path) -> None:
    config = tiny_config()
    write_config(config, tmp_path / "config.json")
    assert read_config(tmp_path / "config.json") == config
    written = json.loads((tmp_path / "config.json").read_text())
    assert set(written) == set(Config.__struct_fields__)
    assert set(written["training"]) == set(type(config.training).__struct_fields__)


def test_field_that_is_left_out_has_its_default(tmp_path: Path) -> None:
    config = read(tmp_path, {"architecture": BY_SIZE})
    assert config == Config(architecture=config.architecture)
    assert config.format_version == FORMAT_VERSION


@pytest.mark.parametrize(
    "place", ["", "architecture", "architecture.image", "fusion", "preprocess", "training"]
)
def test_unknown_field_is_refused_wherever_it_is(tmp_path: Path, place: str) -> None:
    document = document_of(tiny_config())
    target = document
    for name in filter(None, place.split(".")):
        target = target[name]
    target["hieght"] = 3
    with pytest.raises(ModelError, match="unknown field `hieght`") as caught:
        read(tmp_path, document)
    assert str(tmp_path / "config.json") in caught.value.message
    assert place in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("preprocess", "height", "80"),
        ("preprocess", "height", 0),
        ("preprocess", "height", 80.5),
        ("preprocess", "resize", "stretch"),
        ("preprocess", "fill", 256),
        ("preprocess", "mean", [0.5, 0.5]),
        ("fusion", "dropout", 1.5),
        ("fusion", "dropout", None),
        ("fusion", "shared_attention", 1),
        ("training", "lr", -1),
        ("training", "lr", 1e38),
        ("training", "weight_decay", 1e300),
        ("training", "epochs", -1),
        ("training", "optimizer", "sgd"),
    ],
)
def test_wrong_type_or_value_is_refused_with_its_place(
    tmp_path: Path, section: str, field: str, value: object
) -> None:
    with pytest.raises(ModelError) as caught:
        read(tmp_path, {"architecture": BY_SIZE, section: {field: value}})
    assert f"$.{section}.{field}" in caught.value.message


def test_a_vocabulary_has_room_for_the_special_pieces_and_one_more(tmp_path: Path) -> None:
    text = {"vocabulary_size": 4}
    config = read(tmp_path, {"architecture": {**BY_SIZE, "text": text}})
    assert config.architecture.text is not None
    pieces = learn_pieces(["red shirt", "blue"], config.architecture.text.vocabulary_size, 8)
    assert max(map(max, pieces.encode(["red shirt", "x"]))) < 4
    with pytest.raises(ModelError, match=r">= 4.*architecture\.text\.vocabulary_size"):
        read(tmp_path, {"architecture": {**BY_SIZE, "text": {"vocabulary_size": 3}}})


@pytest.mark.parametrize(
    "architecture",
    [{}, {"image": {}}, {"text": {}}, {"open_clip": "ViT-B-32", **BY_SIZE}, {"open_clip": 5}],
)
def test_architecture_is_either_a_name_or_both_sizes(
    tmp_path: Path, architecture: dict[str, Any]
) -> None:
    with pytest.raises(ModelError, match="architecture"):
        read(tmp_path, {"architecture": architecture})


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"{}", b"\xff\xfe{", b'{"architecture": {"open_clip": "\xff"}}'],
)
def test_file_that_is_no_config_is_a_model_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"config\.json"):
        read_config(tmp_path / "config.json")


def test_folder_without_a_config_is_a_model_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a model directory"):
        read_config(tmp_path / "config.json")


@pytest.mark.parametrize("extra", [{}, {"field_of_the_future": 1}])
def test_another_format_version_asks_for_an_upgrade(
    tmp_path: Path, extra: dict[str, object]
) -> None:
    with pytest.raises(ModelError, match=f"this tagger reads {FORMAT_VERSION}") as caught:
        read(tmp_path, {"architecture": BY_SIZE, "format_version": FORMAT_VERSION + 1, **extra})
    assert "upgrade" in caught.value.hint


@pytest.mark.parametrize(
    "change",
    [
        {"architecture": {"image": {"widths": [8, 16], "depths": [1]}, "text": {}}},
        {"architecture": {"image": {}, "text": {"width": 10, "heads": 3}}},
        {"fusion": {"width": 10, "heads": 3}},
        {"preprocess": {"height": 33, "width": 24}},
        {"preprocess": {"std": [0.0, 0.5, 0.5]}},
        {"tasks": [{"name": "color", "labels": ["Red", "Red"]}]},
        {"tasks": [{"name": "color", "labels": []}]},
        {"tasks": [{"name": "color", "labels": ["Red", "Blue"]}] * 2},
    ],
    ids=str,
)
def test_values_that_contradict_each_other_are_a_model_error(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    with pytest.raises(ModelError, match=r"config\.json"):
        read(tmp_path, {"architecture": BY_SIZE, **change})


def test_configs_are_immutable() -> None:
    config = tiny_config()
    with pytest.raises(AttributeError):
        config.fusion.width = 3  # type: ignore[misc]
    with pytest.raises(AttributeError):
        Task("color", ("Red",)).name = "size"  # type: ignore[misc]
