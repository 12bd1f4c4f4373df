"""What the towers have seen they are not shown again, and no answer hangs on that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from msgspec.structs import replace
from torch import nn

import tagger
from tagger import bundle, inference
from tagger.answers import collect_answers
from tagger.bundle import Bundle
from tagger.catalog import Catalog
from tagger.columns import Labelling
from tagger.config import MobileStage, MobileTower
from tagger.device import has_bf16
from tagger.encoder import Encoder
from tagger.errors import UsageError
from tagger.inference import speed_up
from tagger.predict import HELD_BATCHES, READ_AHEAD, label_batches
from tagger.products import ProductSource
from tagger.runtime import TITLE_STEP, BatchAnswers, Inputs, round_up

from .conftest import (
    TASKS,
    MakeCatalog,
    Row,
    mixed_rows,
    random_titles,
    save_picture,
    save_tiny,
    tiny_config,
)


def labelled(encoder: Encoder, path: Path) -> pa.Table:
    how = Labelling(TASKS, path.parent)
    batches = Catalog(path).batches(64)
    added = label_batches(encoder, batches, how)
    return pa.Table.from_batches([new for _, new in added])


@pytest.fixture
def repeating(make_catalog: MakeCatalog, tmp_path: Path) -> Path:
    """240 rows of 60 pictures under two names each, and of 10 titles."""
    titles = random_titles(10, seed=4)
    for number in range(60):
        save_picture(tmp_path / f"{number}.jpg", number)
        (tmp_path / f"copy-{number}.jpg").write_bytes((tmp_path / f"{number}.jpg").read_bytes())
    rows: list[Row] = [
        {
            "image": f"{'copy-' if n % 2 else ''}{(n * 7) % 60}.jpg",
            "title": titles[(n * 3) % 10],
        }
        for n in range(240)
    ]
    return make_catalog(rows)


def test_equal_pictures_and_titles_pass_the_towers_once(tiny: Bundle, repeating: Path) -> None:
    encoder = Encoder(tiny)
    labelled(encoder, repeating)
    assert encoder.num_images == 60
    assert encoder.num_titles == len(set(random_titles(10, seed=4)))
    labelled(encoder, repeating)
    assert encoder.num_images == 60


def test_remembering_changes_no_answer(tiny: Bundle, repeating: Path) -> None:
    forgetful = Encoder(tiny, max_bytes=0)
    without = labelled(forgetful, repeating)
    assert forgetful.num_images > 60
    with_memory = labelled(Encoder(tiny), repeating)
    for name in without.column_names:
        one, other = without[name].to_pylist(), with_memory[name].to_pylist()
        assert one == (pytest.approx(other, abs=1e-5) if isinstance(one[0], float) else other)


def test_rare_title_length_does_not_hold_the_rows_behind_it(
    tiny: Bundle, make_catalog: MakeCatalog
) -> None:
    rows: list[Row] = [{"title": "red " * 14}] + [{"title": "red shirt"}] * (64 * 60)
    read = 0

    def counted() -> Iterator[pa.RecordBatch]:
        nonlocal read
        for batch in Catalog(make_catalog(rows)).batches(64):
            read += 1
            yield batch

    answers = label_batches(Encoder(tiny), counted(), Labelling(TASKS, Path()))
    next(answers)
    assert read <= HELD_BATCHES + READ_AHEAD + 1
    assert 1 + sum(1 for _ in answers) == read == 61


def test_what_waits_for_its_like_does_not_break_up_the_batches_of_others(
    model_dir: Path, make_catalog: MakeCatalog
) -> None:
    rare = "red " * 14
    rows: list[Row] = [{"title": rare if n % 700 == 0 else f"red {n}"} for n in range(1000, 9000)]
    sizes: list[int] = []

    class Watched(Encoder):
        def answer(self, products: Sequence[Inputs]) -> BatchAnswers:
            sizes.append(len(products))
            return super().answer(products)

    answers = label_batches(
        Watched(bundle.load(model_dir)),
        Catalog(make_catalog(rows)).batches(64),
        Labelling(TASKS, Path()),
    )
    assert sum(new.num_rows for _, new in answers) == len(rows)
    small = [size for size in sizes if size < 64]
    assert len(small) < 8  # those of the rare title, and the last
    assert sum(small) < 12 + 64


@pytest.mark.parametrize("title", ["", "red", *random_titles(20), "red " * 40])
def test_titles_are_filled_up_to_few_lengths(tiny: Bundle, title: str) -> None:
    encoder = Encoder(tiny)
    ids = encoder.read(title)
    length = encoder.padded_length(ids)
    assert len(ids) <= length <= tiny.tokenizer.context_length
    assert length % TITLE_STEP == 0
    assert length < len(ids) + TITLE_STEP or not ids


class SmallDevice:
    """Lets the image tower see `most` pictures at a time; more is out of memory."""

    def __init__(self, most: int) -> None:
        self.most, self.sizes = most, []

    def __call__(self, tower: nn.Module, arguments: tuple[torch.Tensor]) -> None:
        self.sizes.append(len(arguments[0]))
        if len(arguments[0]) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")


def test_batch_is_halved_until_it_fits_and_that_is_remembered(
    model_dir: Path, repeating: Path
) -> None:
    want = labelled(Encoder(bundle.load(model_dir)), repeating)
    small, device = bundle.load(model_dir), SmallDevice(8)
    small.model.image_tower.register_forward_pre_hook(device)
    got = labelled(Encoder(small, max_bytes=0), repeating)
    assert got.equals(want)
    first = device.sizes.index(8)
    assert max(device.sizes[:first]) > 8
    assert max(device.sizes[first:]) == 8


def test_mobile_tower_sees_few_pictures_at_a_time_and_answers_the_same(
    repeating: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mobile = MobileTower(stem=8, stages=(MobileStage(width=12, depth=2, stride=2, expansion=3),))
    architecture = replace(tiny_config().architecture, image=None, mobile=mobile)
    path = save_tiny(tmp_path / "mobile", replace(tiny_config(), architecture=architecture))
    tables, sizes = [], []
    map_of_one = 4 * 24 * 16 * 12  # bytes; 32 x 24 pixels
    for at_once in (1000, 8):
        monkeypatch.setattr(inference, "LARGEST_BLOCK", at_once * map_of_one)
        model, device = bundle.load(path), SmallDevice(1000)
        model.model.image_tower.register_forward_pre_hook(device)
        tables.append(labelled(Encoder(model, max_bytes=0), repeating))
        sizes.append(max(device.sizes))
    assert sizes[0] > sizes[1] == 8
    assert tables[0].equals(tables[1])


def test_batches_are_filled_from_several_reads(model_dir: Path, make_catalog: MakeCatalog) -> None:
    path, sizes = make_catalog([{"title": f"red {number}"} for number in range(100, 400)]), []

    class Watched(Encoder):
        def answer(self, products: Sequence[Inputs]) -> BatchAnswers:
            sizes.append(len(products))
            return super().answer(products)

    how = Labelling(TASKS, path.parent, batch_size=128)
    list(label_batches(Watched(bundle.load(model_dir)), Catalog(path).batches(64), how))
    assert sizes == [128, 128, 44]


def test_batches_of_pictures_are_filled_up_with_those_of_products_that_wait(
    model_dir: Path, make_catalog: MakeCatalog, tmp_path: Path
) -> None:
    pictures = 61
    for number in range(pictures):
        save_picture(tmp_path / f"{number}.jpg", number)
    rows: list[Row] = [
        {"image": f"{n % pictures}.jpg", "title": "red " * (n % pictures % 11)} for n in range(300)
    ]
    path, device = make_catalog(rows), SmallDevice(1000)
    want = labelled(Encoder(bundle.load(model_dir), max_bytes=0), path)
    model = bundle.load(model_dir)
    model.model.image_tower.register_forward_pre_hook(device)
    encoder = Encoder(model)
    assert labelled(encoder, path).equals(want)
    assert encoder.num_images == pictures
    assert sum(device.sizes) == round_up(pictures)
    assert not encoder._expected


def test_picture_that_is_expected_again_is_not_encoded_again(model_dir: Path) -> None:
    encoder = Encoder(bundle.load(model_dir))
    pictures = [np.full((32, 24, 3), grey, np.uint8) for grey in (0, 99, 200)]
    first, second, third = (
        Inputs(key, pixels) for key, pixels in zip((b"a", b"b", b"c"), pictures, strict=True)
    )
    for expected, asked in (([second], first), ([second], third), ([], second)):
        encoder.expect(expected)
        encoder.answer([asked])
    assert encoder.num_images == 3


def test_equal_products_of_a_batch_are_answered_once_and_each_gets_its_answer(
    model_dir: Path,
) -> None:
    model, device = bundle.load(model_dir), SmallDevice(1000)
    model.model.norm.register_forward_pre_hook(device)
    encoder = Encoder(model)
    pictures = [np.full((32, 24, 3), grey, np.uint8) for grey in (0, 99, 200)]
    keys, ids = [b"a", b"b", b"c"], [encoder.read("red shirt"), encoder.read("blue bag")]
    some = [
        Inputs(keys[n % 3] if n % 4 else None, pictures[n % 3] if n % 4 else None, ids=ids[n % 2])
        for n in range(40)
    ]
    together = encoder.answer(some)
    assert device.sizes == [8]  # the 7 that differ, filled up
    for row, product in enumerate(some[:12]):
        alone = encoder.answer([product])
        np.testing.assert_array_equal(
            together.modality_weights[row], alone.modality_weights[0], strict=True
        )
        for name, logits in alone.logits.items():
            np.testing.assert_array_equal(together.logits[name][row], logits[0])


def test_device_too_small_for_one_product_is_said_so(model_dir: Path, repeating: Path) -> None:
    small = bundle.load(model_dir)
    small.model.image_tower.register_forward_pre_hook(SmallDevice(0))
    with pytest.raises(UsageError, match="one product needs more memory"):
        labelled(Encoder(small), repeating)


def test_fast_network_answers_as_the_trained_one(model_dir: Path, repeating: Path) -> None:
    slow, fast = bundle.load(model_dir), bundle.load(model_dir)
    speed_up(fast.model, fp32=True)
    assert any(isinstance(m, nn.BatchNorm2d) for m in slow.model.modules())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fast.model.modules())
    one, other = labelled(Encoder(slow), repeating), labelled(Encoder(fast), repeating)
    assert one["color_label"].equals(other["color_label"])
    confidences = (table["color_confidence"].to_pylist() for table in (one, other))
    assert next(confidences) == pytest.approx(next(confidences), abs=1e-4)


@pytest.mark.skipif(not has_bf16(torch.device("cpu")), reason="this CPU has no bf16")
def test_bf16_is_for_the_heavy_parts_and_can_be_refused(model_dir: Path, repeating: Path) -> None:
    exact, fast = tagger.load(model_dir, fp32=True).bundle, tagger.load(model_dir).bundle
    types = [{p.dtype for p in one.model.image_tower.parameters()} for one in (exact, fast)]
    # The first and the last layer round off what decides near-ties.
    assert types == [{torch.float32}, {torch.float32, torch.bfloat16}]
    blocks = fast.model.image_tower.layers
    assert {next(blocks[k].parameters()).dtype for k in (1, -2)} == {torch.float32}  # type: ignore[index, union-attr, operator]
    assert all(p.dtype == torch.float32 for p in fast.model.heads.parameters())
    one, other = labelled(Encoder(exact), repeating), labelled(Encoder(fast), repeating)
    same = [a == b for a, b in zip(one["color_label"], other["color_label"], strict=True)]
    assert sum(same) > 0.95 * len(same)


def test_rows_of_every_kind_come_out_as_without_a_memory(
    tiny: Bundle, make_catalog: MakeCatalog, tmp_path: Path
) -> None:
    path = make_catalog(mixed_rows(tmp_path, 100))
    one = labelled(Encoder(tiny), path)
    other = labelled(Encoder(tiny, max_bytes=0), path)
    for name in ("image_status", "title_status", "color_label", "color_status", "input_hash"):
        assert one[name].equals(other[name])


def test_views_are_answered_in_batches_that_fit(
    model_dir: Path, tmp_path: Path, make_catalog: MakeCatalog
) -> None:
    catalog = make_catalog(mixed_rows(tmp_path, 40))
    names = [task.name for task in TASKS]
    products = ProductSource(catalog).read()
    want = collect_answers(bundle.load(model_dir), products, tmp_path, names)
    small, device = bundle.load(model_dir), SmallDevice(12)
    small.model.image_tower.register_forward_pre_hook(device)
    got = collect_answers(small, products, tmp_path, names)
    assert max(device.sizes) > 12
    for name in names:
        close = {"atol": 1e-5, "rtol": 1e-5}
        np.testing.assert_allclose(got.logits[name], want.logits[name], **close)
    none = bundle.load(model_dir)
    none.model.image_tower.register_forward_pre_hook(SmallDevice(0))
    with pytest.raises(UsageError, match="one product needs more memory"):
        collect_answers(none, products, tmp_path, names)
