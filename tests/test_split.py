"""The validation split: by product, not by position; near-duplicates on one side."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tagger.scrub import giveaways
from tagger.split import HELD_BACK, LEARNED, NEW, validation_rows

COLORS = ("Red", "Blue", "Green")
IGNORED = giveaways(COLORS)
LETTERS = list("abcdefghijklmnopqrstuvwxyz")


def random_products(count: int, seed: int) -> tuple[list[str | None], list[str | None]]:
    rng = np.random.default_rng(seed)
    titles: list[str | None] = [
        " ".join("".join(rng.choice(LETTERS, 5)) for _ in range(4)) for _ in range(count)
    ]
    return titles, [f"{number}.jpg" for number in range(count)]


def choose(titles: list[str | None], images: list[str | None], seed: int = 0) -> list[bool]:
    return validation_rows(titles, images, 0.3, seed, IGNORED)


@pytest.mark.parametrize("seed", range(5))
def test_choice_does_not_depend_on_the_order_of_the_products(seed: int) -> None:
    titles, images = random_products(200, seed)
    chosen = choose(titles, images)
    order = np.random.default_rng(seed).permutation(200)
    assert choose([titles[k] for k in order], [images[k] for k in order]) == [
        chosen[k] for k in order
    ]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_part_has_about_the_share_that_was_asked_for(share: float) -> None:
    titles, images = random_products(2000, seed=1)
    chosen = validation_rows(titles, images, share, 0, IGNORED)
    assert abs(sum(chosen) / 2000 - share) < (0.04 if 0 < share < 1 else 1e-9)


@pytest.mark.parametrize(
    ("held_back", "new", "learned", "chosen"),
    [
        (0, 400, 0, (0, 120, 0)),
        (120, 0, 280, (120, 0, 0)),  # the same catalog as before
        (40, 0, 360, (40, 0, 80)),
        (80, 100, 220, (80, 30, 10)),  # a catalog that has grown: most of what is new is learned
        (0, 10, 390, (0, 3, 117)),
        (300, 100, 0, (120, 0, 0)),
        (0, 0, 400, (0, 0, 120)),
    ],
)
def test_what_earlier_models_did_not_learn_from_is_chosen_first_and_what_is_new_mostly_learned(
    held_back: int, new: int, learned: int, chosen: tuple[int, int, int]
) -> None:
    titles, images = random_products(400, seed=3)
    past = [HELD_BACK] * held_back + [NEW] * new + [LEARNED] * learned
    past = np.random.default_rng(0).permutation(past).tolist()
    side = validation_rows(titles, images, 0.3, 0, IGNORED, past=past)
    found = Counter(stage for stage, hit in zip(past, side, strict=True) if hit)
    assert (found[HELD_BACK], found[NEW], found[LEARNED]) == chosen


def test_near_duplicate_of_what_was_learned_counts_as_learned() -> None:
    titles: list[str | None] = [f"acme {name} shirt" for name in "abcdefgh" for _ in range(5)]
    images: list[str | None] = [None] * 40
    past = [LEARNED if k % 5 == 0 and k < 35 else HELD_BACK for k in range(40)]
    side = validation_rows(titles, images, 0.125, 0, IGNORED, past=past)
    assert [k for k, hit in enumerate(side) if hit] == [35, 36, 37, 38, 39]


def test_group_of_a_product_that_was_held_back_is_chosen_before_new_ones() -> None:
    titles, _ = random_products(200, seed=5)
    past = [HELD_BACK] * 100 + [NEW] * 300  # each title twice, half of them held back once
    side = validation_rows([*titles, *titles], [None] * 400, 0.5, 0, IGNORED, past=past)
    assert [hit for hit, stage in zip(side, past, strict=True) if stage == HELD_BACK] == [
        True
    ] * 100
    assert side[:200] == side[200:]


def test_pictures_in_the_catalog_tie_products_together_as_paths_do() -> None:
    titles, paths = random_products(200, seed=4)
    shared = [path if k % 4 else "same.jpg" for k, path in enumerate(paths)]
    as_bytes = [(path or "").encode() for path in shared]
    assert (
        len({a for a, k in zip(choose(titles, shared), range(200), strict=True) if k % 4 == 0}) == 1
    )
    chosen = validation_rows(titles, as_bytes, 0.3, 0, IGNORED)
    assert len({side for k, side in enumerate(chosen) if k % 4 == 0}) == 1


def test_seeds_choose_differently_and_one_seed_alike() -> None:
    titles, images = random_products(200, seed=2)
    assert choose(titles, images, 1) == choose(titles, images, 1) != choose(titles, images, 2)


@pytest.mark.parametrize("seed", range(5))
def test_near_duplicates_fall_on_one_side(seed: int) -> None:
    rng = np.random.default_rng(seed)
    variants: list[str | None] = []
    for title in random_products(60, seed)[0]:
        words = (title or "").split()
        variants += [
            (title or "").upper(),
            f"{title}, {rng.integers(99)}.",
            " - ".join(rng.permutation(words)),
            f"{rng.choice(COLORS)} {title}",
            f"{title} {words[0]}",
        ]
    chosen = choose(variants, [f"{number}.jpg" for number in range(300)])
    sides = [set(chosen[k : k + 5]) for k in range(0, 300, 5)]
    assert all(len(side) == 1 for side in sides)
    assert {True} in sides
    assert {False} in sides


def test_group_larger_than_the_share_stays_in_training() -> None:
    titles, images = random_products(60, seed=4)
    chosen = choose(
        [*["one large group"] * 40, *titles], [*(f"group {n}.jpg" for n in range(40)), *images]
    )
    assert not any(chosen[:40])
    assert sum(chosen) == 30
    assert not any(choose(["one large group"] * 40, images[:40]))


def test_products_without_a_title_are_split_by_their_picture() -> None:
    _, images = random_products(400, seed=3)
    for empty in (None, "", "501", "Blue"):
        chosen = choose([empty] * 400, images)
        assert 0.2 < sum(chosen) / 400 < 0.4
        assert choose([empty] * 400, images[::-1]) == chosen[::-1]


def test_products_of_one_picture_fall_on_one_side() -> None:
    titles, _ = random_products(400, seed=6)
    images: list[str | None] = [f"{number // 2}.jpg" for number in range(400)]
    chosen = choose(titles, images)
    assert chosen[::2] == chosen[1::2]
    assert 0 < sum(chosen) < 400
