"""Convolutional towers: any size of picture, published weights used rightly, others refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from tagger.config import (
    Architecture,
    Config,
    ConvTower,
    Fusion,
    MobileStage,
    MobileTower,
    Preprocess,
    TokenTower,
    Training,
)
from tagger.conv_towers import ConvImageTower, MobileImageTower, load_mobile_weights
from tagger.errors import WeightsError
from tagger.inference import speed_up
from tagger.model import CMAClip
from tagger.optimizer import Muon, build_optimizers
from tagger.tasks import Task
from tagger.warm_start import start_model

SIZES = [(80, 60), (64, 64), (50, 34)]
TINY = MobileTower(
    stem=8,
    stages=(
        MobileStage(width=8, depth=1, expansion=1),
        MobileStage(width=12, depth=4, stride=2, kernel=5, expansion=3),
    ),
)


def tiny_mobile() -> Config:
    """A definition on the tiny tower."""
    return Config(
        architecture=Architecture(
            mobile=TINY, text=TokenTower(vocabulary_size=60, width=16, layers=1, heads=2)
        ),
        fusion=Fusion(width=16, layers=1, heads=2, head_width=16),
        preprocess=Preprocess(height=32, width=24),
        tasks=(Task(name="color", labels=("red", "blue")),),
    )


@pytest.fixture
def published() -> nn.Module:
    """EfficientNet-Lite0 as timm has it, with weights that no two layers share."""
    torch.manual_seed(0)
    network = timm.create_model("efficientnet_lite0", bn_eps=1e-3).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            module.running_mean = torch.randn(module.num_features) * 0.1
            module.running_var = torch.rand(module.num_features) + 0.5
    return network


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_residual_tower_takes_any_even_size_and_its_global_token_is_the_mean(
    height: int, width: int
) -> None:
    tower = ConvImageTower(ConvTower(widths=(8, 12, 16), depths=(1, 2, 1))).eval()
    pooled, tokens = tower(torch.randn(2, 3, height, width))
    rows, columns = tower.grid(height, width)
    assert tokens.shape == (2, rows * columns, 16)
    torch.testing.assert_close(pooled, tokens.mean(1))


@pytest.mark.parametrize(("height", "width"), [*SIZES, (33, 47)])
def test_mobile_tower_takes_any_size_and_its_global_token_is_the_mean(
    height: int, width: int
) -> None:
    tower = MobileImageTower(TINY).eval()
    pooled, tokens = tower(torch.randn(2, 3, height, width))
    rows, columns = tower.grid(height, width)
    assert tokens.shape == (2, rows * columns, 12)
    torch.testing.assert_close(pooled, tokens.mean(1))


@pytest.mark.parametrize(("height", "width"), [*SIZES, (33, 47)])
@pytest.mark.parametrize("config", [TINY, MobileTower()])
def test_largest_map_is_the_largest_that_a_layer_of_the_mobile_tower_makes(
    config: MobileTower, height: int, width: int
) -> None:
    tower, sizes = MobileImageTower(config).eval(), []
    for module in tower.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda *arguments: sizes.append(arguments[2].numel()))
    tower(torch.randn(1, 3, height, width))
    assert tower.largest_map(height, width) == max(sizes)


def test_mobile_tower_on_published_weights_sees_what_timms_efficientnet_lite_sees(
    published: nn.Module, tmp_path: Path
) -> None:
    # Other libraries have other names, in the same order.
    renamed = dict(enumerate(published.state_dict().values()))
    tower = MobileImageTower(MobileTower()).eval()
    torch.save(renamed, tmp_path / "weights.pth")
    load_mobile_weights(tower, tmp_path / "weights.pth")
    pixels = torch.randn(2, 3, 64, 48)
    with torch.no_grad():
        stem = published.get_submodule("bn1")(published.get_submodule("conv_stem")(pixels))
        theirs = published.get_submodule("blocks")(stem).flatten(2).transpose(1, 2)
        torch.testing.assert_close(tower(pixels)[1], theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("shape", r"weights of another network: \(9, 3, 3, 3\) where stem.0.weight has \(8, 3"),
        ("short", r"weights of another network: nothing where"),
        ("text", "no file of weights"),
        ("safetensors", "no file of weights"),
        ("harmful", "no file of weights"),
        ("absent", "no such weights file"),
    ],
)
def test_weights_that_do_not_fit_are_refused(damage: str, message: str, tmp_path: Path) -> None:
    tower = MobileImageTower(TINY)
    tensors = list(tower.state_dict().values())
    path = tmp_path / "weights.pth"
    if damage == "shape":
        tensors[0] = torch.zeros(9, 3, 3, 3)
    if damage == "short":
        del tensors[-1]
    if damage in ("shape", "short"):
        torch.save(dict(enumerate(tensors)), path)
    if damage == "text":
        path.write_text("no weights")
    if damage == "safetensors":
        save_file({str(number): tensor for number, tensor in enumerate(tensors)}, path)
    if damage == "harmful":
        torch.save({"stem": nn.Identity()}, path)
    before = {name: tensor.clone() for name, tensor in tower.state_dict().items()}
    with pytest.raises(WeightsError, match=message):
        load_mobile_weights(tower, path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in tower.state_dict().items())


def test_training_starts_from_the_file_that_pretrained_names(tmp_path: Path) -> None:
    torch.manual_seed(5)
    given = MobileImageTower(TINY).state_dict()
    torch.save(given, tmp_path / "weights.pth")
    pretrained = str(tmp_path / "weights.pth")
    model, _ = start_model(tmp_path, tiny_mobile(), ["red shirt"] * 9, pretrained, seed=1)
    assert all(torch.equal(t, given[n]) for n, t in model.image_tower.state_dict().items())


def test_muon_leaves_the_mobile_tower_to_adamw() -> None:
    model = CMAClip(tiny_mobile())
    tower = {id(parameter) for parameter in model.image_tower.parameters()}
    optimizers = build_optimizers(model, Training(optimizer="muon"))
    muon = [o for o in optimizers if isinstance(o, Muon)]
    assert muon
    taken = {id(p) for o in muon for group in o.param_groups for p in group["params"]}
    assert taken
    assert not taken & tower


@pytest.mark.parametrize("fp32", [True, False])
def test_fast_mobile_tower_answers_as_the_slow_one(fp32: bool) -> None:
    torch.manual_seed(0)
    config = tiny_mobile()
    model, fast = CMAClip(config).eval(), CMAClip(config).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            module.running_mean = torch.randn(module.num_features) * 0.1
            module.running_var = torch.rand(module.num_features) + 0.5
    fast.load_state_dict(model.state_dict())
    speed_up(fast, fp32)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
    pixels = torch.randint(0, 256, (3, 3, 32, 24), dtype=torch.uint8)
    with torch.inference_mode():
        one, other = model.image_features(pixels), fast.image_features(pixels)
    scale = float(one.tokens.abs().max())
    torch.testing.assert_close(other.tokens, one.tokens, rtol=0, atol=1e-5 * scale)


def test_epochs_are_judged_by_the_numbers_that_prediction_has() -> None:
    tower, pixels = MobileImageTower(TINY).eval(), torch.randn(2, 3, 24, 32)
    expected = tower(pixels)
    with torch.autocast("cpu", torch.bfloat16):
        for got, want in zip(tower(pixels), expected, strict=True):
            assert torch.equal(got, want)


def test_an_exported_mobile_tower_knows_nothing_of_autocast() -> None:
    graph = torch.export.export(MobileImageTower(TINY).eval(), (torch.randn(2, 3, 24, 32),)).graph
    assert not [node for node in graph.nodes if "autocast" in str(node.target)]
