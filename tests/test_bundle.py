"""A model directory comes back as it was saved, or is refused with the reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tagger import bundle, shelf
from tagger.bundle import CONFIG, WEIGHTS, Bundle
from tagger.errors import ModelError, OutputError
from tagger.model import CMAClip
from tagger.network import Output
from tagger.preprocess import collate_titles
from tagger.tokenizer import learn_pieces

from .conftest import random_titles

TOKENIZER = "tokenizer.json"
Change = Callable[[dict[str, Tensor]], object]


@pytest.fixture
def copied(model_dir: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model to damage."""
    return Path(shutil.copytree(model_dir, tmp_path / "copied"))


def answer(loaded: Bundle) -> Output:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (12, 3, 32, 24), generator=generator, dtype=torch.uint8)
    ids, mask = collate_titles(random_titles(12), loaded.tokenizer, loaded.fixed_length)
    with torch.inference_mode():
        output: Output = loaded.model(pixels, torch.ones(12, dtype=torch.bool), ids, mask)
    return output


def same(left: Output, right: Output) -> bool:
    return torch.equal(left.modality_weights, right.modality_weights) and all(
        torch.equal(left.logits[task], right.logits[task]) for task in left.logits
    )


def test_saved_and_loaded_model_gives_identical_outputs(tiny: Bundle, tmp_path: Path) -> None:
    bundle.save(tmp_path / "again", tiny.config, tiny.model, tiny.tokenizer, "# card\n")
    again = bundle.load(tmp_path / "again")
    assert again.config == tiny.config
    assert again.sha256 == tiny.sha256
    assert same(answer(again), answer(tiny))
    assert not again.model.training


def test_half_precision_is_lossless_after_the_first_rounding(tiny: Bundle, tmp_path: Path) -> None:
    config = msgspec.structs.replace(tiny.config, weights="float16")
    bundle.save(tmp_path / "half", config, tiny.model, tiny.tokenizer, "")
    half = bundle.load(tmp_path / "half")
    bundle.save(tmp_path / "twice", config, half.model, half.tokenizer, "")
    twice = bundle.load(tmp_path / "twice")
    assert same(answer(half), answer(twice))
    assert half.sha256 == twice.sha256 != tiny.sha256
    assert {p.dtype for p in half.model.parameters()} == {torch.float32}
    stored = load_file(tmp_path / "half" / WEIGHTS)
    assert {t.dtype for t in stored.values() if t.ndim >= 2} == {torch.float16}
    for name, tensor in stored.items():
        if tensor.ndim < 2:
            assert torch.equal(tensor, tiny.model.state_dict()[name])
    for task, logits in answer(half).logits.items():
        assert torch.allclose(logits, answer(tiny).logits[task], atol=0.05, rtol=0.05)


def test_model_directory_holds_its_files_and_nothing_else(model_dir: Path) -> None:
    names = {path.name for path in model_dir.iterdir()}
    assert names == {CONFIG, WEIGHTS, TOKENIZER, "README.md"}


def damage(path: Path, change: Change) -> None:
    state = load_file(path / WEIGHTS)
    change(state)
    save_file(state, path / WEIGHTS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("norm.weight"), "lacks tensors.*'norm.weight'"),
        (lambda state: state.update(extra=torch.zeros(2)), "unknown tensors.*'extra'"),
        (lambda state: state.update({"norm.weight": torch.zeros(3)}), "misshapen.*'norm.weight'"),
        (lambda state: state.clear(), "lacks tensors.* more"),
    ],
)
def test_tensors_that_do_not_fit_are_named(copied: Path, change: Change, message: str) -> None:
    damage(copied, change)
    with pytest.raises(ModelError, match=message) as caught:
        bundle.load(copied)
    assert str(copied / WEIGHTS) in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_damaged(copied: Path, value: float) -> None:
    damage(copied, lambda state: state["norm.weight"].fill_(value))
    with pytest.raises(ModelError, match=r"norm\.weight holds values that are not finite"):
        bundle.load(copied)


@pytest.mark.parametrize("name", [CONFIG, TOKENIZER, WEIGHTS])
def test_link_out_of_the_model_directory_is_refused(copied: Path, name: str) -> None:
    (copied / name).rename(copied.parent / name)
    (copied / name).symlink_to(copied.parent / name)
    with pytest.raises(ModelError, match="link out of the model directory"):
        bundle.load(copied)


def test_link_to_a_model_directory_is_followed(copied: Path, tiny: Bundle) -> None:
    (copied.parent / "latest").symlink_to(copied)
    assert bundle.load(copied.parent / "latest").sha256 == tiny.sha256


