"""What `predict` is given from Python, checked before the work: each error names the argument."""

from __future__ import annotations

from numbers import Integral, Real

from tagger.calibration import Precision
from tagger.errors import UsageError


def checked_top_k(top_k: object) -> int | None:
    """Raises:
    UsageError: it is no whole number from 1 on.
    """
    if top_k is None:
        return None
    if not (isinstance(top_k, Integral) and int(top_k) >= 1):
        raise UsageError(f"top_k={top_k!r} is no whole number from 1 on", "for example top_k=3")
    return int(top_k)


def checked_precision(min_precision: object) -> Precision | None:
    """Raises:
    UsageError: it is neither a number between 0 and 1 nor "default".
    """
    if min_precision is None:
        return None
    if isinstance(min_precision, str) and min_precision == "default":
        return "default"
    if not (isinstance(min_precision, Real) and 0 < float(min_precision) < 1):
        raise UsageError(
            f"min_precision={min_precision!r} is neither a number between 0 and 1 nor 'default'",
            "for example min_precision=0.95, or 'default': what each task was calibrated for",
        )
    return float(min_precision)
