"""Draw some products of a labelled catalog with their labels, confidences and modality weights.

    tagger predict examples/catalog.csv --tasks category,color,pattern
    python examples/picture.py examples/catalog.labeled.parquet examples/output.png

The bar below a label is its confidence: the blue part is what the picture weighed, the orange
part what the title did.
"""

from __future__ import annotations

import argparse
from pathlib import Path

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


def draw_product(axes: Axes, product: pd.Series, root: Path) -> None:
    """The picture above, the title and one bar per task below."""
    axes.axis("off")
    with Image.open(root / product["image"]) as image:
        axes.imshow(image, extent=(0, 0.75, 0, 1), aspect="equal")
    title = product["title"] if isinstance(product["title"], str) else "(no title)"
    axes.text(0, -0.06, title, fontsize=7, color="#555555", va="top")
    for row, task in enumerate(TASKS):
        y = -0.24 - 0.13 * row
        confidence = product[f"{task}_confidence"]
        picture = confidence * product[f"{task}_image_weight"]
        axes.text(0, y, product[f"{task}_label"], fontsize=8.5, weight="bold", va="center")
        axes.text(0.75, y, f"{confidence:.0%}", fontsize=8, va="center", ha="right")
        axes.barh(y - 0.055, 0.75 * picture, 0.02, color=IMAGE_COLOR)
        title = confidence - picture
        axes.barh(y - 0.055, 0.75 * title, 0.02, left=0.75 * picture, color=TEXT_COLOR)
    axes.set(xlim=(-0.02, 0.95), ylim=(-0.62, 1.02))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("catalog", type=Path, help="labelled Parquet file")
    parser.add_argument("picture", type=Path, help="PNG file to write")
    arguments = parser.parse_args()
    products = pd.read_parquet(arguments.catalog).set_index("id")
    figure = Figure(figsize=(11, 8.2), layout="constrained", facecolor="white")
    for axes, name in zip(figure.subplots(2, 6).flat, IDS, strict=True):
        draw_product(axes, products.loc[name], arguments.catalog.parent)
    figure.savefig(arguments.picture, dpi=110)


if __name__ == "__main__":
    main()
