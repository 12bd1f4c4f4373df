"""Every system of the shelf: the promises that all of them keep, and what makes each the one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import msgspec
import numpy as np
import open_clip
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tagger import bundle
from tagger.config import Architecture, Config, ConvTower, Fusion, Preprocess, System, TokenTower
from tagger.modalities import IMAGE, TEXT
from tagger.network import Network, Output
from tagger.systems import SYSTEMS, build_network
from tagger.tasks import Task
from tagger.tokenizer import learn_pieces

from .conftest import random_titles, randomise

NAMES: tuple[System, ...] = get_args(System)
TASKS = (
    Task("color", ("Black", "Red", "White")),
    Task("kind", ("Shoes > Boots", "Shoes > Pumps", "Bags > Totes"), " > "),
)
BATCH = 6
WORDS = {"context_length": 12, "vocab_size": 60, "width": 16, "heads": 2, "layers": 2}
VIT = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
ARCHITECTURES = {
    "tiny-systems-clip": {"embed_dim": 8, "vision_cfg": VIT, "text_cfg": WORDS},
    "tiny-systems-coca": {
        "embed_dim": 8,
        "vision_cfg": {
            **VIT,
            "attentional_pool": True,
            "attn_pooler_queries": 6,
            "attn_pooler_heads": 2,
            "output_tokens": True,
        },
        "text_cfg": {**WORDS, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {**WORDS, "attn_pooler_heads": 2},
        "custom_text": True,
    },
}
SMALL = Architecture(
    image=ConvTower(widths=(8, 16), depths=(1, 1)),
    text=TokenTower(vocabulary_size=60, context_length=12, width=16, layers=2, heads=2),
)
CLIP = Architecture(open_clip="tiny-systems-clip")
COCA = Architecture(open_clip="tiny-systems-coca")


@pytest.fixture(scope="module", autouse=True)
def architectures(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("architectures")
    for name, config in ARCHITECTURES.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)


def towers_of(system: System) -> list[Architecture]:
    """The kinds of towers that a system can stand on."""
    return [COCA] if system == "coca" else [SMALL, CLIP]


ON_TOWERS = [
    pytest.param(system, towers, id=f"{system}-{towers.open_clip or 'small'}")
    for system in NAMES
    for towers in towers_of(system)
]


def make_config(system: System, towers: Architecture | None = None, **fusion: object) -> Config:
    return Config(
        architecture=towers or towers_of(system)[0],
        fusion=Fusion(system=system, width=16, layers=2, heads=2, head_width=16, **fusion),  # type: ignore[arg-type]
        preprocess=Preprocess(height=32, width=32),
        tasks=TASKS,
    )


def make_network(system: System, towers: Architecture | None = None, **fusion: object) -> Network:
    torch.manual_seed(0)
    network = build_network(make_config(system, towers, **fusion)).eval()
    randomise(network, seed=3)  # type: ignore[arg-type]
    return network


Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


def make_inputs(batch: int = BATCH, length: int = 12) -> Inputs:
    """pixels, image_present, ids and mask, each title with the highest id at its end."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (batch, 3, 32, 32), generator=generator, dtype=torch.uint8)
    ids = torch.randint(3, 59, (batch, length), generator=generator)
    lengths = torch.randint(3, length + 1, (batch,), generator=generator)
    mask = torch.arange(length) < lengths[:, None]
    ids[torch.arange(batch), lengths - 1] = 59
    return pixels, torch.ones(batch, dtype=torch.bool), ids * mask, mask


def assert_same(one: Output, other: Output) -> None:
    torch.testing.assert_close(one.modality_weights, other.modality_weights, equal_nan=True)
    for name, logits in one.logits.items():
        torch.testing.assert_close(logits, other.logits[name])


def differs(one: Output, other: Output) -> bool:
    return not torch.allclose(one.logits["color"], other.logits["color"])


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def test_every_name_has_a_system() -> None:
    assert set(SYSTEMS) == set(NAMES)


