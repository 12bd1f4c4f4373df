"""Paints: the colour of a piece of cloth at every point of the product."""

import math
from collections.abc import Callable

import numpy as np

from drawing.colors import Array, pick_accent, rgb

Paint = Callable[[Array, Array], Array]  # local x and y of every pixel -> its colour


def solid(color: Array) -> Paint:
    return lambda x, y: np.broadcast_to(color, (*x.shape, 3))


def mix(base: Array, accent: Array, weight: Array) -> Array:
    return base + (accent - base) * weight[..., None]


def striped(
    rng: np.random.Generator, base: Array, accent: Array, angle: float, size: float
) -> Paint:
    """Stripes at `angle` degrees from the horizontal, narrower than the gaps between them."""
    pitch, share = rng.uniform(15, 26) * size, rng.uniform(0.26, 0.36)
    thin = rng.random() < 0.35  # a second, thinner stripe beside each stripe
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))

    def paint(x: Array, y: Array) -> Array:
        phase = (x * s + y * c) / pitch % 1
        on = phase < share
        if thin:
            on |= (phase > share + 0.12) & (phase < share + 0.2)
        return mix(base, accent, on.astype(np.float32))

    return paint


def checked(rng: np.random.Generator, base: Array, accent: Array, size: float) -> Paint:
    """Gingham (crossing bands) or a windowpane plaid with a fine third line."""
    pitch, share = rng.uniform(17, 27) * size, rng.uniform(0.24, 0.32)
    overcheck = pick_accent(rng, base) if rng.random() < 0.5 else None

    def paint(x: Array, y: Array) -> Array:
        across, down = x / pitch % 1, y / pitch % 1
        bands = (across < share).astype(np.float32) + (down < share).astype(np.float32)
        color = mix(base, accent, bands * 0.5)
        if overcheck is not None:
            line = (abs(across - 0.68) < 0.035) | (abs(down - 0.68) < 0.035)
            color = mix(color, overcheck, line.astype(np.float32) * 0.8)
        return color

    return paint


def knitted(paint: Paint, pitch: float = 3.0, depth: float = 0.05) -> Paint:
    """The same paint with fine upright ribs."""
    return lambda x, y: paint(x, y) * (1 + depth * np.sin(x * (math.tau / pitch)))[..., None]


def denim(color: Array) -> Paint:
    """Twill that is washed out along the front of the legs."""

    def paint(x: Array, y: Array) -> Array:
        worn: Array = np.exp(-(((abs(x) - 26) / 11) ** 2) - ((y + 25) / 75) ** 2)
        twill: Array = np.sin((x + y) * 2.2) * 0.035
        return mix(color * (0.94 + twill)[..., None], rgb(215, 225, 235), 0.34 * worn)

    return paint