@pytest.mark.parametrize("label", ["\x1b[31mRed", "Red\n", "\x00", "Red\x9b"])
def test_label_with_control_characters_is_refused(copied: Path, tiny: Bundle, label: str) -> None:
    document = msgspec.to_builtins(tiny.config)
    document["tasks"][0]["labels"] = [label, "Blue"]
    (copied / CONFIG).write_text(json.dumps(document))
    with pytest.raises(ModelError, match="control characters") as caught:
        bundle.load(copied)
    assert label not in caught.value.message


def test_size_that_no_memory_holds_is_refused_from_the_header(copied: Path, tiny: Bundle) -> None:
    document = msgspec.to_builtins(tiny.config)
    document["fusion"]["head_width"] = 10**6
    (copied / CONFIG).write_text(json.dumps(document))
    with pytest.raises(ModelError, match="misshapen"):
        bundle.load(copied)


@pytest.mark.parametrize("length", [2**62, 10**8])
def test_header_that_announces_more_than_the_file_holds_is_damaged(
    copied: Path, length: int
) -> None:
    content = (copied / WEIGHTS).read_bytes()
    (copied / WEIGHTS).write_bytes(length.to_bytes(8, "little") + content[8:])
    with pytest.raises(ModelError, match="is damaged"):
        bundle.load(copied)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.999])
def test_truncated_weights_are_damaged(copied: Path, share: float) -> None:
    content = (copied / WEIGHTS).read_bytes()
    (copied / WEIGHTS).write_bytes(content[: int(share * len(content))])
    with pytest.raises(ModelError, match="is damaged"):
        bundle.load(copied)


@pytest.mark.parametrize("content", [b"\x80\x04\x95pickle", b"version https://git-lfs.github.com"])
def test_weights_that_are_something_else_are_damaged(copied: Path, content: bytes) -> None:
    (copied / WEIGHTS).write_bytes(content * 20)
    with pytest.raises(ModelError, match="is damaged"):
        bundle.load(copied)


def test_missing_weights_make_a_definition(copied: Path) -> None:
    (copied / WEIGHTS).unlink()
    with pytest.raises(ModelError, match="definition without weights") as caught:
        bundle.load(copied)
    assert "tagger train" in caught.value.hint


def test_missing_or_damaged_tokenizer_is_a_model_error(copied: Path) -> None:
    (copied / TOKENIZER).write_text('{"model": 5}')
    with pytest.raises(ModelError, match=r"tokenizer\.json: not a tokenizer file"):
        bundle.load(copied)
    (copied / TOKENIZER).unlink()
    with pytest.raises(ModelError, match=r"has no tokenizer\.json"):
        bundle.load(copied)


def test_tokenizer_of_another_model_is_refused(copied: Path) -> None:
    titles = [f"brand{number} " * 3 for number in range(900)]
    learn_pieces(titles, 900, 16).save(copied)
    with pytest.raises(ModelError, match=r"config\.json says 200"):
        bundle.load(copied)


def test_config_of_another_model_is_refused(copied: Path, tiny: Bundle) -> None:
    document = msgspec.to_builtins(tiny.config)
    document["fusion"]["width"] = 32
    (copied / CONFIG).write_text(json.dumps(document))
    with pytest.raises(ModelError, match="misshapen"):
        bundle.load(copied)


@pytest.mark.parametrize("name", [CONFIG, TOKENIZER, WEIGHTS])
def test_hash_depends_on_every_file_that_decides_an_answer(
    copied: Path, tiny: Bundle, name: str
) -> None:
    assert bundle.load(copied).sha256 == tiny.sha256
    if name == WEIGHTS:
        damage(copied, lambda state: state["norm.weight"].add_(1))
    else:
        (copied / name).write_text((copied / name).read_text() + "\n")
    assert bundle.load(copied).sha256 != tiny.sha256


def test_hash_does_not_depend_on_the_card_or_the_place(copied: Path, tiny: Bundle) -> None:
    (copied / "README.md").write_text("another card")
    assert bundle.load(copied).sha256 == tiny.sha256


@pytest.mark.parametrize("name", ["nowhere", "cma-clip-smal", "a/b/c", ""])
def test_unknown_model_names_the_shelf(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"on the shelf: .*'cma-clip-small'") as caught:
        bundle.load(name)
    assert "--model" in caught.value.hint
    assert ("Did you mean 'cma-clip-small'?" in caught.value.message) == (name == "cma-clip-smal")


def test_folder_of_the_same_name_comes_before_the_shelf(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert shelf.resolve("cma-clip-small").parent == shelf.shelf()
    shutil.copytree(model_dir, tmp_path / "cma-clip-small")
    assert bundle.load("cma-clip-small").task("color").name == "color"


def test_model_that_cannot_be_written_is_an_output_error(tiny: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    model: CMAClip = tiny.model
    with pytest.raises(OutputError, match="cannot write"):
        bundle.save(tmp_path / "file" / "model", tiny.config, model, tiny.tokenizer, "")
