"""The model in the box, on the catalog in the box."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import tagger
from tagger.bundle import load, resolve
from tagger.config import DEFAULT_MODEL, DEFAULT_ZERO_SHOT, read_config
from tagger.errors import ModelError
from tagger.preprocess import collate_titles

from .test_tree_model import call

EXAMPLES = Path(__file__).parent.parent / "examples"
TASKS = ["category", "color", "pattern", "path"]
BARE = {
    "sleeve": ("Footwear", "Accessories", "Apparel > Bottomwear"),
    "neck": ("Footwear", "Accessories", "Apparel > Bottomwear"),
    "pattern": ("Accessories > Watches",),
}
"""Nodes whose products have no such attribute."""
GOLDEN = Path(__file__).parent / "data" / "fashion.safetensors"
GOLDEN_TITLES = (
    "Acme Men Striped Navy Blue Polo T-Shirt",
    "WOMEN'S black leather SHOES, size 38",
    "Analog Watch for girls & boys - Gold; water-resistant " * 4,
    None,
    "Café kurta ½ sleeves 漢字",
    "red",
    "shirt dress, not a dress shirt",
    None,
)
BAD_ROWS = {
    "0014": ("not_found", "ok"),
    "0028": ("unreadable", "ok"),
    "0043": ("unreadable", "ok"),
    "0057": ("unreadable", "ok"),
    "0071": ("outside_root", "ok"),
    "0086": ("missing", "ok"),
    "0100": ("ok", "missing"),
    "0114": ("missing", "missing"),
}


@pytest.fixture(scope="module")
def catalog() -> pd.DataFrame:
    return pd.read_csv(EXAMPLES / "catalog.csv", dtype=str, keep_default_na=False)


@pytest.fixture(scope="module")
def labeled(catalog: pd.DataFrame) -> pd.DataFrame:
    return tagger.load().predict(catalog, [*TASKS, "sleeve", "neck"], EXAMPLES).set_index("id")


def test_no_bit_of_an_answer_hangs_on_the_other_products(
    catalog: pd.DataFrame, labeled: pd.DataFrame
) -> None:
    model, tasks = tagger.load(), [*TASKS, "sleeve", "neck"]
    for count in (1, 9):
        few = model.predict(catalog[20 : 20 + count], tasks, EXAMPLES).set_index("id")
        pd.testing.assert_frame_equal(
            few, labeled.loc[few.index], check_dtype=False, check_exact=True
        )


@pytest.mark.parametrize("task", TASKS)
def test_it_is_right_nine_times_in_ten_on_the_example(labeled: pd.DataFrame, task: str) -> None:
    known = labeled[labeled[task] != ""]
    assert len(known) > 50
    answer = "path_path" if task == "path" else f"{task}_label"
    assert (known[answer] == known[task]).mean() >= 0.9


@pytest.mark.parametrize("task", list(BARE))
def test_it_gives_no_attribute_to_what_has_none(labeled: pd.DataFrame, task: str) -> None:
    bare = labeled[labeled["path_path"].fillna("").str.startswith(BARE[task])]
    assert len(bare) > 5
    assert (bare[f"{task}_status"] == "not_applicable").all()
    assert bare[[f"{task}_label", f"{task}_confidence"]].isna().all(axis=None)


def test_it_gives_sleeves_to_shirts(labeled: pd.DataFrame) -> None:
    shirts = labeled[labeled["path_label"] == "Shirts"]
    assert len(shirts) > 3
    assert (shirts["sleeve_status"] == "ok").all()


def test_bad_rows_of_the_example_are_statuses(labeled: pd.DataFrame) -> None:
    for name, statuses in BAD_ROWS.items():
        row = labeled.loc[name]
        assert (row["image_status"], row["title_status"]) == statuses
        assert row["color_status"] == ("error" if statuses == ("missing", "missing") else "ok")
    assert (labeled.drop(index=list(BAD_ROWS))["image_status"] == "ok").all()


@torch.no_grad()
def golden_answers(pictures: Tensor) -> dict[str, Tensor]:
    """Of GOLDEN_TITLES and the first of them with `pictures` (n, 3, 20, 15), each number of which
    is a square of pixels: logits by task, and what the modalities weigh."""
    model = load(DEFAULT_MODEL)
    pixels = torch.zeros(len(GOLDEN_TITLES), 3, 160, 120, dtype=torch.uint8)
    pixels[: len(pictures)] = pictures.repeat_interleave(8, 2).repeat_interleave(8, 3)
    present = torch.arange(len(pixels)) < len(pictures)
    output = model.model(pixels, present, *collate_titles(GOLDEN_TITLES, model.tokenizer, None))
    return {**output.logits, "modality weights": output.modality_weights}


def test_it_answers_as_when_it_was_made() -> None:
    """A model that is trained anew needs a new file, which was made with
    `pictures = torch.randint(0, 256, (6, 3, 20, 15), dtype=torch.uint8)` after
    `torch.manual_seed(0)`, by `save_file({**golden_answers(pictures), "pictures": pictures}, ...)`.
    """
    golden = load_file(GOLDEN)
    answers = golden_answers(golden.pop("pictures"))
    torch.testing.assert_close(answers, golden, rtol=1e-3, atol=1e-3)


def test_the_directory_is_small_and_complete() -> None:
    path = resolve(DEFAULT_MODEL)
    files = {file.name: file.stat().st_size for file in path.iterdir()}
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= set(files)
    assert sum(files.values()) <= 15e6
    assert "tagger train" in (path / "README.md").read_text(encoding="utf-8")


def test_it_was_trained_from_the_definition_beside_it() -> None:
    trained = read_config(resolve(DEFAULT_MODEL) / "config.json")
    definition = read_config(resolve("cma-clip-mobile") / "config.json")
    assert trained.architecture == definition.architecture
    assert trained.fusion == definition.fusion
    assert trained.preprocess == definition.preprocess
    assert [task.name for task in trained.tasks] == [
        "category",
        "color",
        "pattern",
        "sleeve",
        "neck",
        "usage",
        "gender",
        "path",
    ]


def test_what_nobody_has_labelled_is_answered_from_the_box(
    catalog: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    colors = sorted(set(catalog["color"]) - {""})
    given = ("predict", EXAMPLES / "catalog.csv", "--out", tmp_path / "out.parquet", "--tasks")
    assert call(*given, f"shade={','.join(colors)}") == 0
    answers = pd.read_parquet(tmp_path / "out.parquet")
    known = answers[answers["color"].notna() & (answers["color"] != "")]
    assert (known["shade_label"] == known["color"]).mean() >= 0.8
    # Where one task has been learned, the model that learned it is not given up in silence.
    assert call(*given, f"color,shade={','.join(colors)}") == ModelError.exit_code
    assert f"--model {DEFAULT_ZERO_SHOT}" in " ".join(capsys.readouterr().err.split())


def test_the_one_that_knows_no_labels_was_trained_from_the_definition_beside_it() -> None:
    trained = read_config(resolve(DEFAULT_ZERO_SHOT) / "config.json")
    definition = read_config(resolve("clip-zero-shot-small") / "config.json")
    assert trained.architecture == definition.architecture
    assert trained.fusion == definition.fusion
    assert trained.training == definition.training
    files = resolve(DEFAULT_ZERO_SHOT).iterdir()
    assert sum(file.stat().st_size for file in files) <= 6e6
