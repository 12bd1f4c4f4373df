"""A model answers in bf16 only where that changes next to nothing."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import pytest
import torch
from torch import nn

import tagger
from tagger.bundle import Bundle
from tagger.config import MobileStage, MobileTower
from tagger.device import has_bf16
from tagger.precision import Bf16Change, change_by_bf16
from tagger.products import Products
from tagger.systems import build_network

from .conftest import random_titles, save_picture, save_tiny, tiny_config

needs_bf16 = pytest.mark.skipif(
    not has_bf16(torch.device("cpu")), reason="this CPU multiplies no bf16"
)


@pytest.fixture
def products(tmp_path: Path) -> Products:
    """Titles, and pictures that lie in the test's folder."""
    for number in range(5):
        save_picture(tmp_path / f"{number}.jpg", number)
    return Products([f"{number % 5}.jpg" for number in range(40)], [*random_titles(40)])


@pytest.mark.parametrize(
    ("agree", "change", "expected"),
    [
        (1.0, 0.0, "bfloat16"),
        (0.995, 0.02, "bfloat16"),
        (0.994, 0.0, "float32"),
        (1.0, 0.021, "float32"),
        (1.0, math.nan, "float32"),
    ],
)
def test_one_label_in_200_and_two_hundredths_of_confidence_may_change(
    agree: float, change: float, expected: str
) -> None:
    assert Bf16Change("cpu", 1000, agree, change).computes_in == expected


@needs_bf16
def test_answers_that_hang_on_the_last_digits_are_kept_from_bf16(
    tiny: Bundle, products: Products, tmp_path: Path
) -> None:
    def measured(steepness: float) -> Bf16Change:
        model = build_network(tiny.config)
        model.load_state_dict(tiny.model.state_dict())
        with torch.no_grad():
            for head in model.heads:
                last = next(m for m in reversed(list(head.modules())) if isinstance(m, nn.Linear))
                last.weight.mul_(steepness)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        change = change_by_bf16(tiny.config, model, tiny.tokenizer, products, tmp_path)
        assert change is not None
        after = model.state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert change.num_products == len(products)
        return change

    assert measured(0.01).computes_in == "bfloat16"
    assert measured(30.0).computes_in == "float32"


@needs_bf16
def test_few_of_many_products_are_measured_and_none_without_any(
    tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tagger.precision.NUM_PRODUCTS", 10)
    products = Products([None] * 95, [*random_titles(95)])
    change = change_by_bf16(tiny.config, tiny.model, tiny.tokenizer, products, tmp_path)
    assert change is not None
    assert change.num_products == 10
    nothing = Products([None, None], [None, ""])
    for none in (products.take([]), nothing):
        assert change_by_bf16(tiny.config, tiny.model, tiny.tokenizer, none, tmp_path) is None


def test_a_model_that_computes_in_float32_anyway_is_not_measured(
    tiny: Bundle, products: Products, tmp_path: Path
) -> None:
    tower = MobileTower(stem=8, stages=(MobileStage(width=8, depth=1),))
    architecture = msgspec.structs.replace(tiny.config.architecture, image=None, mobile=tower)
    config = msgspec.structs.replace(tiny.config, architecture=architecture)
    model = build_network(config)
    assert change_by_bf16(config, model, tiny.tokenizer, products, tmp_path) is None


@needs_bf16
@pytest.mark.parametrize("computes_in", ["bfloat16", "float32"])
def test_a_model_says_itself_what_it_is_answered_in(tmp_path: Path, computes_in: str) -> None:
    config = msgspec.structs.replace(tiny_config(), computes_in=computes_in)
    path = save_tiny(tmp_path / "model", config)
    types = {p.dtype for p in tagger.load(path).bundle.model.parameters()}
    assert (torch.bfloat16 in types) == (computes_in == "bfloat16")
