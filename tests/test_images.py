"""Pictures: every bad file is a status, every good one the right pixels."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image, ImageOps

from tagger.config import Preprocess
from tagger.images import (
    IMAGE_STATUSES,
    MAX_FILE_BYTES,
    STRIP_ROWS,
    ImageStatus,
    Pixels,
    decode,
    load_pixels,
)

PREPROCESS = Preprocess(height=32, width=24, resize="longest", fill=255)
SQUASH = Preprocess(height=32, width=24, resize="squash", fill=255)
RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixels_of(data: bytes, preprocess: Preprocess = SQUASH) -> Pixels:
    pixels, status = decode(data, preprocess)
    assert status == "ok"
    assert pixels is not None
    assert pixels.shape == (preprocess.height, preprocess.width, 3)
    assert pixels.dtype == np.uint8
    return pixels


def noise(width: int = 30, height: int = 40, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def solid(
    color: tuple[int, ...], size: tuple[int, int] = (30, 40), mode: str = "RGB"
) -> Image.Image:
    return Image.new(mode, size, color)


def png_header(width: int, height: int) -> bytes:
    """A PNG that announces a size and ends where its pixels begin."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 1000) + b"IDAT"


def tiff_exif(*entries: tuple[int, int, bytes]) -> bytes:
    """EXIF of (tag, type, four bytes of value) entries."""
    body = b"".join(struct.pack("<HHI", tag, kind, 1) + value for tag, kind, value in entries)
    head = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries))
    return head + body + bytes(4)


def with_scans(more: int) -> bytes:
    """A progressive JPEG whose last scan comes `more` times again."""
    data = encode(noise(), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + more * last + data[-2:]


BAD_BYTES: dict[str, tuple[bytes, ImageStatus]] = {
    "zero bytes": (b"", "unreadable"),
    "an HTML page": (b"<!doctype html><html><body>404</body></html>", "unreadable"),
    "a truncated JPEG": (encode(noise(), "JPEG")[:-200], "unreadable"),
    "a JPEG's first bytes": (encode(noise(), "JPEG")[:20], "unreadable"),
    "a truncated PNG": (encode(noise())[:-200], "unreadable"),
    "an SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unreadable"),
    "a PostScript program": (b"%!PS-Adobe-3.0\n%%BoundingBox: 0 0 9 9\n", "unreadable"),
    "a header without pixels": (png_header(30, 40), "unreadable"),
    "a bomb's header": (png_header(30_000, 30_000), "too_large"),
    "a JPEG of thousands of scans": (with_scans(3000), "too_large"),
    "a smaller bomb's header": (png_header(11_000, 11_000), "too_large"),
}


@pytest.mark.parametrize("name", BAD_BYTES)
def test_bad_file_is_a_status_whatever_its_name_says(tmp_path: Path, name: str) -> None:
    content, status = BAD_BYTES[name]
    (tmp_path / "a.jpg").write_bytes(content)
    assert load_pixels("a.jpg", tmp_path, PREPROCESS) == (None, status)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
@pytest.mark.parametrize("seed", [0, 2, 3])
def test_damaged_file_of_any_format_never_raises(kind: str, seed: int) -> None:
    exif = {} if kind in ("GIF", "BMP") else {"exif": tiff_exif((0x112, 3, b"\6\0\0\0"))}
    whole = encode(noise(12, 10), kind, **exif)
    rng = np.random.default_rng(seed)
    for _ in range(60):
        damaged = bytearray(whole)
        for place in rng.integers(0, min(len(whole), rng.choice([60, 200, 2000])), 3):
            damaged[place] = rng.integers(0, 256)
        pixels, status = decode(bytes(damaged), PREPROCESS)
        assert (pixels is None) == (status != "ok")
        assert status in IMAGE_STATUSES


def test_jpeg_with_a_film_behind_it_or_a_few_scans_more_is_read() -> None:
    film = b"\xff\xda\0\2" * 3000
    for data in (with_scans(0) + film, encode(noise(), "JPEG", comment=film), with_scans(80)):
        assert decode(data, PREPROCESS)[1] == "ok"


