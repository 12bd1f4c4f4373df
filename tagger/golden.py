"""Golden vectors: a few rendered products, what the network sees of them, what it must say."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from safetensors.numpy import save

from tagger.config import Config

Arrays = dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class GoldenProducts:
    """Picture files as bytes and titles; None is an absent one."""

    images: Sequence[bytes | None]
    titles: Sequence[str | None]


def golden_products(config: Config) -> GoldenProducts:
    """Products that together meet every step of preprocessing, and every missing modality.

    Titles are made of the model's own labels, so that the answers are of many kinds.
    """
    height, width = config.preprocess.height, config.preprocess.width
    title = [_title(config, number) for number in range(8)]
    return GoldenProducts(
        images=[
            _picture(0, (7 * height, 5 * width), "JPEG"),  # decoded at a fraction of its size
            _picture(1, (width + 11, max(2, height - 7)), "PNG", transparent=True),
            _picture(2, (3 * height, width), "JPEG", orientation=6),  # lies on its side
            _picture(3, (max(2, width // 3), max(2, height // 2)), "BMP"),  # must be enlarged
            _picture(4, (width, height), "PNG", deep=True),  # of 16 bits
            None,
            None,
            None,
        ],
        titles=[
            title[0],
            title[1].upper(),
            f"{title[2]} - {title[3]} " * 40,  # longer than any context
            None,
            " \t",
            title[5],
            f"Café \u201c{title[6]}\u201d ½ 100% &amp; 漢字!",
            None,
        ],
    )


def golden_file(products: GoldenProducts, inputs: Arrays, outputs: Arrays) -> bytes:
    """A safetensors file: inputs and outputs by name, and of product i the picture file in
    `image_file.i` and the UTF-8 bytes of the title in `title.i`, where there is one."""
    raw: Arrays = {}
    for kind, values in (
        ("image_file", products.images),
        ("title", [None if t is None else t.encode() for t in products.titles]),
    ):
        for row, value in enumerate(values):
            if value is not None:
                raw[f"{kind}.{row}"] = np.frombuffer(value, dtype=np.uint8)
    tensors = {**inputs, **outputs, **raw}
    return save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()})


def _title(config: Config, number: int) -> str:
    """One label of every task."""
    labels = [task.labels[(7 * number + 1) % len(task.labels)] for task in config.tasks]
    return " ".join(labels)


def _picture(
    seed: int,
    size: tuple[int, int],
    kind: str,
    transparent: bool = False,
    deep: bool = False,
    orientation: int | None = None,
) -> bytes:
    """A picture file of `size` (width, height): a shape with stripes on a sloping ground."""
    rng = np.random.default_rng(seed)
    width, height = size
    first, second, third = (tuple(map(int, rng.integers(0, 256, 3))) for _ in range(3))
    image = Image.linear_gradient("L").resize(size).convert("RGB")
    image = Image.blend(image, Image.new("RGB", size, first), 0.7)
    draw = ImageDraw.Draw(image)
    draw.rectangle((width // 4, height // 5, 3 * width // 4, 4 * height // 5), fill=second)
    for row in range(height // 5, 4 * height // 5, max(2, height // 12)):
        draw.line((width // 4, row, 3 * width // 4, row + seed), fill=third, width=2)
    if deep:
        image = Image.fromarray(np.asarray(image.convert("L"), dtype=np.uint16) * 257)
    if transparent:
        image.putalpha(Image.linear_gradient("L").rotate(90).resize(size))
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    content = io.BytesIO()
    image.save(content, kind, **({"exif": exif, "quality": 90} if kind == "JPEG" else {}))
    return content.getvalue()
