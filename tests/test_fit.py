"""Losses, class weights, augmentation, optimisers, schedule."""

from __future__ import annotations

import pytest
import torch
from msgspec.structs import replace

from tagger.augment import Mixed, augment_pixels, augment_titles, mix
from tagger.config import Training
from tagger.fit import Lesson, _lessons, mismatched, multitask_loss
from tagger.modalities import IMAGE, TEXT
from tagger.network import Output, Sequence
from tagger.optimizer import Muon, build_optimizers, orthogonalise, schedule
from tagger.scrub import giveaways, words_of
from tagger.tasks import UNLABELED
from tagger.titles import title_status
from tests.test_model import make_inputs, make_model

RECIPE = Training(label_smoothing=0.0)
STILL = Training(flip=False, shift=0.0, scale=0.0, brightness=0.0, erase=0.0)
SPANS = {"color": torch.tensor([[0, 1], [1, 2], [2, 3]])}


def output(logits: torch.Tensor, answerable: bool = True) -> Output:
    weight = 0.5 if answerable else 0.0
    return Output({"color": logits}, torch.full((len(logits), 1, 2), weight))


def loss(logits: torch.Tensor, target: list[int], answerable: bool = True) -> torch.Tensor:
    targets = {"color": torch.tensor(target)}
    weights = {"color": torch.ones(logits.shape[1])}
    return multitask_loss([Lesson(output(logits, answerable))], targets, SPANS, weights, RECIPE)


def test_products_without_a_label_change_neither_loss_nor_gradient() -> None:
    logits = torch.randn(4, 3, requires_grad=True)
    whole = loss(logits, [0, UNLABELED, 2, UNLABELED])
    torch.testing.assert_close(whole, loss(logits[[0, 2]], [0, 2]))
    whole.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert bool((logits.grad[[1, 3]] == 0).all())
    assert bool((logits.grad[[0, 2]] != 0).any())


def test_a_batch_without_any_label_or_answerable_product_costs_nothing() -> None:
    assert float(loss(torch.randn(2, 3), [UNLABELED, UNLABELED])) == 0
    assert float(loss(torch.randn(2, 3), [0, 1], answerable=False)) == 0


def test_losses_add_over_tasks_and_views_with_their_weights() -> None:
    logits, target = torch.randn(5, 3), {"color": torch.tensor([0, 1, 2, 0, 1])}
    weights = {"color": torch.ones(3)}
    one = multitask_loss([Lesson(output(logits))], target, SPANS, weights, RECIPE)
    both = multitask_loss(
        [Lesson(output(logits)), Lesson(output(logits), 0.5)], target, SPANS, weights, RECIPE
    )
    torch.testing.assert_close(both, 1.5 * one)


@pytest.mark.parametrize("smoothing", [0.0, 0.2, 1.0])
def test_loss_is_smoothed_as_torch_does_it_and_as_much_as_the_recipe_says(smoothing: float) -> None:
    logits, target = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    recipe = Training(label_smoothing=smoothing)
    weights = {"color": torch.ones(3)}
    found = multitask_loss([Lesson(output(logits))], {"color": target}, SPANS, weights, recipe)
    expected = torch.nn.functional.cross_entropy(logits, target, label_smoothing=smoothing)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("picture_alone", [0.0, 0.75])
@pytest.mark.parametrize("title_alone", [0.0, 0.25])
def test_lessons_of_one_modality_weigh_what_the_recipe_says(
    picture_alone: float, title_alone: float
) -> None:
    model = make_model()
    pixels, present, ids, mask = make_inputs()
    image, text = model.encode_image(pixels, present), model.encode_text(ids, mask)
    recipe = Training(image_only_weight=picture_alone, title_only_weight=title_alone)
    both, *alone = _lessons(model, recipe, image, text, None, torch.Generator())
    assert both.weight == 1
    assert bool((both.output.modality_weights > 0).all())
    assert [lesson.weight for lesson in alone] == [w for w in (picture_alone, title_alone) if w]
    for lesson in alone:
        absent = TEXT if lesson.weight == picture_alone else IMAGE
        assert bool((lesson.output.modality_weights[..., absent] == 0).all())


