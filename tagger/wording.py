"""Numbers in sentences: how many of what, and how long."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """'1 product', '2,000 products'."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def lasting(seconds: float) -> str:
    """'45 seconds', '3 minutes'."""
    return (
        counted(round(seconds), "second")
        if seconds < 60
        else counted(round(seconds / 60), "minute")
    )
