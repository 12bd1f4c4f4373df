"""CMA-CLIP: what its attention promises."""

from __future__ import annotations

import msgspec
import pytest
import torch
from torch import Tensor

from tagger.config import Architecture, Config, ConvTower, Fusion, Preprocess, TokenTower
from tagger.modalities import IMAGE, TEXT
from tagger.model import CMAClip
from tagger.network import Output, Sequence, attended
from tagger.tasks import Task

CONFIG = Config(
    architecture=Architecture(
        image=ConvTower(widths=(8, 16), depths=(1, 1)),
        text=TokenTower(vocabulary_size=60, context_length=16, width=16, layers=2, heads=2),
    ),
    fusion=Fusion(width=16, layers=2, heads=2, head_width=16),
    preprocess=Preprocess(height=16, width=12),
    tasks=(Task("color", ("Black", "Red", "White")), Task("pattern", ("Solid", "Striped"))),
)
BATCH = 6
EITHER = pytest.mark.parametrize("queries", [False, True], ids=["paper", "task-queries"])


def make_model(**fusion: object) -> CMAClip:
    torch.manual_seed(0)
    changed = msgspec.structs.replace(CONFIG.fusion, **fusion)
    model = CMAClip(msgspec.structs.replace(CONFIG, fusion=changed)).eval()
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return model


def make_inputs(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (BATCH, 3, 16, 12), generator=generator, dtype=torch.uint8)
    ids = torch.randint(3, 60, (BATCH, 7), generator=generator)
    lengths = torch.randint(1, 8, (BATCH,), generator=generator)
    return pixels, torch.ones(BATCH, dtype=torch.bool), ids, torch.arange(7) < lengths[:, None]


def assert_same(one: Output, other: Output) -> None:
    torch.testing.assert_close(one.modality_weights, other.modality_weights)
    for name, logits in one.logits.items():
        torch.testing.assert_close(logits, other.logits[name])


@EITHER
@pytest.mark.parametrize("shared", [True, False])
def test_modality_weights_sum_to_one_per_task(shared: bool, queries: bool) -> None:
    weights = make_model(shared_attention=shared, task_queries=queries)(
        *make_inputs()
    ).modality_weights
    assert weights.shape == (BATCH, 2, 2)
    torch.testing.assert_close(weights.sum(-1), torch.ones(BATCH, 2))
    assert bool((weights > 0).all())


def test_attention_vectors_are_per_task_and_shared_by_the_modalities_unless_asked() -> None:
    assert make_model().modality_attention.w.shape == (2, 1, 16)
    assert make_model(shared_attention=False).modality_attention.w.shape == (2, 2, 16)


@EITHER
@torch.no_grad()
def test_an_absent_picture_weighs_nothing_and_no_pixel_of_it_changes_any_output(
    queries: bool,
) -> None:
    model = make_model(task_queries=queries)
    pixels, present, ids, mask = make_inputs()
    absent = torch.zeros_like(present)
    one = model(pixels, absent, ids, mask)
    other = model(255 - pixels, absent, ids, mask)
    assert_same(one, other)
    assert bool((one.modality_weights[..., IMAGE] == 0).all())
    assert bool((one.modality_weights[..., TEXT] == 1).all())


@EITHER
@torch.no_grad()
def test_an_absent_title_weighs_nothing_and_no_word_of_it_changes_any_output(queries: bool) -> None:
    model = make_model(task_queries=queries)
    pixels, present, ids, mask = make_inputs()
    absent = torch.zeros_like(mask)
    one = model(pixels, present, ids, absent)
    other = model(pixels, present, (ids + 11) % 60, absent)
    assert_same(one, other)
    assert bool((one.modality_weights[..., TEXT] == 0).all())


@EITHER
@torch.no_grad()
def test_a_modality_absent_row_by_row_equals_one_absent_for_the_whole_batch(queries: bool) -> None:
    model = make_model(task_queries=queries)
    pixels, present, ids, mask = make_inputs()
    image, text = model.encode_image(pixels, present), model.encode_text(ids, mask)
    no_image = model.encode_image(pixels, torch.zeros_like(present))
    no_text = model.encode_text(ids, torch.zeros_like(mask))
    assert_same(model.fuse(None, text), model.fuse(no_image, text))
    assert_same(model.fuse(image, None), model.fuse(image, no_text))


@EITHER
@torch.no_grad()
def test_last_block_for_the_global_tokens_alone_gives_what_the_whole_block_gives(
    queries: bool,
) -> None:
    model = make_model(task_queries=queries)
    pixels, present, ids, mask = make_inputs()
    image, text = model.encode_image(pixels, present), model.encode_text(ids, mask)
    for given in ((image, text), (None, text), (image, None)):
        assert_same(model.fuse(*given), model.fuse(*given, whole=True))


@torch.no_grad()
def test_a_product_without_any_modality_weighs_nothing_and_is_finite() -> None:
    pixels, present, ids, mask = make_inputs()
    output = make_model()(pixels, torch.zeros_like(present), ids, torch.zeros_like(mask))
    assert bool((output.modality_weights == 0).all())
    assert all(bool(logits.isfinite().all()) for logits in output.logits.values())


@EITHER
@torch.no_grad()
def test_products_of_a_batch_do_not_see_each_other(queries: bool) -> None:
    model = make_model(task_queries=queries)
    pixels, present, ids, mask = make_inputs()
    present[2] = False
    mask[4] = False
    together = model(pixels, present, ids, mask)
    for row in range(BATCH):
        one = slice(row, row + 1)
        alone = model(pixels[one], present[one], ids[one], mask[one])
        torch.testing.assert_close(alone.modality_weights, together.modality_weights[one])
        for name in alone.logits:
            torch.testing.assert_close(alone.logits[name], together.logits[name][one])