def test_lessons_of_mixed_pictures_add_up_to_those_of_both_products() -> None:
    logits, target = torch.randn(3, 3), {"color": torch.tensor([0, 1, UNLABELED])}
    weights, other = {"color": torch.ones(3)}, torch.tensor([1, 2, 0])
    share = torch.tensor([0.25, 0.5, 0.25])
    lessons = [
        Lesson(output(logits), 1 - share),
        Lesson(output(logits), share, other),
    ]
    found = multitask_loss(lessons, target, SPANS, weights, RECIPE)
    costs = -logits.log_softmax(1)
    # Of three products two have a label; the third shows a quarter of the first.
    own = (0.75 * costs[0, 0] + 0.5 * costs[1, 1]) / 2
    pasted = (0.25 * costs[0, 1] + 0.25 * costs[2, 0]) / 2
    torch.testing.assert_close(found, own + pasted)


def test_each_product_weighs_the_same_in_mixed_pictures_and_one_without_title_is_no_exception() -> (
    None
):
    model = make_model()
    pixels, present, ids, mask = make_inputs()
    mask[0] = False
    image, text = model.encode_image(pixels, present), model.encode_text(ids, mask)
    n = len(ids)
    mixed = Mixed(pixels.float(), torch.arange(n).roll(1), torch.full((n,), 0.25))
    recipe = Training(image_only_weight=0.5, title_only_weight=0.0)
    own, pasted, alone, alone_pasted = _lessons(
        model, recipe, image, text, mixed, torch.Generator()
    )
    untitled = torch.arange(n) == 0
    torch.testing.assert_close(own.weight, torch.where(untitled, 0.75, 1.0))
    torch.testing.assert_close(pasted.weight, torch.where(untitled, 0.25, 0.0))
    torch.testing.assert_close(alone.weight, torch.full((n,), 0.375))
    torch.testing.assert_close(alone_pasted.weight, torch.full((n,), 0.125))
    assert own.labels_of is alone.labels_of is None
    assert pasted.labels_of is alone_pasted.labels_of is mixed.other
    assert len(_lessons(model, recipe, image, text, None, torch.Generator())) == 2
    assert len(_lessons(model, recipe, None, text, None, torch.Generator())) == 1


@pytest.mark.parametrize("seed", range(3))
def test_mixed_pictures_show_two_products_by_the_shares_that_are_said(seed: int) -> None:
    n = 40
    pixels = torch.arange(n, dtype=torch.float32)[:, None, None, None].expand(n, 3, 20, 16)
    present = torch.arange(n) % 4 != 0
    mixed = mix(pixels, present, 0.5, torch.Generator().manual_seed(seed))
    for row in range(n):
        pasted = mixed.pixels[row] == mixed.other[row]
        assert bool((pasted | (mixed.pixels[row] == row)).all())
        torch.testing.assert_close(pasted.float().mean(), mixed.share[row])
    assert bool((mixed.other != torch.arange(n)).all())
    assert 0 < float((mixed.share > 0).float().mean()) < 0.8
    assert float(mixed.share.max()) <= 0.55  # half, and what whole pixels add
    # A picture that is not there shows nothing, and is shown nowhere.
    assert bool((mixed.share[~present] == 0).all())
    assert bool((mixed.share[~present[mixed.other]] == 0).all())


def test_augmented_pictures_keep_shape_range_and_mean_color() -> None:
    pixels = torch.zeros(64, 3, 20, 16, dtype=torch.uint8)
    pixels[:, 0] = 200
    generator = torch.Generator().manual_seed(0)
    changed = augment_pixels(pixels, Training(erase=0.0), generator)
    assert changed.shape == pixels.shape
    assert float(changed.min()) >= 0
    assert float(changed.max()) <= 255
    assert bool((changed[:, 1:] == 0).all())  # never the hue
    assert float(changed[:, 0].std()) > 1  # but the brightness