@pytest.mark.parametrize(("system", "towers"), ON_TOWERS)
class TestEverySystem:
    def test_gives_logits_per_task_and_weights_that_sum_to_one(
        self, system: System, towers: Architecture
    ) -> None:
        output = make_network(system, towers)(*make_inputs())
        assert {name: tuple(x.shape) for name, x in output.logits.items()} == {
            "color": (BATCH, 3),
            "kind": (BATCH, 3),
        }
        assert output.modality_weights.shape == (BATCH, 2, 2)
        assert output.modality_weights.dtype == torch.float32
        sums = output.modality_weights.sum(-1)
        known = sums[~sums.isnan()]
        torch.testing.assert_close(known, torch.ones_like(known))
        assert bool(output.answerable.all())

    def test_no_pixel_of_an_absent_picture_changes_anything(
        self, system: System, towers: Architecture
    ) -> None:
        network = make_network(system, towers)
        pixels, present, ids, mask = make_inputs()
        present[::2] = False
        other = torch.where(present[:, None, None, None], pixels, 255 - pixels)
        one = network(pixels, present, ids, mask)
        assert_same(one, network(other, present, ids, mask))
        assert bool((one.modality_weights[~present][..., IMAGE] == 0).all())
        if system != "image-only":
            assert bool((one.modality_weights[~present][..., TEXT] == 1).all())

    def test_no_word_of_an_absent_title_changes_anything(
        self, system: System, towers: Architecture
    ) -> None:
        network = make_network(system, towers)
        pixels, present, ids, mask = make_inputs()
        mask[::2] = False
        other = torch.where(mask, ids, (ids + 11) % 60)
        one = network(pixels, present, ids, mask)
        assert_same(one, network(pixels, present, other, mask))
        absent = one.modality_weights[~mask.any(1)]
        assert bool((absent[..., TEXT] == 0).all())
        if system != "title-only":
            assert bool((absent[..., IMAGE] == 1).all())

    def test_absent_row_by_row_equals_absent_for_the_whole_batch(
        self, system: System, towers: Architecture
    ) -> None:
        network = make_network(system, towers)
        pixels, present, ids, mask = make_inputs()
        image, text = network.encode_image(pixels, present), network.encode_text(ids, mask)
        no_image = network.encode_image(pixels, torch.zeros_like(present))
        no_text = network.encode_text(ids, torch.zeros_like(mask))
        assert_same(network.fuse(None, text), network.fuse(no_image, text))
        assert_same(network.fuse(image, None), network.fuse(image, no_text))

    def test_a_product_without_any_modality_is_not_answerable_and_finite(
        self, system: System, towers: Architecture
    ) -> None:
        pixels, present, ids, mask = make_inputs()
        output = make_network(system, towers)(
            pixels, torch.zeros_like(present), ids, torch.zeros_like(mask)
        )
        assert bool((output.modality_weights == 0).all())
        assert not bool(output.answerable.any())
        assert all(bool(logits.isfinite().all()) for logits in output.logits.values())

    def test_products_of_a_batch_do_not_see_each_other(
        self, system: System, towers: Architecture
    ) -> None:
        network = make_network(system, towers)
        inputs = make_inputs()
        inputs[1][2] = False
        inputs[3][4] = False
        together = network(*inputs)
        for row in range(BATCH):
            alone = network(*(tensor[row : row + 1] for tensor in inputs))
            for name, logits in alone.logits.items():
                torch.testing.assert_close(logits, together.logits[name][row : row + 1])

    def test_both_modalities_change_the_answer_if_both_are_read(
        self, system: System, towers: Architecture
    ) -> None:
        network = make_network(system, towers)
        pixels, present, ids, mask = make_inputs()
        base = network(pixels, present, ids, mask)
        other_words = torch.where(mask & (ids < 59), (ids + 5) % 59, ids)
        reads_image = differs(base, network(255 - pixels, present, ids, mask))
        reads_text = differs(base, network(pixels, present, other_words, mask))
        assert (reads_image, reads_text) == (system != "title-only", system != "image-only")

    def test_gradients_reach_every_parameter_that_the_answer_hangs_on(
        self, system: System, towers: Architecture
    ) -> None:
        network = make_network(system, towers).train()
        with torch.enable_grad():
            output = network(*make_inputs())
            sum(x.square().mean() for x in output.logits.values()).backward()  # type: ignore[union-attr]
        untouched = [
            name
            for name, parameter in network.named_parameters()
            if parameter.grad is None or not bool(parameter.grad.isfinite().all())
        ]
        assert not [name for name in untouched if name not in unread_parameters(system, towers)]


def unread_parameters(system: System, towers: Architecture) -> set[str]:
    """Those that open_clip's towers have and no system reads, and projections of no tower."""
    del system, towers
    return set()


def make_bundle(system: System, path: Path) -> bundle.Bundle:
    config = make_config(system, SMALL)
    network = make_network(system, SMALL)
    bundle.save(path, config, network, learn_pieces(random_titles(60), 60, 12), "# tiny\n")
    return bundle.load(path)
