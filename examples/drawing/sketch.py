"""A small supersampling painter.

A sketch tilts, scales and shifts the whole product, shades every piece as a soft volume lit from
the upper left, and scales the result down.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw

from drawing.colors import Array
from drawing.outlines import Point, curve
from drawing.paints import Paint, solid

WIDTH, HEIGHT = 240, 320
SUPERSAMPLING = 3

Box = tuple[int, int, int, int]
Dots = list[tuple[float, float]]
Pen = ImageDraw.ImageDraw


def blur(values: Array, radius: float) -> Array:
    """Three box blurs along each axis, which comes close to a Gaussian of that radius."""
    reach = max(1, round(radius))
    width = 2 * reach + 1
    for _ in range(6):  # every pass runs down the columns and turns the picture on its side
        padded = np.pad(values, ((reach + 1, reach), (0, 0)), mode="edge")
        total = np.cumsum(padded, axis=0, dtype=np.float64)
        values = ((total[width:] - total[:-width]).T / width).astype(np.float32)
    return values


def resize(values: Array, width: int, height: int) -> Array:
    image = Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.float32)


class Sketch:
    """A supersampled picture of one product."""

    def __init__(self, rng: np.random.Generator, tilt: float) -> None:
        self.rng = rng
        angle = math.radians(rng.uniform(-tilt, tilt))
        self.scale = rng.uniform(0.98, 1.12) * SUPERSAMPLING
        c, s = math.cos(angle) * self.scale, math.sin(angle) * self.scale
        self.matrix = np.array([[c, -s], [s, c]], dtype=np.float32)
        if rng.random() < 0.5:
            self.matrix[:, 0] *= -1
        shift = rng.uniform(-1, 1, 2) * (7, 5) + (WIDTH / 2, HEIGHT / 2)
        self.offset = (shift * SUPERSAMPLING).astype(np.float32)
        size = (HEIGHT * SUPERSAMPLING, WIDTH * SUPERSAMPLING)
        self.color: Array = np.zeros((*size, 3), dtype=np.float32)
        self.alpha: Array = np.zeros(size, dtype=np.float32)

    def fill(
        self,
        outline: Sequence[Point],
        paint: Paint | Array,
        bulge: float = 8.0,
        folds: float = 0.0,
        turn: float = 0.0,
    ) -> None:
        """Paint a closed piece of cloth: `bulge` rounds its edges, `turn` rotates its pattern."""
        points = curve(outline) @ self.matrix.T + self.offset
        box = self._box(points, 1)
        mask = self._mask(box, lambda pen, dots: pen.polygon(dots, fill=255), points)
        self._paint(box, mask, paint, bulge, folds, turn)

    def strap(self, points: Sequence[Point], paint: Paint | Array, width: float) -> None:
        """Paint a band of even width along the points, rounded like a strap or a cord."""
        line = curve(points, closed=False) @ self.matrix.T + self.offset
        thick = max(1, round(width * self.scale))
        box = self._box(line, thick)

        def draw(pen: Pen, dots: Dots) -> None:
            pen.line(dots, fill=255, width=thick, joint="curve")

        self._paint(box, self._mask(box, draw, line), paint, max(1.0, width / 4))

    def stroke(
        self,
        points: Sequence[Point],
        color: Array,
        width: float = 1.2,
        opacity: float = 1.0,
        stitched: bool = False,
    ) -> None:
        """Draw a line on what is already there: a seam, a crease, or dashes of thread."""
        line = curve(points, closed=False) @ self.matrix.T + self.offset
        thick = max(1, round(width * self.scale))
        box = self._box(line, thick)

        def draw(pen: Pen, dots: Dots) -> None:
            if not stitched:
                pen.line(dots, fill=255, width=thick, joint="curve")
                return
            steps = np.linalg.norm(np.diff(np.array(dots), axis=0), axis=1)
            along = np.concatenate([[0], np.cumsum(steps)])
            for start in np.arange(0, along[-1], 3.6 * self.scale):
                ends = (start, start + 2.2 * self.scale)
                xs, ys = (np.interp(ends, along, axis) for axis in np.array(dots).T)
                pen.line([(xs[0], ys[0]), (xs[1], ys[1])], fill=255, width=thick)

        mask = self._mask(box, draw, line)
        self._blend(box, mask * opacity, np.broadcast_to(color, (*mask.shape, 3)), cover=False)

    def dot(self, x: float, y: float, radius: float, color: Array, bulge: float = 1.0) -> None:
        turns = np.linspace(0, math.tau, 8, endpoint=False)
        self.fill(
            [(x + radius * math.cos(a), y + radius * math.sin(a)) for a in turns], color, bulge
        )

    def finish(self, standing: bool) -> Image.Image:
        """Put the product on its background, with a shadow behind it or on the floor below it."""
        alpha = resize(self.alpha, WIDTH, HEIGHT).clip(0, 1)
        tone = self.rng.uniform(244, 252) + self.rng.uniform(-2, 2, 3)
        fall = np.linspace(1.0, self.rng.uniform(0.955, 0.99), HEIGHT, dtype=np.float32)
        shadow = 0.34 * np.roll(blur(alpha, 5), (4, 3), (0, 1)) + 0.15 * blur(alpha, 2)
        if standing:
            rows = np.flatnonzero(alpha.max(axis=1) > 0.5)
            foot = np.zeros_like(alpha)
            foot[rows[-1] - 5 : rows[-1] + 3] = alpha[rows[-1] - 24 :].max(axis=0)
            shadow = 0.75 * blur(foot, 4) + 0.1 * blur(alpha, 3)
        back = tone * fall[:, None, None] * (1 - np.clip(shadow, 0, 0.8))[..., None]
        small = [resize(np.ascontiguousarray(self.color[..., i]), WIDTH, HEIGHT) for i in range(3)]
        # `color` is zero outside the product, so it already carries the weight of `alpha`.
        picture = np.stack(small, axis=-1) + back * (1 - alpha[..., None])
        return Image.fromarray(picture.clip(0, 255).astype(np.uint8))

    def _box(self, points: Array, margin: int) -> Box:
        low, high = points.min(axis=0) - margin, points.max(axis=0) + margin + 1
        rows, columns = self.alpha.shape
        return (
            max(int(low[0]), 0),
            max(int(low[1]), 0),
            min(int(high[0]), columns),
            min(int(high[1]), rows),
        )

    def _paint(
        self,
        box: Box,
        mask: Array,
        paint: Paint | Array,
        bulge: float,
        folds: float = 0.0,
        turn: float = 0.0,
    ) -> None:
        shade = self._shade(mask, bulge, folds)
        color = (solid(paint) if isinstance(paint, np.ndarray) else paint)(*self._local(box, turn))
        self._blend(box, mask, color * shade + 26 * (shade - 1))

    def _mask(
        self,
        box: Box,
        draw: Callable[[Pen, Dots], None],
        points: Array,
    ) -> Array:
        image = Image.new("L", (box[2] - box[0], box[3] - box[1]))
        draw(ImageDraw.Draw(image), [(float(x), float(y)) for x, y in points - box[:2]])
        return np.asarray(image, dtype=np.float32) / np.float32(255)

    def _shade(self, mask: Array, bulge: float, folds: float) -> Array:
        """Light on a piece: its blurred outline is a height map lit from the upper left."""
        # Light varies slowly, so it is worked out at the size of the final picture.
        high, wide = (max(2, side // SUPERSAMPLING) for side in mask.shape)
        margin = round(2 * bulge) + 2
        height = blur(np.pad(resize(mask, wide, high), margin), bulge)
        height = height[margin:-margin, margin:-margin]
        down, across = np.gradient(height)
        light = 1 + bulge * (0.42 * across + 0.5 * down) - 0.27 * (1 - height)
        if folds:
            cells = (max(2, high // 75 + 1), max(2, wide // 11 + 1))
            crease = resize(self.rng.normal(size=cells).astype(np.float32), wide, high)
            light += folds * np.tanh(crease) * np.linspace(0.6, 1.2, high)[:, None]
        return resize(light.astype(np.float32), mask.shape[1], mask.shape[0])[..., None]

    def _local(self, box: Box, turn: float) -> tuple[Array, Array]:
        """The product's own coordinates of every pixel in the box."""
        x = np.arange(box[0], box[2], dtype=np.float32) - self.offset[0]
        y = np.arange(box[1], box[3], dtype=np.float32) - self.offset[1]
        c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        rotate = np.array([[c, s], [-s, c]], dtype=np.float32)
        (a, b), (d, e) = rotate @ np.linalg.inv(self.matrix)
        return a * x + b * y[:, None], d * x + e * y[:, None]

    def _blend(self, box: Box, mask: Array, color: Array, cover: bool = True) -> None:
        """Lay colour over the picture; without `cover` it only marks what is already there."""
        area = (slice(box[1], box[3]), slice(box[0], box[2]))
        if cover:
            self.alpha[area] = np.maximum(self.alpha[area], mask)
        weight = (mask * self.alpha[area])[..., None]
        self.color[area] += weight * (color.clip(0, 255) - self.color[area])