@pytest.mark.parametrize("flip", [True, False])
def test_half_of_the_pictures_are_mirrored_where_the_recipe_says_so(flip: bool) -> None:
    pixels = torch.zeros(200, 3, 8, 8, dtype=torch.uint8)
    pixels[..., :4] = 200
    changed = augment_pixels(pixels, replace(STILL, flip=flip), torch.Generator().manual_seed(0))
    mirrored = (changed == pixels.flip(3)).flatten(1).all(1)
    assert bool((mirrored | (changed == pixels).flatten(1).all(1)).all())
    assert float(mirrored.float().mean()) == pytest.approx(0.5 if flip else 0.0, abs=0.15)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_share_of_the_pictures_has_a_small_grey_box(share: float) -> None:
    pixels = torch.zeros(400, 3, 20, 20, dtype=torch.uint8)
    recipe = replace(STILL, erase=share)
    grey = augment_pixels(pixels, recipe, torch.Generator().manual_seed(0)) == 127
    assert float(grey.flatten(1).any(1).float().mean()) == pytest.approx(share, abs=0.1)
    assert float(grey.float().mean((1, 2, 3)).max()) <= 0.25


@pytest.mark.parametrize("shift", [0.0, 0.1])
def test_pictures_are_moved_as_far_as_the_recipe_says(shift: float) -> None:
    pixels = torch.zeros(200, 3, 40, 40, dtype=torch.uint8)
    pixels[:, :, 19:21, 19:21] = 255
    recipe = replace(STILL, shift=shift)
    changed = augment_pixels(pixels, recipe, torch.Generator().manual_seed(0))[:, 0]
    for side in (1, 2):
        place = (changed.sum(side) * torch.arange(40)).sum(1) / changed.sum((1, 2))
        assert float((place - 19.5).abs().max()) == pytest.approx(shift * 40, abs=0.3)


@pytest.mark.parametrize("scale", [0.0, 0.2])
def test_pictures_are_enlarged_and_shrunk_as_much_as_the_recipe_says(scale: float) -> None:
    pixels = torch.zeros(200, 3, 40, 40, dtype=torch.uint8)
    pixels[:, :, 10:30, 10:30] = 255
    recipe = replace(STILL, scale=scale)
    changed = augment_pixels(pixels, recipe, torch.Generator().manual_seed(0))[:, 0]
    width = changed[:, 19].sum(1) / 255
    assert float(width.max()) == pytest.approx(20 / (1 - scale), abs=0.5)
    assert float(width.min()) == pytest.approx(20 / (1 + scale), abs=0.5)


def test_augmentation_follows_from_its_generator() -> None:
    pixels = torch.randint(0, 255, (8, 3, 20, 16), dtype=torch.uint8)
    recipe = Training(erase=0.5)
    one = augment_pixels(pixels, recipe, torch.Generator().manual_seed(3))
    other = augment_pixels(pixels, recipe, torch.Generator().manual_seed(3))
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_autocast_does_not_round_where_pixels_are_moved_to() -> None:
    pixels = torch.randint(0, 255, (8, 3, 160, 120), dtype=torch.uint8)
    exact = augment_pixels(pixels, Training(), torch.Generator().manual_seed(3))
    with torch.autocast("cpu", torch.bfloat16):
        under = augment_pixels(pixels, Training(), torch.Generator().manual_seed(3))
    torch.testing.assert_close(under, exact, rtol=0, atol=0)


