"""What `predict` is given from Python, checked before the work: each error names the argument."""

from __future__ import annotations

import os
from collections.abc import Iterable
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tagger.calibration import Target
from tagger.catalog import Columns
from tagger.errors import UsageError
from tagger.tasks import parse_names


def check_frame(products: object) -> None:
    """Raises:
    UsageError: they are no DataFrame.
    """
    if isinstance(products, pd.DataFrame):
        return
    hint = 'for example pandas.DataFrame({"title": ["red shirt"]})'
    if isinstance(products, pd.Series):
        hint = 'make it one: products.to_frame("title")'
    elif hasattr(products, "to_pandas"):  # of Arrow, polars ...
        hint = "make it one: products.to_pandas()"
    raise UsageError(f"products is a {type(products).__name__}, no DataFrame", hint)


def check_columns(columns: object) -> None:
    """Raises:
    UsageError: it does not say which columns are pictures and titles.
    """
    if not isinstance(columns, Columns):
        raise UsageError(
            f"columns={columns!r} is no tagger.catalog.Columns",
            'for example columns=tagger.catalog.Columns(title="name")',
        )


def checked_tasks(tasks: object, known: list[str]) -> list[str]:
    """The names in `tasks`, one text with commas or several; None are all that are `known`.

    Raises:
        UsageError: no name, one name twice, or something else.
    """
    if tasks is None:
        return known
    names: list[Any] = [tasks]
    if isinstance(tasks, Iterable) and not isinstance(tasks, str):
        names = list(tasks)
    example = f'for example tasks=["{next(iter(known), "color")}"]; None are all'
    if not all(isinstance(name, str) for name in names):
        raise UsageError(f"tasks={tasks!r} are no names", example)
    try:
        return parse_names(",".join(names), f"tasks={tasks!r}")
    except UsageError as error:  # whose hint is the option
        raise UsageError(error.message, example) from None


def checked_root(image_root: object) -> Path:
    """Raises:
    UsageError: it is no path.
    """
    if not isinstance(image_root, str | os.PathLike):
        raise UsageError(
            f"image_root={image_root!r} is no path",
            'for example image_root="pictures"; "." is the current folder',
        )
    return Path(image_root)


def checked_top_k(top_k: object) -> int | None:
    """Raises:
    UsageError: it is no whole number from 1 on.
    """
    if top_k is None:
        return None
    if isinstance(top_k, bool) or not (isinstance(top_k, Integral) and int(top_k) >= 1):
        raise UsageError(f"top_k={top_k!r} is no whole number from 1 on", "for example top_k=3")
    return int(top_k)


def checked_precision(min_precision: object) -> Target | None:
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
    # In float32 there is no 0.95: the number that it is written as is meant.
    return float(str(min_precision) if isinstance(min_precision, np.floating) else min_precision)