@pytest.mark.parametrize("kind", [2, 5, 7, 11])
def test_photo_with_an_ill_typed_exif_field_never_raises(kind: int) -> None:
    exif = tiff_exif((0x100, kind, b"\1\0\0\0"), (0x112, 3, b"\6\0\0\0"))
    assert decode(encode(noise(), "JPEG", exif=exif), PREPROCESS)[1] in ("ok", "unreadable")


@pytest.mark.parametrize("path", [None, "", "  "])
def test_no_path_is_missing(tmp_path: Path, path: str | None) -> None:
    assert load_pixels(path, tmp_path, PREPROCESS) == (None, "missing")


@pytest.mark.parametrize(
    "path", ["no.jpg", "no/such/a.jpg", "a\0b.jpg", "x" * 5000, "https://example.com/a.jpg"]
)
def test_path_to_nothing_is_not_found(tmp_path: Path, path: str) -> None:
    assert load_pixels(path, tmp_path, PREPROCESS) == (None, "not_found")


@pytest.mark.parametrize(
    "name",
    ["with space.jpg", "ünïcode 漢字.jpg", "new\nline.jpg", " a.jpg", "a,b;'\".jpg", "%20.jpg"],
)
def test_picture_is_found_under_any_name(tmp_path: Path, name: str) -> None:
    noise().save(tmp_path / name, "JPEG")
    assert load_pixels(name, tmp_path, PREPROCESS)[1] == "ok"


@pytest.mark.parametrize("path", ["folder", ".", "folder/"])
def test_directory_is_not_a_file(tmp_path: Path, path: str) -> None:
    (tmp_path / "folder").mkdir()
    assert load_pixels(path, tmp_path, PREPROCESS) == (None, "not_a_file")


def test_fifo_is_not_a_file_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    answers: list[object] = []
    thread = threading.Thread(
        target=lambda: answers.append(load_pixels("a.jpg", tmp_path, PREPROCESS)), daemon=True
    )
    thread.start()
    thread.join(timeout=5)
    assert answers == [(None, "not_a_file")]


def test_huge_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with open(tmp_path / "a.jpg", "wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    assert load_pixels("a.jpg", tmp_path, PREPROCESS) == (None, "too_large")


def test_picture_outside_of_the_root_is_never_opened(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "root2").mkdir()
    for folder in (root, tmp_path, tmp_path / "root2"):
        noise().save(folder / "a.jpg")
    (root / "link.jpg").symlink_to(tmp_path / "a.jpg")
    (root / "up").symlink_to(tmp_path)
    outside = ["../a.jpg", str(tmp_path / "a.jpg"), "link.jpg", "up/a.jpg", "../root2/a.jpg"]
    for path in [*outside, "/etc/passwd", "/dev/zero", "x/../../a.jpg"]:
        assert load_pixels(path, root, PREPROCESS) == (None, "outside_root"), path


def test_detour_that_ends_inside_of_the_root_is_followed(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    noise().save(root / "a.jpg")
    (root / "link.jpg").symlink_to("a.jpg")
    (tmp_path / "alias").symlink_to(root)
    for path in ("sub/../a.jpg", "./a.jpg", str(root / "a.jpg"), "link.jpg", "../alias/a.jpg"):
        assert load_pixels(path, root, PREPROCESS)[1] == "ok", path
        assert load_pixels(path, tmp_path / "alias", PREPROCESS)[1] == "ok", path


def test_links_that_lead_nowhere_are_statuses(tmp_path: Path) -> None:
    (tmp_path / "dangling.jpg").symlink_to("gone.jpg")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    assert load_pixels("dangling.jpg", tmp_path, PREPROCESS) == (None, "not_found")
    assert load_pixels("loop.jpg", tmp_path, PREPROCESS)[0] is None


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("JPEG", "RGB", {"quality": 95}),
        ("JPEG", "CMYK", {"quality": 95}),
        ("PNG", "RGB", {}),
        ("PNG", "P", {}),
        ("PNG", "RGBA", {}),
        ("GIF", "RGB", {}),
        ("WEBP", "RGB", {"lossless": True}),
        ("BMP", "RGB", {}),
    ],
)
def test_color_is_the_same_in_every_format(kind: str, mode: str, options: dict[str, Any]) -> None:
    for color in (RED, BLUE, (0, 128, 0)):
        picture = solid(color)
        picture = picture.quantize(16) if mode == "P" else picture.convert(mode)
        pixels = pixels_of(encode(picture, kind, **options))
        assert np.abs(pixels.astype(int) - color).max() <= 4


