"""Every system of the shelf: the promises that all of them keep, and what makes each the one."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import msgspec
import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import tagger
from tagger import bundle, shelf
from tagger.config import (
    Architecture,
    Config,
    ConvTower,
    Fusion,
    Preprocess,
    System,
    TokenTower,
    read_config,
)
from tagger.cost import flops_per_product
from tagger.definitions import with_system
from tagger.encoder import text_context
from tagger.errors import ModelError, UsageError
from tagger.export import ExportOptions, export
from tagger.exported import Precision
from tagger.graph import save_onnx, trace
from tagger.inference import speed_up
from tagger.modalities import IMAGE, TEXT
from tagger.network import Network, Output, Sequence
from tagger.products import Products
from tagger.systems import SYSTEMS, build_network
from tagger.systems.one_stream import grids
from tagger.tasks import Task
from tagger.tokenizer import learn_pieces
from tagger.towers import TransformerBlock

from .conftest import mixed_rows, random_titles, randomise, register_architectures

NAMES: tuple[System, ...] = get_args(System)
TASKS = (
    Task("color", ("Black", "Red", "White")),
    Task("kind", ("Shoes > Boots", "Shoes > Pumps", "Bags > Totes"), " > "),
)
BATCH = 6
PIECES = learn_pieces(random_titles(60), 60, 12)
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
    register_architectures(tmp_path_factory.mktemp("architectures"), ARCHITECTURES)


def towers_of(system: System) -> list[Architecture]:
    """The kinds of towers that a system can stand on."""
    return [SMALL, CLIP, COCA] if system == "coca" else [SMALL, CLIP]


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
        other = torch.where(mask.any(1, keepdim=True), ids, (ids + 11) % 60)
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

    def test_made_ready_to_answer_fast_it_says_nearly_the_same(
        self, system: System, towers: Architecture
    ) -> None:
        torch.manual_seed(0)
        network = build_network(make_config(system, towers)).eval()
        fast = copy.deepcopy(network)
        speed_up(fast, fp32=False)
        one, other = network(*make_inputs()), fast(*make_inputs())
        for name, logits in one.logits.items():
            assert other.logits[name].dtype == torch.float32
            torch.testing.assert_close(other.logits[name], logits, atol=0.03, rtol=0)
        weights = (other.modality_weights, one.modality_weights)
        torch.testing.assert_close(*weights, atol=0.03, rtol=0, equal_nan=True)

    @pytest.mark.slow
    @pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
    def test_it_is_one_graph_in_every_precision(
        self, system: System, towers: Architecture, precision: Precision, tmp_path: Path
    ) -> None:
        with torch.enable_grad():
            network = make_network(system, towers)
        source = bundle.Bundle(
            path=tmp_path, config=network.config, model=network, tokenizer=PIECES, sha256=""
        )
        program = trace(source, precision)
        pixels, present, ids, mask = make_inputs()
        wanted = network(pixels, present, ids, mask).modality_weights
        given = program.module()(pixels.permute(0, 2, 3, 1), present, ids, mask)
        tolerance = 1e-4 if precision == "fp32" else 0.2
        torch.testing.assert_close(
            given["modality_weights"].float(), wanted, atol=tolerance, rtol=0, equal_nan=True
        )
        if precision != "bf16":  # the others are for ONNX Runtime, too
            save_onnx(program, source, tmp_path / "model.onnx")

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
        # MMBT reads patches alone, and keeps the whole tower for `export --format open_clip`.
        assert set(untouched) <= ({"image_tower.visual.proj"} if system == "mmbt" else set())


def make_bundle(system: System, path: Path) -> bundle.Bundle:
    config = make_config(system, SMALL)
    bundle.save(path, config, make_network(system, SMALL), PIECES, "# tiny\n")
    return bundle.load(path)


def make_frame(path: Path, count: int = 21) -> pd.DataFrame:
    """Products of every kind: with both, with either, with neither."""
    return pd.DataFrame(mixed_rows(path, count)).drop(columns="price")


@pytest.mark.parametrize("system", NAMES)
def test_the_operations_of_every_system_can_be_counted(system: System, tmp_path: Path) -> None:
    products = Products([None] * 3, ["red shirt", "blue", "green bag"])
    counted = flops_per_product(make_bundle(system, tmp_path), products, tmp_path)
    assert counted is not None
    assert counted > 1000


@pytest.mark.parametrize("system", NAMES)
def test_a_model_directory_answers_as_the_network_in_it(system: System, tmp_path: Path) -> None:
    loaded = make_bundle(system, tmp_path)
    assert loaded.config.fusion.system == system
    assert_same(make_network(system, SMALL)(*make_inputs()), loaded.model(*make_inputs()))


@pytest.mark.parametrize("system", NAMES)
def test_predictions_hang_on_no_batch_and_weights_are_null_or_sum_to_one(
    system: System, tmp_path: Path
) -> None:
    make_bundle(system, tmp_path / "model")
    frame = make_frame(tmp_path)
    model = tagger.load(tmp_path / "model")
    one, *others = (
        model.predict(part, tasks=["color", "kind"], image_root=tmp_path)
        for part in (frame, *(frame[start : start + 3] for start in range(0, len(frame), 3)))
    )
    pd.testing.assert_frame_equal(one, pd.concat(others), rtol=1e-4, atol=1e-4)
    has_image, has_title = one.image_status == "ok", one.title_status == "ok"
    read = {"image-only": has_image, "title-only": has_title}.get(system, has_image | has_title)
    assert ((one.color_status == "error") == ~read).all()
    assert one.color_label.notna().equals(read)
    weights = one[["color_image_weight", "color_text_weight"]]
    unknown = (has_image & has_title) if system == "clip-fine-tuned" else ~read
    assert weights.isna().any(axis=1).equals(unknown | ~read)
    np.testing.assert_allclose(weights.dropna().sum(axis=1), 1, rtol=1e-6)
    assert (weights.dropna().color_image_weight[~has_image] == 0).all()
    assert (weights.dropna().color_text_weight[~has_title] == 0).all()


def rendered(count: int) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Tensor]]:
    """Products whose color is in the picture and whose kind is in the title."""
    generator = torch.Generator().manual_seed(0)
    color, kind = (torch.randint(0, 3, (count,), generator=generator) for _ in range(2))
    palette = torch.tensor([[20, 20, 20], [200, 30, 30], [235, 235, 235]])
    pixels = palette[color][:, :, None, None].expand(-1, -1, 32, 32).to(torch.uint8)
    ids = torch.randint(3, 40, (count, 6), generator=generator)
    ids[:, 2], ids[:, 5] = 50 + kind, 59
    there = torch.ones(count, dtype=torch.bool)
    return (
        pixels,
        there,
        ids,
        torch.ones_like(ids, dtype=torch.bool),
        {"color": color, "kind": kind},
    )


@pytest.mark.parametrize("system", [name for name in NAMES if not SYSTEMS[name].zero_shot])
def test_it_learns_24_products_by_heart(system: System) -> None:
    torch.manual_seed(0)
    network = build_network(make_config(system, dropout=0.0)).train()
    *inputs, truth = rendered(24)
    tasks = {"image-only": ["color"], "title-only": ["kind"]}.get(system, ["color", "kind"])
    optimizer = torch.optim.AdamW(network.parameters(), 5e-3)
    with torch.enable_grad():
        for _ in range(100):
            logits = network(*inputs).logits
            loss = sum(F.cross_entropy(logits[task], truth[task]) for task in tasks)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[union-attr]
            optimizer.step()
            if float(loss.detach()) < 0.05:  # type: ignore[union-attr]
                break
    logits = network.eval()(*inputs).logits
    for task in tasks:
        assert (logits[task].argmax(-1) == truth[task]).all(), task


@pytest.mark.parametrize("system", [pytest.param(n, marks=pytest.mark.slow) for n in NAMES])
def test_its_onnx_export_agrees(system: System, tmp_path: Path) -> None:
    with torch.enable_grad():
        make_bundle(system, tmp_path / "model")
        out = tmp_path / "onnx"
        export(ExportOptions(str(tmp_path / "model"), "onnx", out), lambda comparison: None)
    frame = make_frame(tmp_path)
    one, other = (
        tagger.load(tmp_path / name).predict(frame, tasks=["color"], image_root=tmp_path)
        for name in ("model", "onnx")
    )
    pd.testing.assert_series_equal(one.color_status, other.color_status)
    pd.testing.assert_frame_equal(
        one.filter(like="_weight"), other.filter(like="_weight"), atol=0.02, rtol=0
    )


def test_embracenet_draws_features_in_training_and_takes_their_mean_otherwise() -> None:
    network = make_network("embracenet")
    pixels, present, ids, mask = make_inputs()
    image, text = network.encode_image(pixels, present), network.encode_text(ids, mask)
    expected, chances = network.blend(image, text)
    alone = [network.blend(image, None)[0], network.blend(None, text)[0]]
    torch.testing.assert_close(expected, sum(alone) / 2)
    assert bool((chances == 0.5).all())
    network.train()
    drawn = torch.stack([network.blend(image, text)[0] for _ in range(400)])
    assert bool(((drawn == alone[0]) | (drawn == alone[1])).all())
    torch.testing.assert_close(drawn.mean(0), expected, atol=0.25, rtol=0.2)


def test_embracenet_never_draws_from_an_absent_modality() -> None:
    network = make_network("embracenet").train()
    pixels, present, ids, mask = make_inputs()
    image = network.encode_image(pixels, torch.zeros_like(present))
    text = network.encode_text(ids, mask)
    torch.testing.assert_close(network.blend(image, text)[0], network.blend(None, text)[0])


@pytest.mark.parametrize("towers", [SMALL, CLIP], ids=["small", "clip"])
def test_mmbt_says_of_a_title_alone_what_its_text_tower_says(towers: Architecture) -> None:
    network = make_network("mmbt", towers)
    _, _, ids, mask = make_inputs()
    pooled, tokens = network.text_tower(ids, mask)
    expected = network.text_projection(pooled, tokens)[:, 0]
    vectors, _ = network.blend(None, network.encode_text(ids, mask))
    torch.testing.assert_close(vectors, expected[:, None].expand(-1, 2, -1))


def test_mmbt_has_no_blocks_but_those_of_its_towers() -> None:
    network = make_network("mmbt")
    blocks = {n for n, m in network.named_modules() if isinstance(m, TransformerBlock)}
    assert blocks == {"text_tower.blocks.0", "text_tower.blocks.1"}


@pytest.mark.parametrize("system", ["one-stream", "kaleidobert"])
def test_a_one_stream_system_has_no_blocks_in_its_towers(system: System) -> None:
    for towers in (SMALL, CLIP):
        network = make_network(system, towers)
        for tower in (network.image_tower, network.text_tower):
            kinds = [type(module).__name__ for module in tower.modules()]
            assert not {"TransformerBlock", "ResidualAttentionBlock"} & set(kinds)


def flops(network: Network, length: int, places: int) -> int:
    """Of the fusion of one product with so many words and patches."""
    sequences = [
        Sequence(torch.randn(1, count, 16), torch.ones(1, count, dtype=torch.bool))
        for count in (places, length)
    ]
    network.requires_grad_(False)
    with FlopCounterMode(display=False) as counter:
        network.blend(*sequences)
    return counter.get_total_flops()


def test_the_cost_of_perceiver_io_grows_linearly_with_the_tokens() -> None:
    network = make_network("perceiver-io", latents=8)
    few, more, most = (flops(network, n, n) for n in (100, 200, 300))
    assert more - few == most - more
    other = make_network("cma-clip")
    few, more, most = (flops(other, n, n) for n in (100, 200, 300))
    assert most - more > 1.3 * (more - few)


def test_kaleidobert_sees_the_whole_picture_and_ever_smaller_parts_of_it() -> None:
    network = make_network("kaleidobert")
    pixels, present, _, _ = make_inputs()
    assert network.encode_image(pixels, present).tokens.shape[1] == 1 + 4 + 9 + 16 + 25
    parts = grids(8, 8, (1, 2, 4))
    torch.testing.assert_close(parts.sum(1), torch.ones(21))
    assert (parts > 0).sum(1).tolist() == [64] + [16] * 4 + [4] * 16
    # A place of the picture is in one part of each scale.
    torch.testing.assert_close(parts[:1].sum(0) * 64, torch.ones(64))
    torch.testing.assert_close(parts[1:5].sum(0) * 16, torch.ones(64))
    torch.testing.assert_close(parts[5:].sum(0) * 4, torch.ones(64))


@pytest.mark.parametrize(("rows", "columns"), [(4, 3), (5, 4), (7, 7), (1, 1)])
def test_parts_of_a_grid_are_those_of_adaptive_pooling(rows: int, columns: int) -> None:
    features = torch.randn(2, 3, rows, columns)
    ours = grids(rows, columns, (1, 2, 3, 4, 5)) @ features.flatten(2).transpose(1, 2)
    pooled = [F.adaptive_avg_pool2d(features, n).flatten(2) for n in (1, 2, 3, 4, 5)]
    torch.testing.assert_close(ours, torch.cat(pooled, 2).transpose(1, 2))


def test_mmbt_needs_a_text_tower_that_can_read_more_than_a_title() -> None:
    with pytest.raises(ModelError, match="system mmbt"):
        build_network(make_config("mmbt", COCA))


@pytest.mark.parametrize("system", ["perceiver-io", "coca"])
def test_tasks_that_ask_for_themselves_weigh_the_modalities_differently(system: System) -> None:
    weights = make_network(system)(*make_inputs()).modality_weights
    assert not torch.allclose(weights[:, 0], weights[:, 1])


@pytest.mark.parametrize("system", ["image-only", "title-only"])
def test_a_system_of_one_modality_has_one_tower(system: System) -> None:
    network = make_network(system, CLIP)
    towers = (network.image_tower, network.text_tower)
    sizes = [sum(p.numel() for p in tower.parameters()) for tower in towers]
    assert (sizes[0] > 0, sizes[1] > 0) == (system == "image-only", system == "title-only")


def test_clip_fine_tuned_is_a_linear_layer_over_both_embeddings() -> None:
    network = make_network("clip-fine-tuned", CLIP)
    inputs = make_inputs()
    image, text = network.encode_image(*inputs[:2]), network.encode_text(*inputs[2:])
    both, image_alone, text_alone = (
        network.blend(*given)[0] for given in ((image, text), (image, None), (None, text))
    )
    torch.testing.assert_close(both, image_alone + text_alone)


def test_without_modality_attention_everything_else_is_cma_clip() -> None:
    whole = make_network("cma-clip").state_dict()
    ablated = make_network("cma-clip-without-modality-attention").state_dict()
    assert whole.keys() - ablated.keys() == {"modality_attention.w"}
    assert not ablated.keys() - whole.keys()


def test_text_features_of_another_system_are_not_taken_from_a_cache(tmp_path: Path) -> None:
    contexts = set()
    for system in ("cma-clip", "mmbt"):
        loaded = make_bundle(system, tmp_path / system)  # type: ignore[arg-type]
        for parameter in loaded.model.text_tower.parameters():
            parameter.fill_(0.5)
        contexts.add(text_context(loaded))
    assert len(contexts) == 2


def test_a_system_is_named_on_the_command_line_for_any_definition() -> None:
    definition = read_config(shelf.resolve("cma-clip-small") / shelf.CONFIG)
    changed = with_system(definition, "mmbt")
    assert changed.fusion == msgspec.structs.replace(definition.fusion, system="mmbt")
    assert changed.architecture == definition.architecture
    assert with_system(definition, None) == definition
    with pytest.raises(UsageError, match="Did you mean 'embracenet'"):
        with_system(definition, "embracenett")


def test_every_system_has_a_definition_on_the_shelf() -> None:
    configs = [read_config(path) for path in shelf.shelf().glob("*/config.json")]
    assert {config.fusion.system for config in configs} == set(NAMES)


@pytest.mark.parametrize(
    "path", sorted(shelf.shelf().glob("*/config.json")), ids=lambda p: p.parent.name
)
def test_every_definition_can_be_built(path: Path) -> None:
    config = msgspec.structs.replace(read_config(path), tasks=TASKS, applicability=None)
    with torch.device("meta"):
        network = build_network(config)
        size = (config.preprocess.height, config.preprocess.width)
        length = network.text_tower.fixed_length or 9
        there = torch.ones(2, length, dtype=torch.bool)
        output = network.eval()(torch.zeros(2, 3, *size), there[:, 0], there.long(), there)
    assert output.logits["color"].shape == (2, 3)