def test_augmented_titles_lose_words_in_order_but_never_all_and_absent_stays_absent() -> None:
    titles: list[str | None] = ["Acme Men Blue Striped Polo Shirt", None, "Blue"] * 50
    words = [giveaways(["Blue", "Red"]), giveaways(["Striped"])]
    recipe = Training(word_dropout=0.4, scrub=0.5)
    changed = augment_titles(titles, words, recipe, torch.Generator().manual_seed(0))
    assert any(a != b for a, b in zip(changed, titles, strict=True))
    for new, old in zip(changed, titles, strict=True):
        assert (new is None) == (old is None)
        if new is not None and old is not None:
            left = iter(words_of(old))
            assert words_of(new)
            assert all(word in left for word in words_of(new))


def test_scrubbing_alone_takes_out_exactly_the_words_of_labels() -> None:
    recipe = Training(word_dropout=0.0, scrub=1.0)
    words = [giveaways(["Blue"]), giveaways(["Striped"])]
    titles: list[str | None] = ["Acme Blue Striped Shirt"] * 60
    seen = set(augment_titles(titles, words, recipe, torch.Generator().manual_seed(0)))
    assert seen == {
        "Acme Blue Striped Shirt",
        "Acme Striped Shirt",
        "Acme Blue Shirt",
        "Acme Shirt",
    }


