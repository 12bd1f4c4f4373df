"""Draw some products of a labelled catalog with their labels, confidences and modality weights.

    tagger predict examples/catalog.csv --tasks category,color,pattern
    python examples/picture.py examples/catalog.labeled.parquet examples/output.png

The bar below a label is its confidence: the blue part is what the picture weighed, the orange
part what the title did.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from textwrap import fill

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

TASKS = ("category", "color", "pattern")
IDS = [
    "0003",
    "0005",
    "0010",
    "0024",
    "0026",
    "0032",
    "0041",
    "0063",
    "0069",
    "0083",
    "0102",
    "0022",
]
IMAGE_COLOR, TEXT_COLOR = "#3b78c3", "#e08a2c"


def draw_product(picture: Axes, text: Axes, product: pd.Series, root: Path) -> None:
    """The picture above; below it the title, and per task the label, its confidence and the bar."""
    picture.axis("off")
    with Image.open(root / product["image"]) as image:
        picture.imshow(image)
    text.axis("off")
    text.set(xlim=(0, 1), ylim=(-3, 1))
    title = product["title"] if isinstance(product["title"], str) else "(no title)"
    text.text(0, 0.7, fill(title, 27), fontsize=7.5, color="#666666", va="center")
    for row, task in enumerate(TASKS):
        y = -0.2 - row
        confidence = product[f"{task}_confidence"]
        seen = confidence * product[f"{task}_image_weight"]
        text.text(0, y, product[f"{task}_label"], fontsize=9, weight="bold", va="center")
        text.text(1, y, f"{confidence:.0%}", fontsize=9, va="center", ha="right")
        text.barh(y - 0.4, seen, 0.16, color=IMAGE_COLOR)
        text.barh(y - 0.4, confidence - seen, 0.16, left=seen, color=TEXT_COLOR)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("catalog", type=Path, help="labelled Parquet file")
    parser.add_argument("picture", type=Path, help="PNG file to write")
    arguments = parser.parse_args()
    products = pd.read_parquet(arguments.catalog).set_index("id").loc[list(IDS)]
    figure = Figure(figsize=(12, 7.4), facecolor="white")
    for number, (_, product) in enumerate(products.iterrows()):
        left, bottom = 0.02 + 0.165 * (number % 6), 0.52 - 0.5 * (number // 6)
        picture = figure.add_axes((left, bottom + 0.18, 0.14, 0.28))
        text = figure.add_axes((left, bottom, 0.14, 0.17))
        draw_product(picture, text, product, arguments.catalog.parent)
    figure.savefig(arguments.picture, dpi=110)


if __name__ == "__main__":
    main()
