"""Picture files to pixels: confined to the image root, refused early, decoded, resized."""

from __future__ import annotations

import errno
import io
import math
import os
import re
import stat
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from tagger.config import Preprocess

ImageStatus = Literal[
    "ok", "missing", "not_found", "not_a_file", "outside_root", "unreadable", "too_large"
]
"""Why a product has, or has not, a usable picture; `image_status` of the output."""
IMAGE_STATUSES: tuple[ImageStatus, ...] = get_args(ImageStatus)

Pixels = NDArray[np.uint8]
ImageSource = str | bytes | None
"""A path, the bytes of a picture file, or neither."""

NUM_THREADS = max(
    2, len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 2
)
"""That read and decode pictures. Decoding releases the GIL and wants a core; more threads than
cores took a quarter longer."""
MAX_PIXELS = 100_000_000
"""A picture whose header announces more is refused before it is decoded."""
MAX_FILE_BYTES = 100_000_000
MAX_SCANS = 100
"""Of a progressive JPEG, each of which passes over the whole picture: a usual one has ten, and
thousands fit into a file of a megabyte."""
STRIP_ROWS = 256
"""Of a transparent picture that are laid on a ground at a time."""
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""Not TIFF: libtiff prints to stderr and can take seconds over a damaged file."""

# What Pillow's decoders raise for damaged files; there is nothing more to tell them apart.
_DAMAGED = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    ArithmeticError,
    MemoryError,
    RuntimeError,
    AttributeError,
    AssertionError,
    struct.error,
)
_ORIENTATION = 0x0112
# EXIF orientations 2 to 8 as the operation that turns the picture upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_TURNED = (5, 6, 7, 8)
"""Of these, those that swap width and height."""

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def stacked(
    images: Sequence[Pixels | None], preprocess: Preprocess
) -> tuple[Pixels, NDArray[np.bool_]]:
    """pixels (n, height, width, 3), zeros where there is no picture, and present (n,)."""
    pixels = np.zeros((len(images), preprocess.height, preprocess.width, 3), dtype=np.uint8)
    for row, image in enumerate(images):
        if image is not None:
            pixels[row] = image
    return pixels, np.array([image is not None for image in images], dtype=np.bool_)


def load_pixels(
    source: ImageSource, root: Path, preprocess: Preprocess
) -> tuple[Pixels | None, ImageStatus]:
    """The picture of `source` as uint8 (height, width, 3), and its status.

    A picture that cannot be used gives None and the reason; no file raises.
    """
    data, status = read_image(source, root)
    return (None, status) if data is None else decode(data, preprocess)


def read_image(
    source: ImageSource, root: Path, confined: bool = True
) -> tuple[bytes | None, ImageStatus]:
    """The bytes of a picture file, undecoded: those in the catalog, or at a path below `root`.

    Without `confined`, absolute paths, `..` and links may lead out of `root`.
    """
    if source is None or (isinstance(source, str) and not source.strip()):
        return None, "missing"
    if isinstance(source, str):
        return _read_file(source, root, confined)
    return (None, "too_large") if len(source) > MAX_FILE_BYTES else (source, "ok")


def decode(data: bytes, preprocess: Preprocess) -> tuple[Pixels | None, ImageStatus]:
    """The bytes of a picture file as uint8 (height, width, 3), and its status."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                return None, "too_large"
            if image.format in ("JPEG", "MPO") and not _has_few_scans(data):
                return None, "too_large"
            _scale_while_decoding(image, preprocess)
            pixels = np.asarray(_fit(_as_rgb(image, preprocess.fill), preprocess))
    except Image.DecompressionBombError:
        return None, "too_large"
    except _DAMAGED:
        return None, "unreadable"
    return pixels, "ok"


def _read_file(path: str, root: Path, confined: bool) -> tuple[bytes | None, ImageStatus]:
    """The content of a regular file; links are followed, but if `confined` not out of `root`."""
    try:
        real_root = os.path.realpath(root)
        real_path = os.path.realpath(os.path.join(real_root, path))
        if confined and os.path.commonpath([real_root, real_path]) != real_root:
            return None, "outside_root"
        # O_NONBLOCK: opening a FIFO must not wait for a writer.
        descriptor = os.open(real_path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL in the path
        return None, "not_found"
    except OSError as error:
        return None, "not_found" if error.errno == errno.ENAMETOOLONG else "unreadable"
    try:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode):
            return None, "not_a_file"
        if info.st_size > MAX_FILE_BYTES:
            return None, "too_large"
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(), "ok"
    except OSError:
        return None, "unreadable"
    finally:
        os.close(descriptor)