@pytest.mark.parametrize("value", [0, 200, 257 * 100, 65535])
def test_16_bit_grey_is_scaled_and_not_clipped(value: int) -> None:
    picture = Image.fromarray(np.full((8, 8), value, np.uint16))
    assert np.abs(pixels_of(encode(picture)).astype(int) - value / 257).max() <= 1


@pytest.mark.parametrize("fill", [0, 127, 255])
def test_transparent_pixels_are_the_fill(fill: int) -> None:
    preprocess = Preprocess(height=8, width=8, resize="squash", fill=fill)
    clear = solid((255, 0, 0, 0), mode="RGBA")
    palette = solid((9,), mode="P")
    palette.putpalette([255, 0, 0] * 256)
    for data in (encode(clear), encode(clear, "WEBP"), encode(palette, transparency=9)):
        assert (pixels_of(data, preprocess) == fill).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_of_a_tall_picture_is_laid_on_the_fill_without_seams(mode: str) -> None:
    image = noise(24, 3 * STRIP_ROWS - 5)
    image.putalpha(noise(*image.size, seed=1).convert("L"))
    image = image.convert(mode) if mode != "P" else image.quantize(30)
    ground = Image.new("RGBA", image.size, (128, 128, 128, 255))
    whole = Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB")
    preprocess = Preprocess(height=image.height, width=image.width, resize="squash", fill=128)
    assert np.array_equal(pixels_of(encode(image), preprocess), np.asarray(whole))


