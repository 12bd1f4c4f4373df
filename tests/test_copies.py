"""Copies: what a model cannot tell apart, wherever its picture lies."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tagger.copies import first_of_each, groups_of
from tagger.products import Products


def test_products_of_equal_picture_files_and_titles_are_one_group(tmp_path: Path) -> None:
    for name, content in (("a.jpg", b"one"), ("b.jpg", b"one"), ("c.jpg", b"two")):
        (tmp_path / name).write_bytes(content)
    images = ["a.jpg", "b.jpg", "c.jpg", b"one", "a.jpg", None, "absent.jpg"]
    titles = ["red", "red", "red", "red", "blue", "green", "green"]
    groups = groups_of(Products([*images], [*titles]), tmp_path)
    assert groups.tolist() == [0, 0, 1, 0, 2, 3, 3]


def test_first_of_a_group_is_the_first_of_those_asked_for() -> None:
    groups = np.array([0, 0, 1, 1, 2])
    among = np.array([False, True, True, True, False])
    assert first_of_each(groups, among).tolist() == [False, True, True, False, False]
