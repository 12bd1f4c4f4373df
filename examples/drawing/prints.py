"""Printed cloth: an all-over motif, or one graphic on the chest."""

import math

import numpy as np
from PIL import Image, ImageDraw

from drawing.colors import GOLD, PAPER, Array, brightness, pick_accent
from drawing.paints import Paint
from drawing.sketch import HEIGHT, SUPERSAMPLING, WIDTH, Pen

SHEET = (WIDTH + 60, HEIGHT + 60)  # of printed cloth; larger, as products may be off centre


def printed(
    rng: np.random.Generator, base: Array, accent: Array, size: float, chest: bool
) -> Paint:
    """An all-over print of dots, flowers or leaves, or one graphic in the middle of the chest."""
    scale = SUPERSAMPLING
    wide, high = SHEET
    sheet = Image.new("RGB", (wide * scale, high * scale), to_tuple(base))
    pen = ImageDraw.Draw(sheet)
    if chest and rng.random() < 0.6:
        print_graphic(pen, rng, accent, pick_accent(rng, accent))
    else:
        motif = [print_dot, print_flower, print_leaf][int(rng.integers(3))]
        second = pick_accent(rng, base)
        pitch = rng.uniform(19, 26) * size
        for row in range(int(high / pitch) + 1):
            for column in range(int(wide / pitch) + 1):
                jitter = rng.uniform(-0.16, 0.16, 2) * (motif is not print_dot)
                x = (column + row % 2 / 2 + jitter[0]) * pitch * scale
                y = (row + jitter[1]) * pitch * scale
                ink = second if motif is not print_dot and rng.random() < 0.3 else accent
                motif(pen, x, y, pitch * scale, ink, rng)
    pixels = np.asarray(sheet, dtype=np.float32)

    def paint(x: Array, y: Array) -> Array:
        column = np.clip((x + wide / 2) * scale, 0, wide * scale - 1).astype(np.intp)
        row = np.clip((y + high / 2) * scale, 0, high * scale - 1).astype(np.intp)
        return np.asarray(pixels[row, column], dtype=np.float32)

    return paint


def to_tuple(color: Array) -> tuple[int, int, int]:
    r, g, b = (int(np.clip(c, 0, 255)) for c in color)
    return r, g, b


def disc(pen: Pen, x: float, y: float, radius: float, color: Array) -> None:
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=to_tuple(color))


def print_dot(
    pen: Pen, x: float, y: float, size: float, ink: Array, rng: np.random.Generator
) -> None:
    disc(pen, x, y, size * 0.24, ink)


def print_flower(
    pen: Pen, x: float, y: float, size: float, ink: Array, rng: np.random.Generator
) -> None:
    start, size = rng.uniform(0, math.tau), size * rng.uniform(0.8, 1.15)
    for petal in range(5):
        angle = start + petal * math.tau / 5
        disc(
            pen,
            x + math.cos(angle) * size * 0.21,
            y + math.sin(angle) * size * 0.21,
            size * 0.17,
            ink,
        )
    disc(pen, x, y, size * 0.12, GOLD if brightness(ink) > 150 else PAPER)


def print_leaf(
    pen: Pen, x: float, y: float, size: float, ink: Array, rng: np.random.Generator
) -> None:
    angle = rng.uniform(0, math.tau)
    for step in np.linspace(-1, 1, 15):
        disc(
            pen,
            x + math.cos(angle) * step * size * 0.42,
            y + math.sin(angle) * step * size * 0.42,
            size * 0.2 * (1 - step * step) + 1,
            ink,
        )


def print_graphic(pen: Pen, rng: np.random.Generator, ink: Array, second: Array) -> None:
    """A badge with a landscape, a star or rings, above two bars that stand for lettering."""
    s = SUPERSAMPLING
    x, y = SHEET[0] / 2 * s, (SHEET[1] / 2 - 30) * s  # the chest is above the middle of the sheet
    radius = rng.uniform(24, 29) * s
    disc(pen, x, y, radius, ink)
    kind = rng.integers(3)
    if kind == 0:
        peaks = [(-0.8, 0.5), (-0.3, -0.35), (0, 0.1), (0.3, -0.55), (0.8, 0.5)]
        pen.polygon([(x + a * radius, y + b * radius) for a, b in peaks], fill=to_tuple(second))
    elif kind == 1:
        spikes = [(math.tau * i / 10, 0.8 if i % 2 == 0 else 0.33) for i in range(10)]
        pen.polygon(
            [(x + math.sin(a) * r * radius, y - math.cos(a) * r * radius) for a, r in spikes],
            fill=to_tuple(second),
        )
    else:
        for share, color in ((0.75, second), (0.5, ink), (0.25, second)):
            disc(pen, x, y, radius * share, color)
    for row, half in ((1.25, 0.9), (1.5, 0.6)):
        top = y + row * radius
        pen.rectangle((x - half * radius, top, x + half * radius, top + 4 * s), fill=to_tuple(ink))
