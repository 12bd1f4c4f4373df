"""The towers are used rightly: their global tokens are open_clip's own embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip
import pandas as pd
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import tagger
from tagger import bundle
from tagger.config import Architecture, Config, Fusion, Preprocess, TokenTower
from tagger.device import has_bf16
from tagger.errors import ModelError, WeightsError
from tagger.fast_vit import PatchEmbedding, narrow_products, write_out_attention
from tagger.inference import speed_up
from tagger.model import CMAClip
from tagger.network import Normalise
from tagger.tokenizer import ClipPieces
from tagger.towers import (
    Attention,
    OpenClipImageTower,
    OpenClipTextTower,
    TokenTextTower,
    load_pretrained,
    open_clip_towers,
)

from .conftest import TASKS, randomise, register_architectures, save_tiny, tiny_config

TEXT = {"context_length": 12, "vocab_size": 99, "width": 16, "heads": 2, "layers": 2}
VIT = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "tiny-clip": {"embed_dim": 8, "vision_cfg": VIT, "text_cfg": TEXT},
    "tiny-resnet": {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16},
        "text_cfg": TEXT,
    },
    "tiny-convnext": {
        "embed_dim": 8,
        "vision_cfg": {
            "timm_model_name": "convnext_atto",
            "timm_model_pretrained": False,
            "timm_pool": "",
            "timm_proj": "linear",
            "image_size": 64,
        },
        "text_cfg": TEXT,
    },
    "tiny-siglip-like": {
        "embed_dim": 192,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {
            "image_size": 224,
            "timm_model_name": "vit_tiny_patch16_224",
            "timm_model_pretrained": False,
            "timm_pool": "map",
            "timm_proj": "none",
        },
        "text_cfg": {
            **TEXT,
            "width": 192,
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
        },
    },
    "tiny-coca": {
        "embed_dim": 8,
        "vision_cfg": {
            **VIT,
            "attentional_pool": True,
            "attn_pooler_heads": 2,
            "output_tokens": True,
        },
        "text_cfg": {**TEXT, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {**TEXT, "attn_pooler_heads": 2},
        "custom_text": True,
    },
}


ARCHITECTURES["tiny-words"] = {
    **ARCHITECTURES["tiny-clip"],
    "text_cfg": {**TEXT, "vocab_size": 49408},
}
"""Reads CLIP's own tokens."""
ARCHITECTURES["tiny-deep"] = {
    "embed_dim": 8,
    "vision_cfg": {**VIT, "layers": 12},
    "text_cfg": {**TEXT, "layers": 12},
}
"""Enough blocks for roundings to add up."""


@pytest.fixture(scope="module", autouse=True)
def architectures(tmp_path_factory: pytest.TempPathFactory) -> None:
    register_architectures(tmp_path_factory.mktemp("architectures"), ARCHITECTURES)


def original(name: str) -> Any:
    torch.manual_seed(1)
    model = open_clip.create_model(name, force_custom_text=True).eval()
    for parameter in model.parameters():  # no layer may stay at a neutral start value
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    return model


def titles(batch: int, context_length: int = 12) -> torch.Tensor:
    """Ids as CLIP's tokenizer makes them: start, words, the highest id at the end, zeros."""
    ids = torch.zeros(batch, context_length, dtype=torch.long)
    for row in range(batch):
        words = torch.randint(1, 97, (2 + row % 6,))
        ids[row, : len(words) + 2] = torch.tensor([97, *words.tolist(), 98])
    return ids


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_global_tokens_equal_open_clips_embeddings(name: str, tmp_path: Path) -> None:
    model = original(name)
    weights = tmp_path / "weights.safetensors"
    save_file({k: v.contiguous().clone() for k, v in model.state_dict().items()}, weights)
    image, text = open_clip_towers(name)
    load_pretrained(name, str(weights), image, text)
    image.eval()
    text.eval()
    size = ARCHITECTURES[name]["vision_cfg"]["image_size"]
    pixels, ids = torch.randn(3, 3, size, size), titles(3)
    with torch.no_grad():
        image_global, patches = image(pixels)
        text_global, words = text(ids, ids > 0)
        unnormalised = {"normalize": False}
        torch.testing.assert_close(image_global, model.encode_image(pixels, **unnormalised))
        torch.testing.assert_close(text_global, model.encode_text(ids, **unnormalised))
    assert image_global.shape == (3, image.width)
    assert text_global.shape == (3, text.width)
    assert patches.ndim == 3
    assert patches.shape[2] == image.token_width
    assert patches.shape[1] >= 1
    assert words.shape[2] == text.token_width


