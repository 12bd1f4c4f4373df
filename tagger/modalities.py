"""Picture and title: their order in all weights, and the views that withhold one of them."""

from __future__ import annotations

from typing import Literal

IMAGE, TEXT = 0, 1
"""Order of the modalities wherever they are weighed.

Weights of present modalities sum to 1. An absent one weighs exactly 0, and so does one that the
model does not read; a present one never does. Where a model cannot tell what they weigh, both are
there and NaN: so `weights != 0` is what there was to answer from, for every model.
"""

View = Literal["both", "scrubbed", "image", "title"]
"""What the model is shown: all, the picture and a title without certain words, the picture alone,
the title alone."""
VIEWS: tuple[View, ...] = ("both", "scrubbed", "image", "title")
VIEW_NAMES: dict[View, str] = {
    "both": "picture and title",
    "scrubbed": "own words scrubbed",
    "image": "picture alone",
    "title": "title alone",
}
