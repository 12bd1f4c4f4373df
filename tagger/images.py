"""Picture files to pixels: confined to the image root, refused early, decoded, resized."""

from __future__ import annotations

import io
import os
import stat
import warnings
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

MAX_PIXELS = 100_000_000
"""A picture whose header announces more is refused before it is decoded."""
MAX_FILE_BYTES = 100_000_000
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def load_pixels(
    path: str | None, root: Path, preprocess: Preprocess
) -> tuple[Pixels | None, ImageStatus]:
    """The picture at `path` below `root` as uint8 (height, width, 3), and its status.

    A picture that cannot be used gives None and the reason; no file raises.
    """
    if path is None or not path.strip():
        return None, "missing"
    data, status = _read_file(path, root)
    return (None, status) if data is None else decode(data, preprocess)


def decode(data: bytes, preprocess: Preprocess) -> tuple[Pixels | None, ImageStatus]:
    """The bytes of a picture file as uint8 (height, width, 3), and its status."""
    try:
        with warnings.catch_warnings():
            # Pillow warns of broken EXIF and of sizes that MAX_PIXELS judges already.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    return None, "too_large"
                _scale_while_decoding(image, preprocess)
                pixels = np.asarray(_fit(_as_rgb(image, preprocess.fill), preprocess))
    except Image.DecompressionBombError:
        return None, "too_large"
    # Pillow's decoders raise these, and no others worth telling apart, for damaged files.
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError):
        return None, "unreadable"
    except (ArithmeticError, MemoryError, RuntimeError, AttributeError, AssertionError):
        return None, "unreadable"
    return pixels, "ok"


def _read_file(path: str, root: Path) -> tuple[bytes | None, ImageStatus]:
    """The content of a regular file below `root`; links are followed, but not out of it."""
    try:
        real_root = os.path.realpath(root)
        real_path = os.path.realpath(os.path.join(real_root, path))
        if os.path.commonpath([real_root, real_path]) != real_root:
            return None, "outside_root"
        # O_NONBLOCK: opening a FIFO must not wait for a writer.
        descriptor = os.open(real_path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        return None, "not_found"
    except (OSError, ValueError):  # ValueError: a NUL byte in the path
        return None, "not_found" if not os.path.lexists(
            os.path.join(root, path.replace("\0", ""))
        ) else "unreadable"
    with os.fdopen(descriptor, "rb") as file:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode):
            return None, "not_a_file"
        if info.st_size > MAX_FILE_BYTES:
            return None, "too_large"
        try:
            return file.read(), "ok"
        except OSError:
            return None, "unreadable"


def _scale_while_decoding(image: Image.Image, preprocess: Preprocess) -> None:
    """Let libjpeg decode at 1/2, 1/4 or 1/8, never below twice the size that is asked for."""
    if image.format == "JPEG":
        image.draft("RGB", (2 * preprocess.width, 2 * preprocess.height))


def _as_rgb(image: Image.Image, fill: int) -> Image.Image:
    """First frame, upright (EXIF), transparency laid on grey level `fill`, 8-bit RGB."""
    image.load()
    upright = ImageOps.exif_transpose(image)
    if upright.mode in ("I", "F") or upright.mode.startswith("I;16"):
        # 16-bit grey: Pillow's own conversion would clip instead of scaling.
        values = np.asarray(upright, dtype=np.float32)
        peak = 65535.0 if values.max(initial=0.0) > 255 else 255.0
        grey = (values.clip(0, peak) * (255.0 / peak)).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if upright.has_transparency_data:
        rgba = upright.convert("RGBA")
        ground = Image.new("RGBA", rgba.size, (fill, fill, fill, 255))
        return Image.alpha_composite(ground, rgba).convert("RGB")
    return upright.convert("RGB")


def _fit(image: Image.Image, preprocess: Preprocess) -> Image.Image:
    """Resize to (width, height), antialiased, as `preprocess.resize` says."""
    size = (preprocess.width, preprocess.height)
    resample = _FILTERS[preprocess.interpolation]
    if preprocess.resize == "shortest":
        return ImageOps.fit(image, size, resample)
    if preprocess.resize == "longest":
        grey = (preprocess.fill,) * 3
        return ImageOps.pad(image, size, resample, color=grey)
    return image.resize(size, resample)