_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")
"""That a length follows, but for the last one; others stand in the data of scans."""
_SCAN, _END = b"\xff\xda", b"\xff\xd9"


def _has_few_scans(data: bytes) -> bool:
    """Whether a JPEG has MAX_SCANS at most."""
    if data.count(_SCAN) <= MAX_SCANS:
        return True
    # Thumbnails, and the film behind a picture, have such bytes as well.
    scans, place = 0, 2
    while (marker := _MARKER.search(data, place)) and marker[0] != _END:
        scans += marker[0] == _SCAN
        length = int.from_bytes(data[marker.end() : marker.end() + 2])
        place = marker.end() + max(2, length)
    return scans <= MAX_SCANS


def _scale_while_decoding(image: Image.Image, preprocess: Preprocess) -> None:
    """Let libjpeg decode at 1/2, 1/4 or 1/8, never below twice the size that `_fit` makes of it."""
    if image.format != "JPEG":
        return
    width, height = preprocess.width, preprocess.height
    if _orientation(image) in _TURNED:
        width, height = height, width
    scales = width / image.width, height / image.height
    scale = 2 * (min(scales) if preprocess.resize == "longest" else max(scales))
    image.draft("RGB", (math.ceil(scale * image.width), math.ceil(scale * image.height)))


def _orientation(image: Image.Image) -> int:
    """As EXIF says; upright (1) where that is damaged, for the picture is not."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except _DAMAGED:
        return 1


def _as_rgb(image: Image.Image, fill: int) -> Image.Image:
    """First frame, upright (EXIF), transparency laid on grey level `fill`, 8-bit RGB."""
    image.load()
    # Not ImageOps.exif_transpose: it writes the EXIF anew, and fails where another field is bad.
    turn = _UPRIGHT.get(_orientation(image))
    upright = image if turn is None else image.transpose(turn)
    if upright.mode in ("I", "F") or upright.mode.startswith("I;16"):
        # Deep grey: Pillow's own conversion would clip instead of scaling.
        values = np.array(upright, dtype=np.float32)
        deep = upright.mode.startswith("I;16") or values.max(initial=0.0) > 255
        peak = 65535.0 if deep else 255.0
        np.clip(values, 0, peak, out=values)
        values *= 255.0 / peak
        grey = values.astype(np.uint8)
        del values  # four bytes a pixel
        return Image.fromarray(grey).convert("RGB")
    if upright.has_transparency_data:
        return _laid_on(upright, fill)
    return upright if upright.mode == "RGB" else upright.convert("RGB")


def _laid_on(image: Image.Image, fill: int) -> Image.Image:
    """Transparency laid on grey level `fill`, in strips: all at once, a picture of MAX_PIXELS took
    1.9 GB."""
    laid = Image.new("RGB", image.size)
    for top in range(0, image.height, STRIP_ROWS):
        box = (0, top, image.width, min(top + STRIP_ROWS, image.height))
        strip = image.crop(box).convert("RGBA")
        ground = Image.new("RGBA", strip.size, (fill, fill, fill, 255))
        laid.paste(Image.alpha_composite(ground, strip).convert("RGB"), box)
    return laid


def _fit(image: Image.Image, preprocess: Preprocess) -> Image.Image:
    """Resize to (width, height), antialiased, as `preprocess.resize` says."""
    size = (preprocess.width, preprocess.height)
    resample = _FILTERS[preprocess.interpolation]
    if preprocess.resize == "shortest":
        return ImageOps.fit(image, size, resample)
    if preprocess.resize == "longest":
        grey = (preprocess.fill,) * 3
        return _pad(image, size, resample, grey)
    return image.resize(size, resample)


def _pad(
    image: Image.Image, size: tuple[int, int], resample: Image.Resampling, grey: tuple[int, ...]
) -> Image.Image:
    """The whole picture, centred on `grey`; a sliver keeps at least one pixel across."""
    scale = min(size[0] / image.width, size[1] / image.height)
    inner = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    ground = Image.new("RGB", size, grey)
    corner = ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2)
    ground.paste(image.resize(inner, resample), corner)
    return ground
