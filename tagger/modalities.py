"""Picture and title: their order in all weights, and the views that withhold one of them."""

from __future__ import annotations

from typing import Literal

IMAGE, TEXT = 0, 1
"""Order of the modalities wherever they are weighed."""

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