def test_invented_words_are_halves_of_two_known_ones_and_as_many_as_the_recipe_says() -> None:
    titles: list[str | None] = ["Acme Polo", None, "Zenith Boots"] * 200
    recipe = Training(word_dropout=0.0, scrub=0.0, invented_words=0.3)
    changed = augment_titles(titles, [], recipe, torch.Generator().manual_seed(0))
    known = ["Acme", "Polo", "Zenith", "Boots"]
    invented = {a[: -(-len(a) // 2)] + b[len(b) // 2 :] for a in known for b in known}
    pairs = [
        pair
        for new, old in zip(changed, titles, strict=True)
        if new is not None and old is not None
        for pair in zip(new.split(), old.split(), strict=True)
    ]
    assert [new is None for new in changed] == [old is None for old in titles]
    assert all(new == old or new in invented for new, old in pairs)
    # A quarter of them is the word itself by chance, where both halves come from it.
    assert 0.15 < sum(new != old for new, old in pairs) / len(pairs) < 0.35


def test_words_of_labels_are_never_replaced_by_invented_ones() -> None:
    titles: list[str | None] = ["Acme NAVY-Striped Men's Polo"] * 200
    recipe = Training(word_dropout=0.0, scrub=0.0, invented_words=0.9)
    words = [giveaways(["Navy Blue", "Stripes"]), giveaways(["Men"])]
    changed = augment_titles(titles, words, recipe, torch.Generator().manual_seed(0))
    first, second, third, last = zip(*(title.split() for title in changed if title), strict=True)
    assert set(second) == {"NAVY-Striped"}
    assert set(third) == {"Men's"}
    assert len(set(first)) > 1
    assert len(set(last)) > 1


def test_words_of_labels_are_not_invented_either() -> None:
    # Halves of "Blot" and "Crue" make a label, those of "Tempo" and "Blue" would, too.
    titles: list[str | None] = ["Blot Crue Tempo Blue"] * 200
    recipe = Training(word_dropout=0.0, scrub=0.0, invented_words=0.9)
    changed = augment_titles(
        titles, [giveaways(["Blue", "Red"])], recipe, torch.Generator().manual_seed(0)
    )
    words = [words_of(title) for title in changed if title]
    assert {tuple(w)[:3] for w in words} != {("blot", "crue", "tempo")}
    assert all(w.count("blue") == 1 and w[3] == "blue" for w in words)


def test_titles_that_cannot_be_read_do_not_spoil_others() -> None:
    titles: list[str | None] = ["Acme Polo", "caf\udce9 \udce9t\udce9"] * 100
    recipe = Training(word_dropout=0.0, scrub=0.0, invented_words=0.9)
    changed = augment_titles(titles, [], recipe, torch.Generator().manual_seed(0))
    assert all(title_status(title) == "ok" for title in changed[::2])
    assert len(set(changed[::2])) > 1


def test_frozen_towers_see_titles_as_they_are_and_blank_ones_stay_blank() -> None:
    titles: list[str | None] = ["Acme Men Polo Shirt", None] * 20
    recipe = Training(word_dropout=0.5, invented_words=0.5, scrub=0.0, freeze_towers=True)
    assert augment_titles(titles, [], recipe, torch.Generator()) == titles
    learned = Training(word_dropout=0.5, invented_words=0.5, scrub=0.0)
    assert augment_titles([" ", None], [], learned, torch.Generator()) == [" ", None]


@pytest.mark.parametrize("shape", [(12, 30), (30, 12), (16, 16)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
    assert float(values.min()) > 0.5
    assert float(values.max()) < 1.4


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_every_parameter_is_optimised_once_and_towers_have_their_own_rate(optimizer: str) -> None:
    model = make_model()
    recipe = Training(optimizer=optimizer, lr=1e-3, tower_lr=1e-5)  # type: ignore[arg-type]
    optimizers = build_optimizers(model, recipe)
    groups = [group for o in optimizers for group in o.param_groups]
    ids = [id(p) for group in groups for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in model.parameters())
    assert any(isinstance(o, Muon) for o in optimizers) == (optimizer == "muon")
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert rates[id(model.text_tower.embedding.weight)] == 1e-5  # type: ignore[union-attr]
    assert rates[id(model.modality_attention.w)] == 1e-3


@pytest.mark.parametrize(("steps", "warmup"), [(200, 0.1), (21, 0.05), (44, 0.05), (1, 0.05)])
def test_the_schedule_warms_up_to_one_and_falls_from_there(steps: int, warmup: float) -> None:
    shares = [schedule(step, steps, warmup) for step in range(steps)]
    peak = shares.index(max(shares))
    assert max(shares) == pytest.approx(1.0, abs=0.02)
    assert shares[:peak] == sorted(shares[:peak])
    assert shares[peak:] == sorted(shares[peak:], reverse=True)


def test_the_schedule_ends_near_zero() -> None:
    assert schedule(199, 200, 0.1) == pytest.approx(0.01, abs=0.01)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_frozen_towers_do_not_move(optimizer: str) -> None:
    model = make_model()
    recipe = Training(optimizer=optimizer, lr=1e-3, tower_lr=0.0)  # type: ignore[arg-type]
    optimizers = build_optimizers(model, recipe)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model(*make_inputs()).logits["color"].sum().backward()
    for one in optimizers:
        one.step()
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved
    assert not any("_tower." in name for name in moved)


def sequences(count: int) -> tuple[Sequence, Sequence]:
    """Picture and title of each product hold its number; every third has no picture."""
    numbers = torch.arange(count, dtype=torch.float32)[:, None, None]
    there = torch.ones(count, 1, dtype=torch.bool)
    return Sequence(numbers, there & (numbers[:, 0] % 3 != 2)), Sequence(numbers, there)


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_of_a_share_of_products_either_picture_or_title_is_that_of_another(share: float) -> None:
    image, text = sequences(3000)
    generator = torch.Generator().manual_seed(0)
    shown, read = mismatched(image, text, share, generator)
    assert shown is not None
    own = torch.arange(3000)
    pictures, titles = shown.tokens[:, 0, 0].long(), read.tokens[:, 0, 0].long()
    other_picture, other_title = pictures != own, titles != own
    assert not (other_picture & other_title).any()
    has_both = own % 3 != 2
    for changed in (other_picture, other_title):
        assert float(changed[has_both].float().mean()) == pytest.approx(share / 2, abs=0.03)
        assert not changed[~has_both].any()  # another's title alone says nothing true
    # A picture comes with its own mask.
    assert torch.equal(shown.mask[:, 0], pictures % 3 != 2)


def test_titles_without_any_picture_are_left_alone() -> None:
    _, text = sequences(4)
    assert mismatched(None, text, 1.0, torch.Generator()) == (None, text)
