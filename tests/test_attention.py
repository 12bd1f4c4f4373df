"""Explanations: words and places are those of the answer, and absent ones explain nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor

import tagger
from tagger import bundle
from tagger.attention import Explanation, explain, grid_of, words_of
from tagger.bundle import Bundle
from tagger.images import Pixels
from tagger.model import CMAClip
from tagger.network import Sequence as Tokens
from tagger.preprocess import collate
from tagger.tokenizer import ClipPieces, Tokenizer, learn_pieces
from tagger.towers import Attention, Neighbours, TokenTextTower

from .conftest import random_titles, randomise, tiny_config


def picture(seed: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (32, 24, 3), dtype=np.uint8)


@pytest.fixture
def explanations(tiny: Bundle) -> list[Explanation]:
    """Of a product with both, one without title, one without picture, one with neither."""
    images = [picture(0), picture(1), None, None]
    titles = ["red shirt women", None, "blue bag", None]
    return explain(tiny, images, titles, "color", [0, 1, 1, 0])


def test_relevance_is_shared_among_the_words_of_the_title(explanations: list[Explanation]) -> None:
    both = explanations[0]
    assert list(both.words) == ["red", "shirt", "women"]
    assert all(share >= 0 for share in both.relevance)
    assert 0 < sum(both.relevance) <= 1 + 1e-6
    assert both.word == int(np.argmax(both.relevance))


def test_maps_cover_the_picture_and_peak_at_one(explanations: list[Explanation]) -> None:
    both = explanations[0]
    for heat in (both.evidence, both.attended):
        assert heat is not None
        assert heat.shape == (8, 6)
        assert heat.min() >= 0
        assert heat.max() == 1


def test_absent_modalities_explain_nothing(explanations: list[Explanation]) -> None:
    _, no_title, no_picture, nothing = explanations
    assert no_title.evidence is not None
    assert (no_title.word, no_title.attended, list(no_title.words)) == (None, None, [])
    assert no_picture.evidence is None
    assert no_picture.attended is None
    assert no_picture.word is not None
    assert (nothing.evidence, nothing.word, list(nothing.words)) == (None, None, [])


def test_picture_and_title_share_the_relevance(explanations: list[Explanation]) -> None:
    both, no_title, no_picture, nothing = explanations
    assert 0.05 < both.picture_share < 1
    assert 0.5 < both.picture_share + sum(both.relevance) <= 1 + 1e-6
    assert no_title.picture_share == pytest.approx(1)
    assert (no_picture.picture_share, nothing.picture_share) == (0, 0)


@pytest.fixture
def deep(tmp_path: Path) -> Bundle:
    """A model with two layers of sequence-wise attention."""
    tiny = tiny_config()
    config = msgspec.structs.replace(tiny, fusion=msgspec.structs.replace(tiny.fusion, layers=2))
    torch.manual_seed(0)
    model = CMAClip(config)
    randomise(model, seed=2)
    bundle.save(tmp_path, config, model, learn_pieces(random_titles(60), 200, 16), "# x\n")
    return bundle.load(tmp_path)


def test_attended_is_where_the_word_looked_in_the_last_layer(deep: Bundle) -> None:
    title = "red shirt women"
    found = explain(deep, [picture(0)], [title], "color", [0])[0]
    assert found.word is not None
    batch = collate([picture(0)], [title], deep.config.preprocess, deep.tokenizer, None)
    layers: list[Tensor] = []
    handles = [
        module.softmax.register_forward_hook(lambda *call: layers.append(call[2][0]))
        for module in deep.model.sequence_attention.modules()
        if isinstance(module, Attention)
    ]
    with torch.no_grad():
        image = deep.model.encode_image(batch.pixels, batch.image_present)
        text = deep.model.encode_text(batch.ids, batch.text_mask)
        deep.model.fuse(image, text, whole=True)
    for handle in handles:
        handle.remove()
    span = words_of(title, deep.tokenizer)[found.word][1]
    rows = [1 + place for place in span]
    first, last = (
        layer.mean(0)[rows, text.tokens.shape[1] + 1 :].mean(0).numpy() for layer in layers
    )
    assert found.attended is not None
    assert found.attended.ravel() == pytest.approx(last / last.max(), abs=1e-5)
    assert found.attended.ravel() != pytest.approx(first / first.max(), abs=1e-2)


@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 5), (7, 0), (7, 5), (2, 4)])
def test_maps_point_at_the_place_that_alone_can_be_seen(
    tiny: Bundle, monkeypatch: pytest.MonkeyPatch, row: int, column: int
) -> None:
    """The network is made blind for all places but the one that a patch in the picture changes."""
    plain = np.full((32, 24, 3), 128, dtype=np.uint8)
    patched = plain.copy()
    patched[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = (255, 0, 0)
    encode = tiny.model.encode_image

    def blinkered(pixels: Tensor, present: Tensor) -> Tokens:
        seen = encode(pixels, present)
        usual = encode(torch.full_like(pixels, 128), present).tokens
        change = (seen.tokens - usual).norm(dim=-1)[:, 1:]
        mask = torch.zeros_like(seen.mask)
        mask[:, 0] = True
        mask[torch.arange(len(mask)), 1 + change.argmax(1)] = True
        return replace(seen, mask=mask)

    monkeypatch.setattr(tiny.model, "encode_image", blinkered)
    found = [
        explain(tiny, [patched], ["red shirt"], task.name, [label])[0]
        for task in tiny.config.tasks
        for label in range(len(task.labels))
    ]
    maps = [one.attended for one in found] + [one.evidence for one in found]
    shown = [heat for heat in maps if heat is not None]
    assert any(one.evidence is not None for one in found)
    assert any(one.attended is not None for one in found)
    for heat in shown:
        assert np.count_nonzero(heat) == 1
        place = np.unravel_index(int(heat.argmax()), heat.shape)
        assert np.abs(np.subtract(place, (row, column))).max() <= 2


def test_an_explanation_does_not_hang_on_the_other_products(
    tiny: Bundle, explanations: list[Explanation]
) -> None:
    alone = explain(tiny, [picture(0)], ["red shirt women"], "color", [0])[0]
    assert alone.relevance == pytest.approx(explanations[0].relevance, abs=1e-5)
    assert alone.evidence == pytest.approx(explanations[0].evidence, abs=1e-4)


@pytest.fixture
def asking(tmp_path: Path) -> Bundle:
    """A model whose tasks read words and places with queries of their own."""
    tiny = tiny_config()
    fusion = msgspec.structs.replace(tiny.fusion, task_queries=True)
    config = msgspec.structs.replace(tiny, fusion=fusion)
    model = CMAClip(config)
    randomise(model, seed=2)
    bundle.save(tmp_path, config, model, learn_pieces(random_titles(60), 200, 16), "# x\n")
    return bundle.load(tmp_path)


def test_what_a_task_reads_by_itself_is_relevant_too(asking: Bundle) -> None:
    given = ([picture(0), None], ["red shirt women", "blue bag"], "color", [0, 1])
    both, title = explain(asking, *given)
    assert 0 < sum(both.relevance) < 1
    assert 0.05 < both.picture_share < 1
    assert (title.picture_share, title.evidence) == (0, None)
    # Without the sequence-wise attention the queries are all that looks at words and places.
    model = asking.model
    assert isinstance(model, CMAClip)
    with torch.no_grad():
        for block in model.sequence_attention:
            block.attention.out.weight.zero_()  # type: ignore[union-attr, operator]
    alone = explain(asking, *given)[0]
    assert sum(alone.relevance) > 0
    assert alone.evidence is not None


def test_words_that_only_the_text_tower_read_are_relevant(model_dir: Path) -> None:
    """T_CLS knows them, though nothing in the fusion looks at them."""
    fresh = bundle.load(model_dir)
    model = fresh.model
    assert isinstance(model, CMAClip)
    given = ([picture(0)], ["red shirt women"], "color", [0])

    def blind(blocks: Iterable[torch.nn.Module]) -> Explanation:
        with torch.no_grad():
            for block in blocks:
                block.attention.out.weight.zero_()  # type: ignore[union-attr, operator]
        return explain(fresh, *given)[0]

    through_tower = blind(model.sequence_attention)
    assert sum(through_tower.relevance) > 0
    assert through_tower.evidence is None
    assert isinstance(model.text_tower, TokenTextTower)
    beside = blind(model.text_tower.blocks)
    assert [value > 0 for value in beside.relevance] == [False, False, True]  # it ends the title
    assert isinstance(model.text_tower.neighbours, Neighbours)
    torch.nn.init.zeros_(model.text_tower.neighbours.weight)
    assert sum(blind([]).relevance) == 0


def test_another_answer_has_another_explanation(tiny: Bundle) -> None:
    one, other = (
        explain(tiny, [picture(0)], ["red shirt women"], "color", [label])[0].relevance
        for label in (0, 2)
    )
    assert one != pytest.approx(other, abs=1e-3)


def test_explaining_leaves_no_trace_in_the_model(tiny: Bundle) -> None:
    explain(tiny, [picture(0)], ["red"], "color", [0])
    hooks = [module for module in tiny.model.modules() if module._forward_hooks]
    assert hooks == []
    assert all(p.grad is None for p in tiny.model.parameters())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("color", ["Green", "Black", "White", "Red", "Purple", "Yellow"])
def test_default_model_points_at_the_word_that_names_the_color(color: str) -> None:
    bundle = tagger.load().bundle
    labels = bundle.task("color").labels
    title = f"Kerala Men Solid {color} Shirt"
    found = explain(bundle, [None], [title], "color", [labels.index(color)])[0]
    assert found.word is not None
    assert found.words[found.word] == color


TOKENIZERS: list[Tokenizer] = [learn_pieces(random_titles(60), 60, 16), ClipPieces(16)]


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=["learned", "clip"])
@pytest.mark.parametrize(
    "title",
    [
        "red",
        "  red   shirt ",
        "Levi's T-shirt, 24x7 (M)",
        "unbelievableshirtings " * 12,
        "caf\u00e9 \u0642\u0645\u064a\u0635 \U0001f45f shoe",
        "<b>&amp; red",
        *random_titles(20, 5),
    ],
)
def test_words_have_the_tokens_of_the_title_in_order(tokenizer: Tokenizer, title: str) -> None:
    ids = tokenizer.encode([title])[0]
    spans = words_of(title, tokenizer)
    places = [place for _, span in spans for place in span]
    assert places == list(range(tokenizer.num_leading, len(ids) - 1))
    assert " ".join(word for word, _ in spans).split() == title.split()


@pytest.mark.parametrize(
    ("count", "height", "width", "shape"),
    [(20, 80, 60, (5, 4)), (49, 224, 224, (7, 7)), (48, 32, 24, (8, 6)), (7, 64, 64, (1, 7))],
)
def test_grid_has_the_shape_of_the_picture(
    count: int, height: int, width: int, shape: tuple[int, int]
) -> None:
    assert grid_of(count, height, width) in (shape, shape[::-1] if height == width else shape)


def test_pooled_tokens_are_no_places(tiny: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny.model.image_tower, "tokens_are_places", False, raising=False)
    found = explain(tiny, [picture(0)], ["red shirt"], "color", [0])[0]
    assert found.evidence is None
    assert found.word is not None
