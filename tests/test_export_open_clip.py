"""Models on open_clip's towers leave home: as a graph, and as a checkpoint that open_clip loads."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from tagger import bundle, graph
from tagger.agreement import one_by_one, source_answer
from tagger.bundle import Bundle
from tagger.config import Architecture, Config, Preprocess
from tagger.errors import NotExportableError, UsageError
from tagger.export import Comparison, ExportOptions, export
from tagger.golden import Arrays
from tagger.model import CMAClip
from tagger.open_clip_checkpoint import compare_embeddings
from tagger.products import ProductSource
from tagger.systems.zero_shot import ClipZeroShot
from tagger.tokenizer import ClipPieces

from .conftest import randomise, register_architectures, tiny_config
from .test_export import consume, ignore, largest_difference
from .test_towers import ARCHITECTURES as TINY

ARCHITECTURES: dict[str, dict[str, Any]] = {
    name.replace("tiny", "leaving"): {
        **config,
        "text_cfg": {**config["text_cfg"], "vocab_size": 49408},
        **(
            {"multimodal_cfg": {**config["multimodal_cfg"], "vocab_size": 49408}}
            if "multimodal_cfg" in config
            else {}
        ),
    }
    for name, config in TINY.items()
    if name in ("tiny-clip", "tiny-resnet", "tiny-convnext", "tiny-coca")
}
"""The tiny towers, reading CLIP's own tokens."""


@pytest.fixture(scope="module", autouse=True)
def architectures(tmp_path_factory: pytest.TempPathFactory) -> None:
    register_architectures(tmp_path_factory.mktemp("architectures"), ARCHITECTURES)


def saved(folder: Path, name: str) -> Bundle:
    """A model on the towers `name`, with random weights."""
    size = ARCHITECTURES[name]["vision_cfg"]["image_size"]
    config = Config(
        architecture=Architecture(open_clip=name),
        fusion=tiny_config().fusion,
        preprocess=Preprocess(height=size, width=size),
        tasks=tiny_config().tasks,
    )
    torch.manual_seed(0)
    model = CMAClip(config)
    randomise(model, seed=1)
    tokenizer = bundle.open_clip_tokenizer(name)
    bundle.save(folder / name, config, model.eval(), tokenizer, "# x\n")
    return bundle.load(folder / name)


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return saved(tmp_path_factory.mktemp("models"), "leaving-clip")


def inputs_of(source: Bundle, batch: int, length: int) -> Arrays:
    """Noise, and ids as CLIP's tokenizer makes them; the last product has nothing."""
    rng = np.random.default_rng(batch)
    size = source.config.preprocess.height
    ids, mask = np.zeros((batch, length), dtype=np.int64), np.zeros((batch, length), dtype=bool)
    for row in range(batch - 1):
        words = rng.integers(1, 49405, 1 + row % (length - 2))
        ids[row, : len(words) + 2] = [49406, *words, 49407]
        mask[row, : len(words) + 2] = True
    return {
        "pixels": rng.integers(0, 256, (batch, size, size, 3), dtype=np.uint8),
        "image_present": np.arange(batch) % 3 != 2,
        "token_ids": ids,
        "token_mask": mask,
    }


@pytest.mark.parametrize(
    "name",
    [
        "leaving-coca",
        pytest.param("leaving-clip", marks=pytest.mark.slow),
        pytest.param("leaving-resnet", marks=pytest.mark.slow),
        pytest.param("leaving-convnext", marks=pytest.mark.slow),
    ],
)
def test_every_kind_of_tower_is_traced_for_all_sizes(name: str, tmp_path: Path) -> None:
    source = saved(tmp_path, name)
    program = graph.trace(source, "fp32").module()
    lengths = [12] if source.fixed_length else [3, 12]
    for batch, length in [(1, lengths[0]), (5, lengths[-1])]:
        inputs = inputs_of(source, batch, length)
        with torch.inference_mode():
            given = program(*map(torch.from_numpy, inputs.values()))
        arrays = {key: tensor.numpy() for key, tensor in given.items()}
        assert largest_difference(arrays, source_answer(source)(inputs)) < 1e-5