def test_cutting_a_title_to_its_length_is_exact_for_a_causal_tower() -> None:
    _, text = open_clip_towers("tiny-clip")
    text.eval()
    ids = titles(4)
    longest = int((ids > 0).sum(1).max())
    assert text.fixed_length is None
    with torch.no_grad():
        whole, _ = text(ids, ids > 0)
        cut, tokens = text(ids[:, :longest], ids[:, :longest] > 0)
    torch.testing.assert_close(cut, whole)
    assert tokens.shape[1] == longest


@pytest.mark.parametrize("name", ["tiny-siglip-like", "tiny-coca"])
def test_towers_that_need_their_whole_context_say_so(name: str) -> None:
    assert open_clip_towers(name)[1].fixed_length == 12


def test_an_unknown_architecture_names_the_nearest() -> None:
    with pytest.raises(ModelError, match=r"Did you mean 'ViT-B-32'"):
        open_clip_towers("ViT-B-23")


def test_a_text_tower_from_hugging_face_is_refused() -> None:
    with pytest.raises(ModelError, match="cannot be rebuilt without the network"):
        open_clip_towers("roberta-ViT-B-32")


@pytest.mark.parametrize(
    ("pretrained", "message"),
    [("laion2b_s34b", "it has: .*laion2b_s34b_b79k"), ("gone.safetensors", "no such weights file")],
)
def test_unknown_weights_name_what_there_is(pretrained: str, message: str) -> None:
    towers = open_clip_towers("tiny-clip")
    with pytest.raises(WeightsError, match=message):
        load_pretrained("ViT-B-32", pretrained, *towers)


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    weights = tmp_path / "other.safetensors"
    save_file({"visual.nothing": torch.zeros(1)}, weights)
    with pytest.raises(WeightsError, match=r"could not be loaded.*visual\.nothing") as refused:
        load_pretrained("tiny-clip", str(weights), *open_clip_towers("tiny-clip"))
    assert "another architecture" in refused.value.hint
    assert "offline" not in refused.value.hint


def test_pickled_code_in_a_weights_file_is_not_run(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path(tmp_path / "harm").touch, ())

    torch.save({"state_dict": Harmful()}, tmp_path / "weights.pt")
    with pytest.raises(WeightsError):
        load_pretrained("tiny-clip", str(tmp_path / "weights.pt"), *open_clip_towers("tiny-clip"))
    assert not (tmp_path / "harm").exists()


def text_tower(kernel: int) -> TokenTextTower:
    """A small one as it is made."""
    torch.manual_seed(0)
    config = TokenTower(vocabulary_size=50, width=8, layers=2, heads=2, kernel=kernel)  # type: ignore[arg-type]
    return TokenTextTower(config).eval()


def knowing_neighbours(tower: TokenTextTower) -> TokenTextTower:
    """As if its convolution, if it has one, had learned something."""
    if tower.neighbours is not None:
        nn.init.normal_(tower.neighbours.weight)
    return tower


@pytest.mark.parametrize("kernel", [3, 5])
def test_a_word_knows_those_beside_it_and_no_others(kernel: int) -> None:
    tower = knowing_neighbours(text_tower(kernel))
    ids = torch.arange(3, 14)[None]
    mask = torch.ones_like(ids, dtype=torch.bool)
    other = ids.clone()
    other[0, 5] = 30
    changed = (tower.embedded(ids, mask) != tower.embedded(other, mask)).any(-1)[0]
    side = kernel // 2
    assert changed.nonzero().flatten().tolist() == list(range(5 - side, 5 + side + 1))


