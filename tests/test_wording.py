"""Numbers in sentences."""

from __future__ import annotations

from tagger.wording import counted, lasting


def test_one_of_a_thing_has_no_plural() -> None:
    assert [counted(n, "product") for n in (0, 1, 2, 1000)] == [
        "0 products",
        "1 product",
        "2 products",
        "1,000 products",
    ]


def test_what_takes_less_than_a_minute_is_told_in_seconds() -> None:
    assert [lasting(s) for s in (1.2, 44.6, 59.9, 60, 95, 7200)] == [
        "1 second",
        "45 seconds",
        "60 seconds",
        "1 minute",
        "2 minutes",
        "120 minutes",
    ]
