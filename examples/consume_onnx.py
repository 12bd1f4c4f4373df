"""Label products with an exported model, without tagger: python consume_onnx.py EXPORTED

Follows the README.md of the exported directory EXPORTED, runs its golden products through the graph
from their picture files and titles, and compares with what is expected. Needs numpy, onnxruntime,
pillow and tokenizers; ftfy too where the titles of the model ask for it.
"""

from __future__ import annotations

import html
import io
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image, ImageOps
from tokenizers import Tokenizer

DTYPES = {"U8": np.uint8, "BOOL": np.bool_, "I64": np.int64, "F32": np.float32}


def read_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    """Arrays by name."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    return {
        name: np.frombuffer(
            data[start + entry["data_offsets"][0] : start + entry["data_offsets"][1]],
            DTYPES[entry["dtype"]],
        ).reshape(entry["shape"])
        for name, entry in header.items()
    }


def read_picture(file: bytes, spec: dict[str, Any]) -> NDArray[np.uint8]:
    """A picture file as uint8 (height, width, 3)."""
    size, ground = (spec["width"], spec["height"]), (spec["fill"],) * 3
    kernel = Image.Resampling[spec["interpolation"].upper()]
    image: Image.Image = Image.open(io.BytesIO(file))
    if image.format == "JPEG":
        sides = size[::-1] if image.getexif().get(0x0112, 1) in (5, 6, 7, 8) else size
        scales = [side / whole for side, whole in zip(sides, image.size, strict=True)]
        scale = 2 * (min(scales) if spec["resize"] == "longest" else max(scales))
        image.draft("RGB", tuple(math.ceil(scale * side) for side in image.size))
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        grey = np.asarray(image, np.float32)
        peak = 65535 if image.mode.startswith("I;16") or grey.max() > 255 else 255
        image = Image.fromarray((grey.clip(0, peak) * (255 / peak)).astype(np.uint8))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (*ground, 255)), rgba)
    image = image.convert("RGB")
    if spec["resize"] == "squash":
        return np.asarray(image.resize(size, kernel))
    if spec["resize"] == "shortest":
        return np.asarray(ImageOps.fit(image, size, kernel))
    scale = min(size[0] / image.width, size[1] / image.height)
    inner = [max(1, round(side * scale)) for side in image.size]
    canvas = Image.new("RGB", size, ground)
    corner = ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2)
    canvas.paste(image.resize(inner, kernel), corner)
    return np.asarray(canvas)


def read_title(title: str, tokenizer: Tokenizer, cleaning: Sequence[str]) -> list[int]:
    """Token ids; none for white space."""
    for name in cleaning:
        if name == "ftfy.fix_text":
            import ftfy

            title = ftfy.fix_text(title)
        elif name == "html.unescape":
            title = html.unescape(title)
        elif name == "str.lower":
            title = title.lower()
        else:
            raise ValueError(f"unknown cleaning {name}")
    return list(tokenizer.encode(title).ids)


def inputs_of(
    pictures: Sequence[bytes | None], titles: Sequence[str | None], folder: Path
) -> dict[str, NDArray[Any]]:
    """Picture files and titles (None where there is none) as the graph takes them."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    export = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    spec, count = config["preprocess"], len(titles)
    pixels = np.zeros((count, spec["height"], spec["width"], 3), np.uint8)
    for row, file in enumerate(pictures):
        if file is not None:
            pixels[row] = read_picture(file, spec)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    rules = export["title"]
    rows = [
        read_title(title, tokenizer, rules["cleaning"]) if title and title.strip() else []
        for title in titles
    ]
    length = rules["fixed_length"] or max(1, *map(len, rows))
    ids = np.full((count, length), rules["pad_id"], np.int64)
    for row, title in enumerate(rows):
        ids[row, : len(title)] = title
    mask = np.arange(length) < np.array([[len(title)] for title in rows])
    present = np.array([file is not None for file in pictures])
    return {"pixels": pixels, "image_present": present, "token_ids": ids, "token_mask": mask}


def main(folder: Path) -> bool:
    export = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    golden = read_safetensors(folder / "golden.safetensors")
    count = len(golden["pixels"])
    pictures = [golden.get(f"image_file.{i}") for i in range(count)]
    titles = [golden.get(f"title.{i}") for i in range(count)]
    inputs = inputs_of(
        [None if file is None else file.tobytes() for file in pictures],
        [None if title is None else title.tobytes().decode() for title in titles],
        folder,
    )
    for name, array in inputs.items():
        difference = np.abs(array.astype(int) - golden[name]).max()
        print(f"{name}: shape {array.shape}, largest difference {difference}")

    session = onnxruntime.InferenceSession(folder / export["graph"])
    names = [output["name"] for output in export["outputs"]]
    outputs = dict(zip(names, session.run(names, inputs), strict=True))
    for task in config["tasks"]:
        probabilities = outputs[f"{task['name']}_probabilities"]
        labels = [task["labels"][i] for i in probabilities.argmax(1)]
        print(f"{task['name']}: {', '.join(labels)}")
    worst = 0.0
    for name in names:
        both = np.isnan(outputs[name]) & np.isnan(golden[name])  # weights that it cannot tell
        # Not max(), which passes over NaN on one side alone.
        worst = np.maximum(worst, np.abs(outputs[name] - golden[name])[~both].max(initial=0.0))
    print(f"outputs: largest difference {worst:.1e}")
    return bool(worst <= export["limits"]["difference"])


if __name__ == "__main__":
    sys.exit(0 if main(Path(sys.argv[1])) else 1)