def test_before_it_has_learned_a_kernel_changes_nothing() -> None:
    without, kernel = text_tower(1), text_tower(5)
    ids = torch.randint(3, 50, (2, 6))
    mask = torch.ones(2, 6, dtype=torch.bool)
    torch.testing.assert_close(kernel(ids, mask)[1], without(ids, mask)[1], rtol=0, atol=0)


@pytest.mark.parametrize("kernel", [1, 5])
def test_text_tower_reads_its_global_token_at_the_end_and_ignores_padding(kernel: int) -> None:
    tower = knowing_neighbours(text_tower(kernel))
    ids = torch.randint(3, 50, (2, 6))
    mask = torch.ones(2, 6, dtype=torch.bool)
    pooled, tokens = tower(ids, mask)
    torch.testing.assert_close(pooled, tokens[:, -1])
    padded = torch.cat([ids, torch.randint(0, 50, (2, 5))], 1)
    padding = torch.cat([mask, torch.zeros(2, 5, dtype=torch.bool)], 1)
    torch.testing.assert_close(tower(padded, padding)[0], pooled)


def test_pictures_of_another_size_than_the_tower_takes_are_refused() -> None:
    config = Config(
        architecture=Architecture(open_clip="tiny-clip"),
        preprocess=Preprocess(height=64, width=64),
        tasks=TASKS,
    )
    with pytest.raises(ModelError, match="takes pictures of 32x32, preprocess makes them 64x64"):
        CMAClip(config)


def test_weights_for_another_activation_are_refused_with_the_right_model() -> None:
    with pytest.raises(WeightsError, match="another activation") as refused:
        load_pretrained("ViT-B-32", "openai", *open_clip_towers("tiny-clip"))
    assert "--model ViT-B-32-quickgelu --pretrained openai" in refused.value.hint


