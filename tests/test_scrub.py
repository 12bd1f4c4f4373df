"""Scrubbing takes out the words of the labels, all of them and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from tagger.scrub import giveaways, scrub, words_of

LABELS = ("Navy Blue", "Striped", "Off White", "Checked", "Printed", "T-Shirt")
BYSTANDERS = ("Acme", "Men's", "50%", "cotton", "shoe-lace", "of", "White-ish?", "N°5", "été")


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("spelling", [str, str.lower, str.upper])
def test_title_loses_every_word_of_a_label_in_any_case(label: str, spelling: type[str]) -> None:
    left = words_of(scrub(f"Acme {spelling(label)} thing", giveaways([label])))
    assert {"acme", "thing"} <= set(left)
    assert not set(left) & {word for word in words_of(label) if len(word) > 2 and word != "off"}


@pytest.mark.parametrize(
    ("label", "spellings"),
    [
        ("Striped", ["stripe", "stripes", "striped", "STRIPED"]),
        ("Printed", ["print", "prints", "printing"]),
        ("Dots", ["dot", "Dot", "doted"]),
    ],
)
def test_other_endings_of_a_label_go_too(label: str, spellings: list[str]) -> None:
    assert all(scrub(spelling, giveaways([label])) == "" for spelling in spellings)


@pytest.mark.parametrize("seed", range(10))
def test_scrubbing_keeps_the_other_words_as_written_and_in_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    others = [
        str(word) for word in rng.permutation(["Acme", "Men's", "50%", "cotton", "été", "N°5"])
    ]
    mixed = list(others)
    for word in rng.choice(["blue", "STRIPED", "Navy", "checks"], 5):
        mixed.insert(int(rng.integers(0, len(mixed) + 1)), str(word))
    assert scrub(" ".join(mixed), giveaways(LABELS)) == " ".join(others)


@pytest.mark.parametrize("seed", range(5))
def test_scrubbing_twice_is_scrubbing_once(seed: int) -> None:
    rng = np.random.default_rng(seed)
    title = " ".join(rng.choice([*LABELS, *BYSTANDERS], 12))
    once = scrub(title, giveaways(LABELS))
    assert scrub(once, giveaways(LABELS)) == once
    assert not set(words_of(once)) & giveaways(LABELS)


def test_no_words_leave_the_title_as_it_is() -> None:
    assert giveaways([]) == frozenset()
    assert scrub("Any Title, 2 pcs.", frozenset()) == "Any Title, 2 pcs."


@pytest.mark.parametrize("word", ["and", "of", "the", "with"])
def test_common_words_beside_others_give_nothing_away(word: str) -> None:
    assert word not in giveaways([f"Black {word} White"])


@pytest.mark.parametrize(
    ("label", "title", "left"),
    [
        ("V-Neck", "Men V-Neck Tee", "Men - Tee"),
        ("XL", "Acme XL Tee, Large", "Acme Tee, Large"),
        ("32GB", "Stick 32GB 64GB", "Stick 64GB"),
        ("Set", "Tea set of 6", "Tea of 6"),
        ("Off White", "Off White shirt", "Off shirt"),
        ("红色", "Acme 红色牛仔裤 XL", "Acme 牛仔裤 XL"),
        ("红色", "白色 红酒", "白色 红酒"),
        ("ブルー", "ルビーブレスレット・ブルー", "ルビーブレスレット・"),
        ("नीला", "नीला कुर्ता", "कुर्ता"),
    ],
)
def test_short_labels_numbers_and_other_scripts_go_too(label: str, title: str, left: str) -> None:
    assert scrub(title, giveaways([label])) == left


def test_words_that_overlap_are_taken_out_in_one_order_in_every_process() -> None:
    words = giveaways(["赤青", "青緑", "緑黄", "黄白"])
    assert [scrub(text, words) for text in ("赤青緑", "青緑黄", "緑黄白")] == ["緑", "青", "白"]


def test_longer_words_of_scripts_without_spaces_go_first() -> None:
    assert scrub("Acme 红色裤", giveaways(["红", "红色"])) == "Acme 裤"


def test_stem_of_two_letters_gives_nothing_away() -> None:
    assert scrub("re usable Red bag", giveaways(["Red"])) == "re usable bag"