def test_an_onnx_export_with_clips_vocabulary_needs_no_open_clip(
    vit: Bundle, tmp_path: Path
) -> None:
    export(ExportOptions(str(vit.path), "onnx", tmp_path / "out"), ignore)
    done = consume(tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("largest difference 0\n") == 4


def test_open_clip_itself_loads_trained_towers_and_agrees(vit: Bundle, tmp_path: Path) -> None:
    shown: list[Comparison] = []
    export(ExportOptions(str(vit.path), "open_clip", tmp_path / "out"), shown.append)
    assert [a.compared_on for a in shown[0].agreements] == [
        "encode_image of open_clip",
        "encode_text of open_clip",
    ]
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'out'}")
    model.eval()
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    title = "a red shirt"
    ids = torch.tensor(ClipPieces(12).encode([title]))
    with torch.inference_mode():
        image = model.encode_image(preprocess(Image.fromarray(noise))[None])
        ours = vit.model.image_features(torch.from_numpy(noise).permute(2, 0, 1)[None])
        torch.testing.assert_close(image, ours.pooled, rtol=1e-4, atol=1e-5)
        text = model.encode_text(open_clip.tokenizer.SimpleTokenizer(context_length=12)([title]))
        torch.testing.assert_close(text, vit.model.text_features(ids, ids > 0).pooled)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "README.md",
        "open_clip_config.json",
        "open_clip_model.safetensors",
    }


def test_scale_that_contrastive_training_learned_goes_along(vit: Bundle, tmp_path: Path) -> None:
    config = msgspec.structs.replace(
        vit.config, fusion=msgspec.structs.replace(vit.config.fusion, system="clip-zero-shot")
    )
    model = ClipZeroShot(config)
    randomise(model, seed=1)
    for learned, expected in ((3.0, 3.0), (9.0, math.log(100))):
        model.logit_scale.data.fill_(learned)
        folder = tmp_path / str(learned)
        bundle.save(folder / "clip", config, model.eval(), vit.tokenizer, "# x\n")
        export(ExportOptions(str(folder / "clip"), "open_clip", folder / "out"), ignore)
        state = load_file(folder / "out" / "open_clip_model.safetensors")
        assert state["logit_scale"] == pytest.approx(expected)
        assert "logit_scale" in (folder / "out" / "README.md").read_text()
        assert "not to match" not in (folder / "out" / "README.md").read_text()


def test_a_checkpoint_of_other_weights_is_seen(vit: Bundle, tmp_path: Path) -> None:
    export(ExportOptions(str(vit.path), "open_clip", tmp_path / "out"), ignore)
    weights = tmp_path / "out" / "open_clip_model.safetensors"
    state = {key: torch.from_numpy(array) for key, array in load_file(weights).items()}
    state["visual.proj"] = state["visual.proj"].flip(1)
    from safetensors.torch import save_file

    save_file(state, weights)
    image, text = compare_embeddings(vit, tmp_path / "out", inputs_of(vit, 4, 6))
    assert image.confidence_difference > 1e-2
    assert text.confidence_difference < 1e-5


def test_towers_that_open_clip_does_not_have_are_refused(model_dir: Path, tmp_path: Path) -> None:
    coca = saved(tmp_path / "models", "leaving-coca").path
    for model, reason in ((model_dir, "towers of its own"), (coca, "beyond its two towers")):
        with pytest.raises(NotExportableError, match=reason):
            export(ExportOptions(str(model), "open_clip", tmp_path / "out"), ignore)
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


def test_a_checkpoint_has_neither_precision_nor_labels(vit: Bundle, tmp_path: Path) -> None:
    for more in ({"precision": "fp16"}, {"check": ProductSource(tmp_path)}):
        with pytest.raises(UsageError, match="as they are"):
            export(ExportOptions(str(vit.path), "open_clip", tmp_path / "out", **more), ignore)


def test_alone_a_title_is_filled_up_only_as_far_as_it_must(vit: Bundle) -> None:
    inputs = inputs_of(vit, 4, 8)
    lengths = [len(one["token_ids"][0]) for one in one_by_one(inputs, None)]
    assert lengths == [3, 4, 5, 1]
    assert [len(one["token_ids"][0]) for one in one_by_one(inputs, 8)] == [8] * 4