def model_on(name: str) -> CMAClip:
    """A model with random weights on towers `name`, its mean colour not a whole number."""
    size = ARCHITECTURES[name]["vision_cfg"]["image_size"]
    tiny = tiny_config()
    config = Config(
        architecture=Architecture(open_clip=name),
        fusion=tiny.fusion,
        preprocess=Preprocess(height=size, width=size, mean=(0.48, 0.3, 0.41), std=(0.2, 0.3, 0.4)),
        tasks=tiny.tasks,
    )
    torch.manual_seed(0)
    model = CMAClip(config)
    randomise(model, seed=1)
    return model.eval()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_fast_towers_answer_as_open_clips_own(name: str) -> None:
    model, fast = model_on(name), model_on(name)
    speed_up(fast, fp32=True)
    size = ARCHITECTURES[name]["vision_cfg"]["image_size"]
    pixels = torch.randint(0, 256, (3, size, size, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    ids = titles(3)
    with torch.inference_mode():
        for one, other in (
            (model.image_features(pixels), fast.image_features(pixels)),
            (model.text_features(ids, ids > 0), fast.text_features(ids, ids > 0)),
        ):
            torch.testing.assert_close(other.pooled, one.pooled, rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(other.tokens, one.tokens, rtol=1e-3, atol=1e-4)
    if "timm" not in str(ARCHITECTURES[name]) and name != "tiny-resnet":
        kinds = {type(module).__name__ for module in fast.modules()}
        assert {"FastAttention", "PatchEmbedding"} <= kinds


def distances(model: CMAClip, other: CMAClip) -> list[float]:
    """Mean distance of the features of picture and title, relative to their size."""
    pixels = torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8)
    ids = titles(16)
    with torch.inference_mode():
        pairs = [
            (one.float(), two.float())
            for seen, again in (
                (model.image_features(pixels), other.image_features(pixels)),
                (model.text_features(ids, ids > 0), other.text_features(ids, ids > 0)),
            )
            for one, two in ((seen.pooled, again.pooled), (seen.tokens, again.tokens))
        ]
    return [float((two - one).norm() / one.norm()) for one, two in pairs]


def test_what_blocks_add_up_in_float32_is_nearer_than_all_in_bf16() -> None:
    exact, rounded, narrow = (model_on("tiny-deep") for _ in range(3))
    for tower in (rounded.image_tower, rounded.text_tower):
        tower.to(torch.bfloat16)
    for tower in (narrow.image_tower, narrow.text_tower):
        assert isinstance(tower, OpenClipImageTower | OpenClipTextTower)
        names = set(tower.state_dict())
        assert narrow_products(tower)
        assert {name.replace("conv1.0", "conv1") for name in tower.state_dict()} == names
    seen = narrow.image_features(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    assert seen.tokens.dtype == torch.bfloat16
    for near, far in zip(distances(exact, narrow), distances(exact, rounded), strict=True):
        assert near < 0.9 * far


@pytest.mark.skipif(not has_bf16(torch.device("cpu")), reason="this CPU has no bf16")
def test_bf16_model_answers_from_pictures_as_the_exact_one_does() -> None:
    exact, fast = model_on("tiny-deep"), model_on("tiny-deep")
    speed_up(exact, fp32=True)
    speed_up(fast, fp32=False)
    pixels = torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8)
    here, ids = torch.ones(16, dtype=torch.bool), titles(16)
    with torch.inference_mode():
        one, other = (model(pixels, here, ids, ids > 0) for model in (exact, fast))
    for name, logits in one.logits.items():
        chances = (x.softmax(-1) for x in (logits, other.logits[name]))
        torch.testing.assert_close(next(chances), next(chances), rtol=0, atol=0.05)
    torch.testing.assert_close(other.modality_weights, one.modality_weights, rtol=0, atol=0.05)
    block = fast.image_tower.get_submodule("visual.transformer.resblocks.5")
    types = {name: p.dtype for name, p in block.named_parameters()}
    assert types["ln_1.weight"] == torch.float32
    assert types["mlp.c_fc.weight"] == types["attn.in_proj_weight"] == torch.bfloat16
    assert {m.approximate for m in fast.trunk[0].modules() if isinstance(m, nn.GELU)} == {"none"}


@pytest.mark.parametrize("name", ["tiny-coca", "tiny-resnet", "tiny-convnext"])
def test_towers_that_are_no_plain_transformers_stay_whole(name: str) -> None:
    tower = model_on(name).image_tower
    assert isinstance(tower, OpenClipImageTower)
    before = {name: tensor.dtype for name, tensor in tower.state_dict().items()}
    assert not narrow_products(tower)
    assert {name: tensor.dtype for name, tensor in tower.state_dict().items()} == before


def test_written_out_attention_learns_as_open_clips_own() -> None:
    gradients = []
    for written_out in (False, True):
        model = model_on("tiny-clip").train()
        if written_out:
            write_out_attention(model)
        names = list(model.state_dict())
        torch.manual_seed(0)
        pixels, ids = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8), titles(3)
        image, text = model.image_features(pixels), model.text_features(ids, ids > 0)
        (image.tokens.square().mean() + text.tokens.square().mean()).backward()  # type: ignore[no-untyped-call]
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
        assert names == list(model_on("tiny-clip").state_dict())
    one, other = gradients
    assert one.keys() == other.keys()
    assert any("in_proj_weight" in name for name in one)
    for name, gradient in one.items():
        torch.testing.assert_close(other[name], gradient, rtol=1e-3, atol=1e-5)


def test_pixels_of_bf16_patches_are_exact_before_the_product() -> None:
    model = model_on("tiny-clip")
    visual = model.image_tower.get_submodule("visual")
    exact, normalise = visual.get_submodule("conv1"), model.normalise
    assert isinstance(exact, nn.Conv2d)
    assert isinstance(normalise, Normalise)
    fast = PatchEmbedding(exact, normalise).to(torch.bfloat16)
    pixels = torch.randint(100, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        one = exact(normalise(pixels))
        off = (fast(pixels.to(torch.bfloat16)).float() - one).abs().mean()
        plain = exact.to(torch.bfloat16)(normalise(pixels).to(torch.bfloat16)).float()
    assert off < 1.5 * (plain - one).abs().mean()


def test_model_directory_on_open_clip_towers_loads_and_answers(tmp_path: Path) -> None:
    model = model_on("tiny-words")
    bundle.save(tmp_path / "model", model.config, model, ClipPieces(12), "# x\n")
    frame = pd.DataFrame({"title": ["red shirt", "a blue shoe for women", None]})
    exact = tagger.load(tmp_path / "model", fp32=True).predict(frame)
    fast = tagger.load(tmp_path / "model").predict(frame)
    assert exact["color_status"].tolist() == ["ok", "ok", "error"]
    assert exact["color_confidence"][0] != exact["color_confidence"][1]
    assert fast["color_confidence"][:2].tolist() == pytest.approx(
        exact["color_confidence"][:2].tolist(), abs=0.05
    )


def test_places_of_a_tower_that_puts_its_channels_last_are_places() -> None:
    class Visual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = timm.models.SwinTransformer(
                img_size=32, embed_dim=8, depths=(1, 1), num_heads=(1, 2), window_size=2,
                num_classes=0,
            )  # fmt: skip
            self.head = nn.Identity()

    tower = OpenClipImageTower(Visual().eval(), 16, (32, 32))
    assert (tower.num_tokens, tower.token_width) == (16, 16)
    pooled, tokens = tower(torch.randn(2, 3, 32, 32))
    torch.testing.assert_close(tokens.mean(1), pooled)


def test_precision_is_that_of_the_tower_that_is_read(tmp_path: Path) -> None:
    config = Config(
        architecture=Architecture(open_clip="tiny-words"),
        fusion=Fusion(system="title-only", width=16, heads=2, head_width=16),
        preprocess=Preprocess(height=32, width=32),
        tasks=TASKS,
    )
    save_tiny(tmp_path / "model", config)
    assert bundle.load(tmp_path / "model").computed_in == "float32"
    model = bundle.load(tmp_path / "model")
    model.model.text_tower.to(torch.bfloat16)
    assert model.computed_in == "bfloat16"


def make_attention() -> tuple[Attention, Tensor, Tensor]:
    """A layer with biases, tokens (2, 40, 32) and a mask (2, 40)."""
    torch.manual_seed(0)
    attention = Attention(32, 4)
    for parameter in attention.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return attention, torch.randn(2, 40, 32), torch.arange(40) < torch.tensor([[40], [25]])


def test_attention_is_that_of_torch() -> None:
    attention, x, mask = make_attention()
    theirs = nn.MultiheadAttention(32, 4, batch_first=True)
    names = {"in_proj_": attention.qkv, "out_proj.": attention.out}
    theirs.load_state_dict(
        {f"{n}{kind}": value for n, m in names.items() for kind, value in m.state_dict().items()}
    )
    expected = theirs(x, x, x, key_padding_mask=~mask)[0]
    torch.testing.assert_close(attention(x, mask), expected)


def test_attention_of_a_few_tokens_is_that_of_all_and_teaches_the_same() -> None:
    attention, x, mask = make_attention()
    seen: list[Tensor] = []
    attention.softmax.register_forward_hook(lambda *call: seen.append(call[2]))
    few, all_ = attention(x, mask, [0, 30]), attention(x, mask)[:, [0, 30]]
    torch.testing.assert_close(few, all_)
    torch.testing.assert_close(seen[0], seen[1][:, :, [0, 30]])
    learned = list(attention.parameters())
    gradients = [torch.autograd.grad(answer.square().sum(), learned) for answer in (few, all_)]
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)


def test_attention_of_a_few_tokens_computes_neither_keys_nor_values() -> None:
    attention, x, mask = make_attention()
    with FlopCounterMode(display=False) as counter:
        attention(x, mask, [0, 30])
    of_keys = 2 * x.numel() * x.shape[2]
    assert counter.get_total_flops() < of_keys