BYTES_A_PIXEL = """
import re, sys
from PIL import Image
from tagger.config import Preprocess
from tagger.images import decode
def most():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
content = open(sys.argv[1], "rb").read()
before = most()
assert decode(content, Preprocess(height=32, width=24, resize="squash"))[1] == "ok"
print((most() - before) / 4000**2)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems tell it otherwise")
@pytest.mark.parametrize(("mode", "most"), [("RGBA", 11), ("RGB", 6), ("I;16", 11)])
def test_large_picture_is_decoded_in_a_few_bytes_a_pixel(
    tmp_path: Path, mode: str, most: float
) -> None:
    (tmp_path / "large.png").write_bytes(encode(Image.new(mode, (4000, 4000))))
    command = [sys.executable, "-c", BYTES_A_PIXEL, str(tmp_path / "large.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout) < most


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_first_frame_of_an_animation_counts(kind: str) -> None:
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    data = encode(solid(RED), kind, save_all=True, append_images=[solid(BLUE)], **options)
    assert (pixels_of(data) == RED).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photo_is_turned_upright(kind: str, orientation: int) -> None:
    turns = Image.Transpose
    stored_as = {
        2: turns.FLIP_LEFT_RIGHT,
        3: turns.ROTATE_180,
        4: turns.FLIP_TOP_BOTTOM,
        5: turns.TRANSPOSE,
        6: turns.ROTATE_90,
        7: turns.TRANSVERSE,
        8: turns.ROTATE_270,
    }
    upright = Image.new("RGB", (48, 64), BLUE)
    upright.paste(RED, (0, 0, 24, 32))
    stored = upright.transpose(stored_as[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x112] = orientation
    pixels = pixels_of(encode(stored, kind, exif=exif, quality=100)).astype(int)
    assert np.abs(pixels[2:14, 2:10] - RED).max() < 40
    for corner in (pixels[18:30, 2:10], pixels[2:14, 14:22], pixels[18:30, 14:22]):
        assert np.abs(corner - BLUE).max() < 40


@pytest.mark.parametrize("mode", ["squash", "longest", "shortest"])
@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (24, 32), (640, 480)])
def test_any_size_fits(
    mode: Literal["squash", "longest", "shortest"], size: tuple[int, int]
) -> None:
    preprocess = Preprocess(height=32, width=24, resize=mode, fill=0)
    pixels = pixels_of(encode(solid(RED, size)), preprocess)
    assert pixels[16, 12, 0] >= 200 or mode == "longest"
    assert pixels[..., 0].max() >= 200


@pytest.mark.parametrize("seed", range(8))
def test_resize_keeps_the_shape_that_its_mode_promises(seed: int) -> None:
    rng = np.random.default_rng(seed)
    width, height = (int(n) for n in rng.integers(20, 300, 2))
    data = encode(solid(RED, (width, height)))
    scale = min(24 / width, 32 / height)

    def red_area(mode: Literal["squash", "longest", "shortest"]) -> tuple[int, int]:
        preprocess = Preprocess(height=32, width=24, resize=mode, fill=0)
        red = pixels_of(data, preprocess)[..., 0] > 127
        return int(red.any(0).sum()), int(red.any(1).sum())

    assert red_area("squash") == (24, 32)
    assert red_area("shortest") == (24, 32)
    kept = red_area("longest")
    assert abs(kept[0] - width * scale) <= 1
    assert abs(kept[1] - height * scale) <= 1


def test_longest_pads_evenly_and_shortest_keeps_the_centre() -> None:
    wide = Image.new("RGB", (96, 32), BLUE)
    wide.paste(RED, (36, 0, 60, 32))
    preprocess = Preprocess(height=32, width=24, resize="shortest")
    assert (pixels_of(encode(wide), preprocess)[:, 2:-2] == RED).all()
    padded = pixels_of(encode(wide), PREPROCESS)
    assert (padded[:12] == 255).all()
    assert (padded[20:] == 255).all()
    assert (padded[12:20] != 255).any(-1).all()


def test_decoding_at_a_fraction_looks_as_decoding_in_full() -> None:
    large = noise(8, 10).resize((120, 160), Image.Resampling.BICUBIC)
    exact = np.asarray(
        ImageOps.pad(large, (24, 32), Image.Resampling.BICUBIC, color=WHITE), dtype=int
    )
    quick = pixels_of(encode(large, "JPEG", quality=95), PREPROCESS).astype(int)
    assert np.abs(quick - exact).mean() < 2


def test_decoding_in_threads_leaves_the_callers_warnings_alone() -> None:
    before = list(warnings.filters)
    data = encode(noise(200, 200), "JPEG")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: decode(data, PREPROCESS), range(300)))
    assert list(warnings.filters) == before


@pytest.mark.parametrize("mode", ["squash", "longest", "shortest"])
@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("size", [(300, 100), (100, 300), (1200, 900)])
def test_scaled_decoding_loses_nothing_to_see(
    mode: Literal["squash", "longest", "shortest"], orientation: int, size: tuple[int, int]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    smooth = noise(3, 4).resize(size, Image.Resampling.BICUBIC)
    data = encode(smooth, "JPEG", quality=95, exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        whole = ImageOps.exif_transpose(image).convert("RGB")
    preprocess = Preprocess(height=32, width=24, resize=mode, fill=0)
    quick = pixels_of(data, preprocess).astype(int)
    exact = pixels_of(encode(whole, "PNG"), preprocess).astype(int)
    assert np.abs(quick - exact).mean() < 1.5
    assert np.abs(quick - exact).max() < 12


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_damaged_exif_leaves_the_picture_as_it_is(kind: str) -> None:
    picture = noise(12, 10)
    damaged = encode(picture, kind, exif=b"Exif\0\0garbage!")
    assert decode(damaged, PREPROCESS)[1] == "ok"
    assert np.array_equal(pixels_of(damaged), pixels_of(encode(picture, kind)))
