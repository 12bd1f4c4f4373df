"""Render a made-up fashion catalogue: drawn product pictures and the CSV file that lists them.

Usage:

    python examples/render.py --out DIR [--num-products N] [--seed S] [--no-bad-rows]

writes DIR/images/*.jpg and DIR/catalog.csv with the columns id, image, title, category, color,
pattern and path. The last four are the true labels, path being the category with what it stands
under; an empty one means that the label does not apply or is not known. Titles and brands are
invented. About a third of the titles name neither colour nor pattern, some do not name the
category, and some are empty, so that the picture has to tell.

With --bad-rows (the default) eight faulty rows are spread through the catalogue, one of each kind
that a real export tends to contain; see `damage`.

The same seed gives the same bytes with the same versions of Pillow and NumPy. The shipped example
is `--num-products 120 --seed 1`.
"""

import argparse
import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from drawing import accessories, colors, footwear, garments
from drawing.look import Look, make_look
from drawing.sketch import Sketch

T = TypeVar("T")

COLUMNS = ("id", "image", "title", "category", "color", "pattern", "path")
COLORS = tuple(colors.COLORS)
JPEG_QUALITIES = (85, 80, 75, 70, 65, 60, 55)  # the first that keeps the file small is used
MAX_FILE_SIZE = 10_000

BRANDS = (
    "Northwind",
    "Brindlewick",
    "Quillmark",
    "Mossgate",
    "Tavorno",
    "Pellavar",
    "Loomfield",
    "Kestrelby",
    "Ondrelle",
    "Wrenhollow",
)
LINES = (
    "Harbour",
    "Trail",
    "Core",
    "Metro",
    "Summit",
    "Breeze",
    "Willow",
    "Drift",
    "Atlas",
    "Weekend",
    "Heritage",
    "Lagoon",
    "Meadow",
    "Tempo",
)

MEN_AND_WOMEN = ("Men", "Women")
EVERYONE = ("Men", "Women", "Boys", "Girls")
NO_PATTERN = ("",)


@dataclass(frozen=True)
class Kind:
    """A category: how to draw it and which labels go with it."""

    draw: Callable[[Sketch, Look], str]
    genders: tuple[str, ...]
    patterns: tuple[str, ...]  # repeated entries are more frequent
    colors: tuple[str, ...] = COLORS
    angles: tuple[float, ...] = (0,)  # of stripes
    pattern_size: float = 1
    graphic: bool = False  # may carry one large print instead of an all-over one
    standing: bool = False  # photographed on the floor instead of laid flat


KINDS: dict[str, Kind] = {
    "Tshirts": Kind(
        garments.draw_tshirt,
        EVERYONE,
        ("Solid", "Solid", "Striped", "Printed", "Printed"),
        graphic=True,
    ),
    "Shirts": Kind(
        garments.draw_shirt,
        EVERYONE,
        ("Solid", "Solid", "Striped", "Checked", "Printed"),
        angles=(90,),
        pattern_size=0.85,
    ),
    "Dresses": Kind(
        garments.draw_dress, ("Women", "Girls"), ("Solid", "Solid", "Striped", "Checked", "Printed")
    ),
    "Trousers": Kind(
        garments.draw_trousers,
        MEN_AND_WOMEN,
        ("Solid", "Solid", "Solid", "Striped", "Checked"),
        ("Black", "White", "Navy Blue", "Green", "Grey", "Brown"),
        angles=(90,),
        pattern_size=0.75,
    ),
    "Shorts": Kind(
        garments.draw_shorts, EVERYONE, ("Solid", "Solid", "Striped", "Checked", "Printed")
    ),
    "Jeans": Kind(
        garments.draw_jeans, EVERYONE, NO_PATTERN, ("Blue", "Blue", "Navy Blue", "Black", "Grey")
    ),
    "Skirts": Kind(
        garments.draw_skirt, ("Women", "Girls"), ("Solid", "Solid", "Striped", "Checked", "Printed")
    ),
    "Sweaters": Kind(
        garments.draw_sweater, MEN_AND_WOMEN, ("Solid", "Solid", "Striped", "Striped", "Checked")
    ),
    "Ties": Kind(
        accessories.draw_tie,
        ("Men",),
        ("Solid", "Striped", "Striped", "Checked", "Printed"),
        angles=(38, -38),
        pattern_size=0.75,
    ),
    "Handbags": Kind(
        accessories.draw_handbag,
        ("Women",),
        ("Solid", "Solid", "Striped", "Checked", "Printed"),
        standing=True,
    ),
    "Backpacks": Kind(
        accessories.draw_backpack,
        ("Unisex",),
        ("Solid", "Solid", "Solid", "Checked", "Printed"),
        graphic=True,
        standing=True,
    ),
    "Caps": Kind(accessories.draw_cap, ("Unisex", "Men"), NO_PATTERN),
    "Watches": Kind(accessories.draw_watch, MEN_AND_WOMEN, NO_PATTERN),
    "Casual Shoes": Kind(footwear.draw_casual_shoe, MEN_AND_WOMEN, NO_PATTERN, standing=True),
    "Heels": Kind(footwear.draw_heels, ("Women",), NO_PATTERN, standing=True),
    "Flip Flops": Kind(footwear.draw_flip_flops, MEN_AND_WOMEN, NO_PATTERN),
}

PATHS = {
    category: f"{above} > {category}"
    for above, categories in {
        "Accessories > Bags": ("Backpacks", "Handbags"),
        "Accessories > Headwear": ("Caps",),
        "Accessories > Ties": ("Ties",),
        "Accessories > Watches": ("Watches",),
        "Apparel > Bottomwear": ("Jeans", "Shorts", "Skirts", "Trousers"),
        "Apparel > Dress": ("Dresses",),
        "Apparel > Topwear": ("Shirts", "Sweaters", "Tshirts"),
        "Footwear > Flip Flops": ("Flip Flops",),
        "Footwear > Shoes": ("Casual Shoes", "Heels"),
    }.items()
    for category in categories
}