@EITHER
@torch.no_grad()
def test_padding_of_titles_changes_nothing(queries: bool) -> None:
    model = make_model(task_queries=queries)
    pixels, present, ids, mask = make_inputs()
    more_ids = torch.cat([ids, torch.randint(0, 60, (BATCH, 5))], 1)
    more_mask = torch.cat([mask, torch.zeros(BATCH, 5, dtype=torch.bool)], 1)
    assert_same(model(pixels, present, ids, mask), model(pixels, present, more_ids, more_mask))


@EITHER
@torch.no_grad()
def test_both_modalities_change_the_answer(queries: bool) -> None:
    model = make_model(task_queries=queries)
    pixels, present, ids, mask = make_inputs()
    base = model(pixels, present, ids, mask).logits["color"]
    assert not torch.allclose(base, model(255 - pixels, present, ids, mask).logits["color"])
    assert not torch.allclose(base, model(pixels, present, (ids + 5) % 60, mask).logits["color"])


@EITHER
@torch.no_grad()
def test_order_of_the_words_changes_the_answer(queries: bool) -> None:
    model = make_model(task_queries=queries)
    pixels, present, ids, _ = make_inputs()
    whole = torch.ones_like(ids, dtype=torch.bool)
    base = model(pixels, present, ids, whole).logits["color"]
    swapped = ids[:, [1, 0, *range(2, ids.shape[1])]]
    differs = ids[:, 0] != ids[:, 1]
    changed = (base - model(pixels, present, swapped, whole).logits["color"]).abs().amax(1)
    assert bool((changed[differs] > 1e-4).all())


@EITHER
@torch.no_grad()
def test_patches_and_words_see_each_other_before_the_globals_are_weighed(queries: bool) -> None:
    model = make_model(task_queries=queries)
    pixels, present, ids, mask = make_inputs()
    image, text = model.encode_image(pixels, present), model.encode_text(ids, mask)
    changed = model.encode_image(255 - pixels, present)
    # Only a patch token differs, neither global token does: the attention must carry it over.
    tokens = image.tokens.clone()
    tokens[:, 1] = changed.tokens[:, 1]
    mixed = model.fuse(type(image)(tokens, image.mask), text)
    assert not torch.allclose(mixed.logits["color"], model.fuse(image, text).logits["color"])


def test_pixels_of_an_absent_picture_stay_out_of_the_batch_statistics_in_training() -> None:
    pixels, present, ids, mask = make_inputs()
    present[:2] = False
    other = pixels.clone()
    other[:2] = 255 - other[:2]
    outputs = []
    for given in (pixels, other):
        model = make_model(dropout=0.0).train()
        outputs.append(model(given, present, ids, mask).logits["color"])
    torch.testing.assert_close(*outputs)


@torch.no_grad()
def test_whole_tokens_of_pictures_and_single_numbers_of_heads_are_dropped_in_training_alone() -> (
    None
):
    model = make_model(dropout=0.5)
    pixels, present, _, _ = make_inputs()
    features = model.image_features(pixels)
    assert model.modality_embedding is not None
    of_nothing = model.modality_embedding[IMAGE]
    alike = torch.randn(1, 16).expand(100, 16)
    kept = model.project_image(features, present).tokens
    assert not bool((kept == of_nothing).all(-1).any())
    assert len(model.heads[0](alike).unique(dim=0)) == 1
    model.train()
    dropped = (model.project_image(features, present).tokens == of_nothing).float().mean(-1)
    assert set(dropped.flatten().tolist()) == {0.0, 1.0}
    assert len(model.heads[0](alike).unique(dim=0)) == 100


def test_a_modality_that_is_there_weighs_something_even_if_nothing_looks_at_it() -> None:
    mask = torch.ones(2, 3, dtype=torch.bool)
    image, text = Sequence(torch.zeros(2, 3, 4), mask), Sequence(torch.zeros(2, 3, 4), mask.clone())
    text.mask[1] = False
    to_words = torch.tensor([0.5, 0.3, 0.2, 0.0, 0.0, 0.0]).expand(2, 1, 6)
    weights = attended(to_words, image, text)[:, 0]
    assert 0 < float(weights[0, IMAGE]) < 1e-5
    assert weights[1].tolist() == [1.0, 0.0]
    torch.testing.assert_close(weights.sum(1), torch.ones(2))


@EITHER
@torch.no_grad()
def test_training_starts_where_the_towers_global_tokens_are_read(queries: bool) -> None:
    torch.manual_seed(0)
    fusion = msgspec.structs.replace(CONFIG.fusion, task_queries=queries)
    model = CMAClip(msgspec.structs.replace(CONFIG, fusion=fusion)).eval()
    pixels, present, ids, mask = make_inputs()
    image, text = model.encode_image(pixels, present), model.encode_text(ids, mask)
    globals_ = torch.stack([image.tokens[:, 0], text.tokens[:, 0]], 1)
    both = torch.ones(BATCH, 2, dtype=torch.bool)
    expected = model.modality_attention(model.norm(globals_)[:, None], both)
    assert_same(model.fuse(image, text), model.decide(*expected))


@torch.no_grad()
def test_a_task_reads_with_its_own_query_alone() -> None:
    model = make_model(task_queries=True)
    before = model(*make_inputs())
    assert model.reading is not None
    model.reading.query_embedding[1] += torch.linspace(-2, 2, 16)
    after = model(*make_inputs())
    torch.testing.assert_close(before.logits["color"], after.logits["color"])
    assert not torch.allclose(before.logits["pattern"], after.logits["pattern"])
    # The query of a task changes what it sees, so also what the modalities weigh for it.
    assert not torch.allclose(before.modality_weights[:, 1], after.modality_weights[:, 1])
