"""Corrupted catalogs: what is hit is exact, nested, the same every time, and nothing else."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from tagger.corruption import (
    CONDITIONS,
    GREY,
    NO_PICTURE,
    Condition,
    Corrupted,
    Originals,
    block,
    blur,
    clean,
    corrupt,
    drop_words,
    hit_rows,
    strangers,
)
from tagger.scrub import giveaways, words_of

from .conftest import random_titles

SIZE = 90
BY_SHARE = [condition for condition in CONDITIONS if condition.by_share]
EDITING = [c for c in CONDITIONS if not c.of_titles and not c.by_share]
WORDS = giveaways(["Red", "Shirt"])


def originals(size: int = SIZE) -> Originals:
    """Every fifth product has no usable title, every third no picture; titles repeat."""
    titles = [None if i % 10 == 0 else " " if i % 5 == 0 else t for i, t in enumerate(TITLES)]
    has_picture = np.arange(size) % 3 != 0
    return Originals(titles[:size], [f"{i}.jpg" for i in range(size)], has_picture)


TITLES = [f"red {title} shirt" for title in random_titles(SIZE // 2)] * 2


def made(condition: Condition, strength: float, seed: int = 0, size: int = SIZE) -> Corrupted:
    return corrupt(originals(size), condition, strength, seed, WORDS)


def noise(height: int = 80, width: int = 60) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("condition", BY_SHARE, ids=lambda c: c.kind)
def test_just_the_share_is_hit_of_those_that_can_be(condition: Condition) -> None:
    eligible = originals().of(condition)
    assert eligible.sum() == (SIZE * 4 // 5 if condition.of_titles else SIZE * 2 // 3)
    for share in (0.0, 0.3, 0.7, 1.0):
        hit = hit_rows(condition.kind, eligible, share, seed=0)
        assert hit.sum() == round(share * eligible.sum())
        assert not (hit & ~eligible).any()
        differs = made(condition, share).differs(clean(originals()), np.arange(SIZE))
        assert (differs == hit).all()


@pytest.mark.parametrize("condition", BY_SHARE, ids=lambda c: c.kind)
def test_a_product_hit_at_one_share_is_hit_alike_at_every_higher_one(condition: Condition) -> None:
    eligible = originals().of(condition)
    worst = made(condition, 1.0)
    before = np.zeros(SIZE, np.bool_)
    for share in (0.1, 0.3, 0.7, 1.0):
        hit, here = hit_rows(condition.kind, eligible, share, seed=0), made(condition, share)
        assert not (before & ~hit).any()
        assert not here.differs(worst, np.flatnonzero(hit)).any()
        before = hit


@pytest.mark.parametrize("condition", CONDITIONS, ids=lambda c: c.kind)
def test_what_is_drawn_hangs_on_seed_condition_and_row_alone(condition: Condition) -> None:
    rows, level = np.arange(SIZE), condition.strengths[1]
    one, again, other = (made(condition, level, seed) for seed in (0, 0, 1))
    assert not one.differs(again, np.flatnonzero(one.pictures == NO_PICTURE)).any()
    picture = noise()
    seen = [[c.edit(picture, row) if c.edit else picture for row in rows] for c in (one, again)]
    assert np.array_equal(*seen)
    assert (one.titles, one.pictures.tolist()) == (again.titles, again.pictures.tolist())
    if condition.kind not in ("pictures_blurred", "pictures_blocked"):
        assert one.differs(other, rows).any()


def test_conditions_draw_different_products() -> None:
    every = np.ones(SIZE, np.bool_)
    hit = {hit_rows(c.kind, every, 0.3, seed=0).tobytes() for c in BY_SHARE}
    assert len(hit) == len(BY_SHARE)


@pytest.mark.parametrize("kind", ["titles_replaced", "pictures_replaced"])
def test_a_stranger_never_has_the_same_thing_and_every_other_product_can_be_it(kind: str) -> None:
    things = ["a", "a", "b", "c", "a", "d", "x"]
    eligible = np.array([True] * 6 + [False])
    met: dict[int, Counter[int]] = {row: Counter() for row in range(6)}
    for seed in range(600):
        donors = strangers(kind, things, eligible, seed)  # type: ignore[arg-type]
        for row in met:
            met[row][int(donors[row])] += 1
    for row, donors_of in met.items():
        others = [k for k in range(6) if things[k] != things[row]]
        assert set(donors_of) == set(others)
        expected = 600 / len(others)
        assert all(abs(count - expected) < 5 * expected**0.5 for count in donors_of.values())


def test_where_all_things_are_equal_each_keeps_its_own() -> None:
    donors = strangers("titles_replaced", ["same"] * 4, np.ones(4, np.bool_), seed=0)
    assert donors.tolist() == [0, 1, 2, 3]
    assert strangers("titles_replaced", [], np.ones(0, np.bool_), seed=0).tolist() == []


def test_a_replaced_title_is_that_of_another_product_with_a_title() -> None:
    condition = next(c for c in CONDITIONS if c.kind == "titles_replaced")
    known = originals()
    usable = {t for t, there in zip(known.titles, known.has_title, strict=True) if there}
    for title, own, there in zip(
        made(condition, 1.0).titles, known.titles, known.has_title, strict=True
    ):
        assert (title in usable and title != own) if there else title == own


def test_a_replaced_picture_is_a_usable_one_of_another_product() -> None:
    condition = next(c for c in CONDITIONS if c.kind == "pictures_replaced")
    known, pictures = originals(), made(condition, 1.0).pictures
    mine = np.flatnonzero(known.has_picture)
    assert known.has_picture[pictures[mine]].all()
    assert (pictures[mine] != mine).all()
    assert (pictures[~known.has_picture] == NO_PICTURE).all()


def test_words_drop_with_their_probability_in_order_and_one_always_stays() -> None:
    title = " ".join(f"word{k}" for k in range(12))
    for share in (0.3, 0.7):
        kept = [drop_words(title, share, 0, row).split() for row in range(400)]
        assert sum(map(len, kept)) / (400 * 12) == pytest.approx(1 - share, abs=0.03)
        assert all(words == sorted(words, key=title.split().index) for words in kept)
    assert all(len(drop_words(title, 1.0, 0, row).split()) == 1 for row in range(50))
    assert all(drop_words("alone", 0.7, 0, row) == "alone" for row in range(50))
    assert len({drop_words(title, 1.0, 0, row) for row in range(50)}) > 6


def test_words_that_go_early_are_gone_later_too() -> None:
    for row, title in enumerate(TITLES):
        at = [Counter(drop_words(title, share, 0, row).split()) for share in (0.0, 0.3, 0.7, 1.0)]
        assert all(more <= less for less, more in pairwise(at))
        assert at[0] == Counter(title.split())


def test_scrubbed_titles_have_none_of_the_words_and_all_others() -> None:
    condition = next(c for c in CONDITIONS if c.kind == "titles_scrubbed")
    known = originals()
    for title, own, there in zip(
        made(condition, 1.0).titles, known.titles, known.has_title, strict=True
    ):
        if there:
            assert words_of(title or "") == [w for w in words_of(own or "") if w not in WORDS]


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("size", [(80, 60), (32, 24), (224, 224), (7, 5)])
def test_the_grey_box_covers_the_area_that_was_asked(size: tuple[int, int], share: float) -> None:
    picture = np.zeros((*size, 3), np.uint8)
    for place in np.random.default_rng(0).random((20, 2)):
        grey = (block(picture, share, place) == GREY).all(2)
        rows, columns = grey.any(1), grey.any(0)
        assert grey.sum() == rows.sum() * columns.sum()  # one box
        assert abs(grey.sum() - share * grey.size) <= rows.sum() / 2  # to half a column
    assert (picture == 0).all()


def test_the_box_at_a_higher_strength_is_around_the_one_at_a_lower() -> None:
    picture = np.zeros((80, 60, 3), np.uint8)
    corners = set()
    for place in np.random.default_rng(0).random((50, 2)):
        boxes = [block(picture, share, place) == GREY for share in (0.25, 0.5, 0.75)]
        assert not (boxes[0] & ~boxes[1]).any()
        assert not (boxes[1] & ~boxes[2]).any()
        corners.add(int(np.argmax(boxes[0])))
    assert len(corners) > 40


def test_blur_keeps_shape_and_mean_and_takes_detail() -> None:
    picture = noise()
    detail = [float(blur(picture, share).std()) for share in (0.0, 0.02, 0.05, 0.1)]
    assert detail == sorted(detail, reverse=True)
    assert detail[-1] < detail[0] / 4
    for share in (0.0, 0.02, 0.05, 0.1):
        blurred = blur(picture, share)
        assert (blurred.shape, blurred.dtype) == (picture.shape, picture.dtype)
        assert blurred.mean() == pytest.approx(picture.mean(), abs=1.5)
    assert np.array_equal(blur(picture, 0.0), picture)


def test_blur_is_relative_to_the_size_of_the_picture() -> None:
    small = np.kron(noise(8, 6), np.ones((10, 10, 1), np.uint8))
    large = np.kron(small, np.ones((4, 4, 1), np.uint8))
    reduced = blur(large, 0.05)[2::4, 2::4].astype(int)
    assert np.abs(reduced - blur(small, 0.05)).mean() < 3