FAULTS = (
    "missing file",
    "truncated",
    "empty file",
    "web page",
    "outside",
    "no image",
    "no title",
    "nothing",
)


@dataclass(frozen=True)
class Product:
    title: str
    category: str
    color: str
    pattern: str
    image: str = ""
    data: bytes | None = None  # what the image file holds; None leaves it unwritten


def choose(rng: np.random.Generator, options: tuple[T, ...]) -> T:
    return options[int(rng.integers(len(options)))]


def make_title(
    rng: np.random.Generator, gender: str, color: str, pattern: str, noun: str, full: bool
) -> str:
    """A shop title that names some of the labels, or all if `full`, and contradicts none."""
    owner = f"{gender}'s" if gender in MEN_AND_WOMEN and rng.random() < 0.2 else gender
    start = [choose(rng, BRANDS), owner]
    line = [choose(rng, LINES)] if rng.random() < 0.5 else []
    kind = 1.0 if full else rng.random()
    if kind < 0.04:
        return ""
    if kind < 0.1:
        return " ".join([*start, choose(rng, LINES), str(rng.integers(100, 999))])
    if kind < 0.36:
        return " ".join([*start, *line, noun])
    # Shops name a pattern often, but rarely bother to say that something is plain.
    chance = 1.0 if full else 0.1 if pattern == "Solid" else 0.7
    named = [pattern] if pattern and rng.random() < chance else []
    return " ".join([*start, *line, *named, color, noun])


def encode(picture: Image.Image) -> bytes:
    """A JPEG file that stays small even for a busy print."""
    for quality in JPEG_QUALITIES:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality, optimize=True)
        if file.tell() <= MAX_FILE_SIZE:
            break
    return file.getvalue()


def make_product(seed: int, number: int, full_title: bool = False) -> Product:
    """Product `number` of a catalogue; it does not depend on how many others there are."""
    turn, place = divmod(number, len(KINDS))
    order = np.random.default_rng([seed, 0, turn]).permutation(len(KINDS))
    category = tuple(KINDS)[order[place]]
    kind = KINDS[category]

    rng = np.random.default_rng([seed, 1, number])
    color, pattern = choose(rng, kind.colors), choose(rng, kind.patterns)
    look = make_look(rng, color, pattern, choose(rng, kind.angles), kind.pattern_size, kind.graphic)
    # Something that stands on the floor cannot lean as far as something laid on a table.
    sketch = Sketch(rng, tilt=1.2 if kind.standing else 4.5)
    noun = kind.draw(sketch, look)
    data = encode(sketch.finish(kind.standing))
    title = make_title(rng, choose(rng, kind.genders), color, pattern, noun, full_title)
    return Product(title, category, color, pattern, data=data)


def damage(product: Product, fault: str) -> Product:
    """The product as it looks after one of the accidents that happen to catalogue exports."""
    data = product.data or b""
    match fault:
        case "missing file":
            return replace(product, data=None)
        case "truncated":
            return replace(product, data=data[: len(data) * 2 // 5])
        case "empty file":
            return replace(product, data=b"")
        case "web page":
            page = b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head></html>\n"
            return replace(product, data=page)
        case "outside":
            return replace(product, image="../outside.jpg", data=None)
        case "no image":
            return replace(product, image="", data=None)
        case "no title":
            return replace(product, title="")
        case "nothing":
            return Product("", "", "", "")
    raise ValueError(f"unknown fault: {fault}")


def make_catalog(num_products: int, seed: int, bad_rows: bool) -> Iterator[Product]:
    """All rows in order, the faulty ones at even distances between the sound ones."""
    plan = [(number, "") for number in range(num_products)]
    if bad_rows:
        for i, fault in reversed(list(enumerate(FAULTS))):
            place = (i + 1) * num_products // (len(FAULTS) + 1)
            plan.insert(place, (num_products + i, fault))
    for row, (number, fault) in enumerate(plan, start=1):
        # Where the picture is lost, the title says everything, so that the labels stay knowable.
        product = make_product(seed, number, full_title=bool(fault))
        product = replace(product, image=f"images/{row:04d}.jpg")
        yield damage(product, fault) if fault else product


def write_catalog(out: Path, products: Iterator[Product]) -> int:
    """Write the image files and catalog.csv; returns the number of rows."""
    (out / "images").mkdir(parents=True, exist_ok=True)
    rows = 0
    # Fixed line ends keep the bytes equal on every system.
    with (out / "catalog.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for rows, p in enumerate(products, start=1):
            path = PATHS.get(p.category, "")
            writer.writerow((f"{rows:04d}", p.image, p.title, p.category, p.color, p.pattern, path))
            if p.data is not None:
                (out / p.image).write_bytes(p.data)
            elif p.image.startswith("images/"):
                (out / p.image).unlink(missing_ok=True)  # an earlier run may have left one
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="Render a made-up fashion catalogue.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    parser.add_argument("--num-products", type=int, default=120, help="sound rows (default: 120)")
    parser.add_argument(
        "--seed", type=int, default=1, help="same seed, same catalogue (default: 1)"
    )
    parser.add_argument(
        "--bad-rows",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="add one row of each kind of fault",
    )
    options = parser.parse_args()
    products = make_catalog(options.num_products, options.seed, options.bad_rows)
    rows = write_catalog(options.out, products)
    print(f"Wrote {rows} rows to {options.out / 'catalog.csv'}")


if __name__ == "__main__":
    main()
