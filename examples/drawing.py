"""Draw catalogue packshots: a small supersampling painter and one function per product category.

A product is drawn on a `Sketch` in its own coordinates (origin in the middle of the picture, one
unit per final pixel, y downwards). The sketch tilts, scales and shifts the whole product, shades
every piece as a soft volume lit from the upper left, and scales the result down. Every `draw_*`
function returns the words a shop would use for the shape it chose, for instance "Polo T-shirt".

Everything random comes from the generator given to the sketch, so equal seeds give equal pictures.
"""

import colorsys
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

WIDTH, HEIGHT = 240, 320
SUPERSAMPLING = 3
SHEET = (WIDTH + 60, HEIGHT + 60)  # of printed cloth; larger, as products may be off centre

Array = NDArray[np.float32]
Point = tuple[float, ...]  # x, y and optionally a softness: 0 makes the point a sharp corner
Paint = Callable[[Array, Array], Array]  # local x and y of every pixel -> its colour
Box = tuple[int, int, int, int]
Dots = list[tuple[float, float]]
Pen = ImageDraw.ImageDraw

# Label -> hue in degrees, saturation and value, each as a range.
COLORS: dict[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "Black": ((200, 260), (0.00, 0.12), (0.10, 0.16)),
    "White": ((30, 60), (0.00, 0.03), (0.93, 0.98)),
    "Blue": ((202, 220), (0.55, 0.85), (0.62, 0.90)),
    "Navy Blue": ((220, 234), (0.50, 0.68), (0.22, 0.33)),
    "Red": ((353, 361), (0.78, 0.92), (0.68, 0.85)),
    "Green": ((100, 155), (0.50, 0.80), (0.42, 0.68)),
    "Pink": ((330, 348), (0.34, 0.62), (0.90, 0.98)),
    "Yellow": ((46, 53), (0.65, 0.88), (0.92, 0.99)),
    "Grey": ((200, 240), (0.00, 0.05), (0.45, 0.64)),
    "Brown": ((19, 29), (0.45, 0.65), (0.32, 0.48)),
    "Purple": ((270, 288), (0.45, 0.68), (0.42, 0.62)),
    "Orange": ((18, 27), (0.78, 0.90), (0.92, 0.98)),
}


def rgb(*values: float) -> Array:
    return np.array(values, dtype=np.float32)


INK, PAPER, SILVER, GOLD = (
    rgb(28, 28, 32),
    rgb(244, 243, 240),
    rgb(190, 193, 198),
    rgb(206, 170, 92),
)


def pick_color(rng: np.random.Generator, label: str) -> Array:
    """One colour out of the range that a shop gives this label."""
    (hue, saturation, value) = (rng.uniform(*limits) for limits in COLORS[label])
    return rgb(*(255 * c for c in colorsys.hsv_to_rgb(hue / 360 % 1, saturation, value)))


def brightness(color: Array) -> float:
    return float(color @ rgb(0.30, 0.59, 0.11))


def pick_accent(rng: np.random.Generator, base: Array) -> Array:
    """A second colour that stands out from the base even in a thumbnail."""
    if brightness(base) < 170 and rng.random() < 0.5:
        return PAPER
    candidates = [pick_color(rng, label) for label in COLORS]
    clear = [c for c in candidates if abs(brightness(c) - brightness(base)) > 75]
    return clear[int(rng.integers(len(clear)))]


# --- paints -----------------------------------------------------------------------------------


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


@dataclass(frozen=True)
class Look:
    """What a product is made of: its colour, a contrasting one, and the patterned cloth."""

    base: Array
    accent: Array
    cloth: Paint

    def shade(self, factor: float) -> Array:
        # The lift keeps seams and trims of black products visible.
        lift = 14 if factor > 1 else 0
        return rgb(*np.clip(self.base * factor + lift, 0, 255))

    def contrast(self) -> Array:
        """For buttons, laces and cords: white on most colours, a darker shade on pale ones."""
        return PAPER if brightness(self.base) < 190 else self.shade(0.55)


def make_look(
    rng: np.random.Generator,
    color: str,
    pattern: str,
    angle: float = 0,
    size: float = 1,
    chest: bool = False,
) -> Look:
    """Choose the colours and the cloth for a colour label and a pattern label ("" is plain)."""
    base = pick_color(rng, color)
    accent = pick_accent(rng, base)
    cloth = solid(base)
    if pattern == "Striped":
        cloth = striped(rng, base, accent, angle, size)
    elif pattern == "Checked":
        cloth = checked(rng, base, accent, size)
    elif pattern == "Printed":
        cloth = printed(rng, base, accent, size, chest)
    return Look(base, accent, cloth)


# --- the painter ------------------------------------------------------------------------------


def curve(points: Sequence[Point], closed: bool = True) -> Array:
    """A smooth line through the points, straight into every point with softness 0."""
    xy = np.array([p[:2] for p in points], dtype=np.float32)
    soft = np.array([p[2] if len(p) > 2 else 1.0 for p in points], dtype=np.float32)
    before, after = np.roll(xy, 1, axis=0), np.roll(xy, -1, axis=0)
    if not closed:
        before[0], after[-1] = xy[0], xy[-1]
    length = np.linalg.norm(after - xy, axis=1)
    around = length + np.linalg.norm(xy - before, axis=1)
    direction = (after - before) * (soft / np.maximum(around, 1e-6))[:, None]
    t = np.linspace(0, 1, 14, endpoint=False, dtype=np.float32)[None, :, None]
    start, end = xy[:, None], after[:, None]
    leave = (direction * length[:, None])[:, None]
    arrive = (np.roll(direction, -1, axis=0) * length[:, None])[:, None]
    line = (
        (2 * t**3 - 3 * t**2 + 1) * start
        + (t**3 - 2 * t**2 + t) * leave
        + (3 * t**2 - 2 * t**3) * end
        + (t**3 - t**2) * arrive
    )
    if closed:
        return np.asarray(line.reshape(-1, 2), dtype=np.float32)
    return np.concatenate([line[:-1].reshape(-1, 2), xy[-1:]]).astype(np.float32)


def flip(points: Sequence[Point], side: int) -> list[Point]:
    """The piece itself for side 1, its counterpart on the other side of the product for -1."""
    return [(side * p[0], *p[1:]) for p in points]


def mirror(half: Sequence[Point]) -> list[Point]:
    """The full outline of a symmetric piece from its right half, listed from top to bottom."""
    left = [(-p[0], *p[1:]) for p in reversed(half) if p[0] != 0]
    return [*half, *left]


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

    def __init__(self, rng: np.random.Generator, tilt: float = 4.0) -> None:
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


# Outlines read better as rows of points than with one argument on every line.
# fmt: off
# --- garments ---------------------------------------------------------------------------------


def draw_sleeves(
    s: Sketch, look: Look, top: float, shoulder: float, length: str, cuff: Paint | Array,
) -> None:
    if length == "none":
        return
    reach = s.rng.uniform(-4, 5)
    for side in (1, -1):
        if length == "short":
            end: list[Point] = [(shoulder + 33 + reach, top + 60 + reach, 0),
                                (shoulder + 13, top + 72 + reach, 0)]
            outer, inner = (shoulder + 22, top + 38), (shoulder + 2, top + 60)
        else:
            end = [(shoulder + 31 + reach, top + 176, 0), (shoulder + 15 + reach, top + 180, 0)]
            outer, inner = (shoulder + 24, top + 80), (shoulder + 7, top + 105)
        outline: list[Point] = [(shoulder - 5, top + 11, 0), (shoulder + 12, top + 23), outer,
                                *end, inner, (shoulder - 7, top + 48, 0)]
        turn = (42 if length == "short" else 10) * side
        s.fill(flip(outline, side), look.cloth, 8, 0.13, turn)
        if length == "short":
            s.stroke([(side * x, y - 5) for x, y, _ in end], look.shade(0.72), 0.9)
        else:
            (x1, y1, _), (x2, y2, _) = end
            s.fill(flip([(x1 - 2, y1 - 12, 0), (x1, y1, 0), (x2 + 1, y2 + 2, 0),
                         (x2 - 1, y2 - 11, 0)], side), cuff, 3)


def draw_body(
    s: Sketch, look: Look, *, top: float, shoulder: float, length: float, flare: float,
    neck: tuple[float, float], pointed: bool = False, sleeves: str = "short", hem: float = 3,
    cuff: Paint | Array | None = None,
) -> None:
    """The torso of an upper garment, with the inside of its back below the neckline."""
    wide, deep = neck
    draw_sleeves(s, look, top, shoulder, sleeves, look.shade(0.85) if cuff is None else cuff)
    inside = [(0, top - 5), (wide, top, 0), (wide - 2, top + 8), (0, top + deep + 3)]
    s.fill(mirror(inside), look.shade(0.55), 3)
    s.fill([(-6, top - 1, 0), (6, top - 1, 0), (6, top + 5, 0), (-6, top + 5, 0)], PAPER, 1)
    bottom = top + length
    half: list[Point] = [(0, top + deep, 0 if pointed else 1)]
    if not pointed:
        half.append((wide * 0.72, top + deep * 0.66))
    half += [(wide, top, 0), (shoulder, top + 12, 0), (shoulder - 6, top + 34),
             (shoulder - 3, top + 52, 0), (shoulder - 4, top + length * 0.6),
             (shoulder + flare, bottom - max(hem, 0) * 0.8, 0), (0, bottom + 3)]
    s.fill(mirror(half), look.cloth, 11, 0.13)
    for side in (1, -1):
        if sleeves != "none":
            seam = [(shoulder, top + 12), (shoulder - 6, top + 34), (shoulder - 3, top + 52)]
            s.stroke([(side * x, y) for x, y in seam], look.shade(0.7), 1)


def draw_neckband(
    s: Sketch, color: Array, top: float, neck: tuple[float, float], pointed: bool,
) -> None:
    wide, deep = neck
    turn: list[Point] = [(0, top + deep, 0)]
    if not pointed:
        side, low = wide * 0.72, top + deep * 0.66
        turn = [(-side, low), (0, top + deep), (side, low)]
    s.strap([(-wide, top), *turn, (wide, top)], color, 5)


def draw_collar(s: Sketch, color: Array, top: float, wide: float, drop: float) -> None:
    s.fill(mirror([(0, top - 7), (wide + 2, top - 5), (wide + 3, top + 6, 0), (0, top + 3)]),
           color, 3)
    for side in (1, -1):
        leaf = [(1, top + 12, 0), (wide + 1, top - 6, 0), (wide + 6, top + 8),
                (wide - 1, top + 12 + drop, 0)]
        s.fill(flip(leaf, side), color, 3)


def draw_buttons(s: Sketch, top: float, bottom: float, count: int, color: Array) -> None:
    for y in np.linspace(top, bottom, count):
        s.dot(0, float(y), 1.9, color)


def draw_tshirt(s: Sketch, look: Look) -> str:
    styles = ("Round Neck T-shirt", "V-Neck T-shirt", "Polo T-shirt")
    style = styles[int(s.rng.choice(3, p=[0.5, 0.2, 0.3]))]
    pointed = style == "V-Neck T-shirt"
    top, shoulder, wide = -96.0, s.rng.uniform(46, 55), s.rng.uniform(17, 22)
    neck = (wide, 34.0 if pointed else s.rng.uniform(13, 20))
    length = s.rng.uniform(162, 188)
    draw_body(s, look, top=top, shoulder=shoulder, length=length, flare=s.rng.uniform(-4, 6),
              neck=neck, pointed=pointed)
    trim = look.accent if s.rng.random() < 0.25 else look.shade(0.8)
    if style == "Polo T-shirt":
        s.fill([(-6, top + 8, 0), (6, top + 8, 0), (6, top + 58, 0), (-6, top + 58, 0)],
               look.shade(0.93), 2)
        draw_buttons(s, top + 26, top + 52, 3, look.contrast())
        draw_collar(s, trim, top, wide, 14)
    else:
        draw_neckband(s, trim, top, neck, pointed)
    hem = top + length - 5
    s.stroke([(-shoulder + 3, hem - 1), (0, hem + 2), (shoulder - 3, hem - 1)], look.shade(0.75),
             0.9)
    return style


def draw_shirt(s: Sketch, look: Look) -> str:
    sleeves = "long" if s.rng.random() < 0.65 else "short"
    top, shoulder, wide = -108.0, s.rng.uniform(47, 53), 16.0
    length = s.rng.uniform(188, 206)
    draw_body(s, look, top=top, shoulder=shoulder, length=length, flare=s.rng.uniform(-2, 4),
              neck=(wide, 22.0), pointed=True, sleeves=sleeves, hem=18)
    seam = look.shade(0.68)
    for x in (-5.5, 5.5):
        s.stroke([(x, top + 16), (x, top + length)], seam, 0.9)
    draw_buttons(s, top + 30, top + length - 22, 7, look.contrast())
    for side in (1, -1) if s.rng.random() < 0.4 else (1,):
        x, y = side * 27, top + 62
        pocket: list[Point] = [(x - 12, y, 0), (x + 12, y, 0), (x + 12, y + 24, 0), (x, y + 29, 0),
                               (x - 12, y + 24, 0), (x - 12, y, 0)]
        s.stroke(pocket, seam, 1.1)
    draw_collar(s, look.shade(0.94), top, wide, 18)
    return "Casual Shirt" if sleeves == "short" or s.rng.random() < 0.5 else "Formal Shirt"


def draw_sweater(s: Sketch, look: Look) -> str:
    pointed = s.rng.random() < 0.45
    top, shoulder, wide = -104.0, s.rng.uniform(49, 55), s.rng.uniform(17, 21)
    neck = (wide, 36.0 if pointed else 15.0)
    length = s.rng.uniform(168, 186)
    knit = Look(look.base, look.accent, knitted(look.cloth))
    rib = knitted(solid(look.accent if s.rng.random() < 0.2 else look.shade(0.84)), 4, 0.13)
    draw_body(s, knit, top=top, shoulder=shoulder, length=length, flare=1, neck=neck,
              pointed=pointed, sleeves="long", cuff=rib)
    low = top + length
    s.fill(mirror([(0, low - 13), (shoulder + 1, low - 16, 0), (shoulder - 3, low + 2, 0),
                   (0, low + 5)]), rib, 4)
    draw_neckband(s, look.shade(0.8), top, neck, pointed)
    draw_neckband(s, look.shade(0.68), top + 4, (wide + 3, neck[1]), pointed)
    return "V-Neck Sweater" if pointed else "Sweater"


def draw_dress(s: Sketch, look: Look) -> str:
    top, shoulder, waist = -122.0, s.rng.uniform(30, 36), s.rng.uniform(25, 30)
    wide, deep = s.rng.uniform(16, 22), s.rng.uniform(16, 30)
    bottom, flare = s.rng.uniform(88, 126), s.rng.uniform(52, 84)
    if s.rng.random() < 0.5:
        draw_sleeves(s, look, top - 4, shoulder + 3, "short", look.cloth)
    inside = [(0, top + 8), (wide, top, 0), (wide, top + deep * 0.7), (0, top + deep + 3)]
    s.fill(mirror(inside), look.shade(0.55), 3)
    bodice = [(0, top + deep), (wide * 0.75, top + deep * 0.7), (wide, top, 0),
              (shoulder, top + 4, 0), (shoulder - 3, top + 28), (shoulder + 3, top + 44, 0),
              (waist, -34, 0), (0, -31)]
    s.fill(mirror(bodice), look.cloth, 9, 0.08)
    skirt = [(0, -36), (waist, -37, 0), (waist + 9, -18), ((waist + flare) / 2 + 3, 40),
             (flare, bottom - 8, 0), (flare / 2, bottom + 1), (0, bottom + 3)]
    s.fill(mirror(skirt), look.cloth, 10, 0.2)
    draw_pleats(s, look, (-waist + 3, waist - 3, -30), (-flare + 7, flare - 7, bottom))
    belt = look.accent if s.rng.random() < 0.3 else look.shade(0.74)
    s.strap([(-waist, -36), (0, -33), (waist, -36)], belt, s.rng.uniform(3, 7))
    return "Dress"


def draw_pleats(
    s: Sketch, look: Look, above: tuple[float, float, float], below: tuple[float, float, float],
) -> None:
    """Soft creases that fan out from the waist; each is a (left, right, height) span."""
    for share in np.linspace(0.08, 0.92, int(s.rng.integers(4, 8))):
        x1, x2 = (left + (right - left) * share for left, right, _ in (above, below))
        end = above[2] + (below[2] - above[2]) * s.rng.uniform(0.6, 0.98)
        s.stroke([(x1, above[2]), ((x1 + x2) / 2, (above[2] + end) / 2), (x2, end)],
                 look.shade(0.5), 1.4, 0.3)
        s.stroke([(x1 - 2, above[2]), ((x1 + x2) / 2 - 2, (above[2] + end) / 2), (x2 - 2, end)],
                 PAPER, 1.2, 0.16)


def draw_skirt(s: Sketch, look: Look) -> str:
    waist, flare = s.rng.uniform(36, 42), s.rng.uniform(64, 92)
    top, bottom = -78.0, s.rng.uniform(45, 92)
    s.fill(mirror([(0, top - 3), (waist, top - 5, 0), (waist - 3, top + 9), (0, top + 10)]),
           look.shade(0.5), 3)
    half = [(0, top + 4), (waist, top - 4, 0), (waist + 12, top + 32), (flare, bottom - 9, 0),
            (flare / 2, bottom), (0, bottom + 3)]
    s.fill(mirror(half), look.cloth, 10, 0.18)
    draw_pleats(s, look, (-waist + 4, waist - 4, top + 16), (-flare + 8, flare - 8, bottom))
    s.strap([(-waist, top + 2), (0, top + 9), (waist, top + 2)], look.shade(0.82), 10)
    s.dot(waist - 12, top + 6, 2.2, SILVER)
    return "Skirt"


def draw_legs(s: Sketch, look: Look, cloth: Paint, bottom: float, hip: float, hem: float) -> float:
    """Two legs and a waistband; returns the height of the waist."""
    top, crotch = -128.0 if bottom > 60 else -84.0, -52.0 if bottom > 60 else -14.0
    waist, gap = hip * 0.82, 3.0 if bottom > 60 else 7.0
    s.fill(mirror([(0, top + 2), (waist, top - 2, 0), (waist, top + 12, 0), (0, top + 14)]),
           look.shade(0.5), 3)
    for side in (1, -1):
        leg = [(-1, top + 8, 0), (waist, top, 0), (hip, top + 40),
               (gap + hem * 1.6 + 4, bottom, 0), (gap + 3, bottom + 3, 0), (1, crotch + 3, 0),
               (-1, crotch, 0)]
        s.fill(flip(leg, side), cloth, 9, 0.13)
        s.stroke([(side * (gap + 5), bottom - 6), (side * (gap + hem * 1.6 + 2), bottom - 8)],
                 look.shade(0.7), 1)
    s.stroke([(0, top + 8), (0, crotch)], look.shade(0.6), 1.2)
    s.strap([(-waist, top + 3), (0, top + 9), (waist, top + 3)], look.shade(0.9), 11)
    for x in (-0.75, -0.32, 0.32, 0.75):
        y = top + 9 - 6 * abs(x)
        s.strap([(x * waist, y - 6), (x * waist, y + 7)], look.shade(0.78), 3.4)
    return top


def draw_trousers(s: Sketch, look: Look) -> str:
    hip = s.rng.uniform(44, 52)
    top = draw_legs(s, look, look.cloth, s.rng.uniform(112, 128), hip, s.rng.uniform(17, 24))
    for side in (1, -1):
        s.stroke([(side * hip * 0.62, top + 14), (side * hip * 0.94, top + 46)], look.shade(0.62),
                 1.3)
        crease = [(side * hip * 0.5, top + 30), (side * hip * 0.55, 0), (side * hip * 0.5, 108)]
        s.stroke(crease, look.shade(0.6), 1.2, 0.7)
        s.stroke([(x - 1.6, y) for x, y in crease], PAPER, 1.2, 0.16)
    s.dot(0, top + 9, 2.2, look.shade(0.5))
    return "Trousers"


def draw_shorts(s: Sketch, look: Look) -> str:
    hip = s.rng.uniform(62, 72)
    top = draw_legs(s, look, look.cloth, s.rng.uniform(24, 58), hip, s.rng.uniform(37, 45))
    for side in (1, -1):
        s.stroke([(side * hip * 0.6, top + 15), (side * hip * 0.95, top + 48)], look.shade(0.62),
                 1.4)
    if s.rng.random() < 0.6:
        cord = look.contrast()
        for side in (1, -1):
            s.strap([(0, top + 10), (side * 5, top + 22), (side * 4, top + 38)], cord, 2.2)
    return "Shorts"


def draw_jeans(s: Sketch, look: Look) -> str:
    style = ["Slim Fit Jeans", "Jeans", "Bootcut Jeans"][int(s.rng.integers(3))]
    hip = s.rng.uniform(45, 51)
    hem = {"Slim Fit Jeans": 15.0, "Jeans": 20.0, "Bootcut Jeans": 27.0}[style]
    top = draw_legs(s, look, denim(look.base), s.rng.uniform(114, 128), hip, hem)
    thread = rgb(214, 150, 72)
    for side in (1, -1):
        pocket = [(side * hip * 0.42, top + 15), (side * hip * 0.5, top + 31),
                  (side * hip * 0.92, top + 37)]
        s.stroke(pocket, look.shade(0.55), 1.6)
        s.stroke([(x, y + 3) for x, y in pocket], thread, 1, stitched=True)
        s.stroke([(side * 7, 120), (side * 7, 60), (side * 3, -40)], thread, 0.9, 0.6,
                 stitched=True)
        s.dot(*pocket[0], 1.6, GOLD)
    s.stroke([(9, top + 15), (9, -72), (0, -58)], thread, 1.1, stitched=True)
    s.stroke([(-hip * 0.8, top + 9), (0, top + 14), (hip * 0.8, top + 9)], thread, 1, stitched=True)
    s.dot(0, top + 9, 2.6, GOLD)
    return style


# --- accessories ------------------------------------------------------------------------------


def draw_tie(s: Sketch, look: Look) -> str:
    wide = s.rng.uniform(19, 26)
    s.fill([(-5, -100, 0), (6, -100, 0), (wide * 0.55, 92, 0), (wide * 0.2, 104, 0), (-4, 92, 0)],
           look.shade(0.6), 4)
    blade = [(0, -112, 0), (8, -108, 0), (wide, 96, 0), (0, 128, 0)]
    s.fill(mirror(blade), look.cloth, 5, 0.07)
    s.stroke([(-6, -92), (1, -70), (2, -40)], look.shade(0.5), 1.4, 0.45)
    s.fill(mirror([(0, -136, 0), (15, -134, 0), (9, -104, 0), (0, -102)]), look.cloth, 5, 0.05, 30)
    return "Tie"


def draw_cap(s: Sketch, look: Look) -> str:
    s.offset += s.matrix @ rgb(24, 0)  # the peak makes it lopsided
    crown = [(-56, 26, 0), (-60, 0), (-42, -42), (0, -60), (44, -44), (64, 0), (60, 36, 0), (0, 30)]
    s.fill([(44, 10, 0), (66, 6, 0), (66, 36, 0), (40, 40, 0)], look.shade(0.7), 3)
    s.fill(crown, look.cloth, 14, 0.06)
    for seam in ([(0, -60), (-18, -20), (-20, 30)], [(0, -60), (30, -22), (36, 32)]):
        s.stroke(seam, look.shade(0.68), 1.3)
        s.stroke([(x + 2.4, y) for x, y in seam], look.shade(1.2), 0.9, stitched=True)
    for x, y in ((-38, -22), (8, -28), (48, -16)):
        s.dot(x, y, 2.2, look.shade(0.5))
    s.dot(0, -60, 5, look.shade(0.85), 2)
    brim = [(-58, 18, 0), (-30, 20), (10, 32, 0), (-16, 48), (-66, 58), (-108, 50), (-112, 42),
            (-88, 24)]
    s.fill([(x, y + 4, *soft) for x, y, *soft in brim], look.shade(0.55), 3)
    s.fill(brim, look.shade(0.95), 7)
    for inset in (0.86, 0.7):
        s.stroke([(-44 + (x + 44) * inset, 32 + (y - 32) * inset) for x,
                  y in ((10, 36), (-16, 48), (-66, 58), (-108, 48))], look.shade(0.7),
                  0.9, stitched=True)
    if s.rng.random() < 0.6:
        s.fill([(-50, -14, 0), (-34, -20, 0), (-26, -2, 0), (-44, 2, 0)], look.accent, 2)
    return "Cap"


def draw_watch(s: Sketch, look: Look) -> str:
    metal = GOLD if s.rng.random() < 0.3 else SILVER
    wide, radius = s.rng.uniform(18, 23), s.rng.uniform(39, 47)
    for side in (1, -1):
        band = [(0, 30), (wide, 30, 0), (wide - 5, 128, 0), (wide - 9, 134), (0, 136)]
        s.fill([(x, side * y, *soft) for x, y, *soft in mirror(band)], look.base, 6)
        for x in (-wide + 5, wide - 5):
            s.stroke([(x, side * 46), (x * 0.8, side * 126)], look.shade(1.25), 0.9, 0.8,
                     stitched=True)
        for y in (92, 104, 116):
            s.dot(0, y, 1.7, look.shade(0.4))
    s.fill([(radius, -5, 0), (radius + 8, -5, 0), (radius + 8, 5, 0), (radius, 5, 0)], metal, 2)
    s.dot(0, 0, radius + 3, metal, 5)
    s.dot(0, 0, radius - 4, look.shade(0.5), 2)
    s.dot(0, 0, radius - 6, look.base, 5)
    ink = PAPER if brightness(look.base) < 150 else INK
    for hour in range(12):
        a = math.tau * hour / 12
        inner = radius - (17 if hour % 3 == 0 else 13)
        s.stroke([(inner * math.sin(a), inner * math.cos(a)),
                  ((radius - 9) * math.sin(a), (radius - 9) * math.cos(a))], ink, 2.2)
    for share, angle, width in ((0.42, s.rng.uniform(0, 6), 3.0), (0.62, s.rng.uniform(0, 6), 2.0)):
        s.stroke([(0, 0), (radius * share * math.sin(angle), radius * share * math.cos(angle))],
                 ink, width)
    s.dot(0, 0, 3, metal)
    return "Watch"


def draw_handbag(s: Sketch, look: Look) -> str:
    tote = s.rng.random() < 0.5
    metal = GOLD if s.rng.random() < 0.6 else SILVER
    trim = look.shade(0.62)
    top, bottom = s.rng.uniform(-28, -14), s.rng.uniform(68, 84)
    upper, lower = (s.rng.uniform(68, 80), s.rng.uniform(56, 66))[:: 1 if tote else -1]
    rise = s.rng.uniform(58, 72) if tote else s.rng.uniform(40, 54)
    for lift, color in ((9, look.shade(0.45)), (0, trim)):  # the far handle, then the near one
        s.strap([(-30, top + 6), (-26, top - rise * 0.7 - lift), (0, top - rise - lift),
                 (26, top - rise * 0.7 - lift), (30, top + 6)], color, 6.5)
    body = [(0, top - 2), (upper, top, 0), ((upper + lower) / 2 + 3, bottom - 20),
            (lower, bottom, 0), (0, bottom + 4)]
    s.fill(mirror(body), look.cloth, 13, 0.05)
    if tote:
        s.strap([(-upper + 2, top + 3), (0, top + 2), (upper - 2, top + 3)], trim, 6)
        for x in (-30, 30):
            s.fill([(x - 6, top - 2, 0), (x + 6, top - 2, 0), (x + 5, top + 24), (x, top + 29),
                    (x - 5, top + 24)], trim, 3)
            s.dot(x, top + 18, 2.6, metal)
    else:
        flap = [(0, top - 3), (upper + 1, top - 1, 0), (upper, top + 30), (upper - 16, top + 46),
                (0, top + 50)]
        s.fill(mirror(flap), look.cloth, 8)
        s.stroke([(-upper + 4, top + 28), (-upper + 18, top + 43), (0, top + 46),
                  (upper - 18, top + 43), (upper - 4, top + 28)], trim, 1, stitched=True)
        s.fill([(-9, top + 36, 0), (9, top + 36, 0), (9, top + 58, 0), (-9, top + 58, 0)], metal, 3)
        s.fill([(-4, top + 42, 0), (4, top + 42, 0), (4, top + 52, 0), (-4, top + 52, 0)], trim, 2)
    s.stroke([(-lower + 4, bottom - 6), (0, bottom - 2), (lower - 4, bottom - 6)], trim, 1.1,
             stitched=True)
    return "Tote Bag" if tote else "Handbag"


def draw_backpack(s: Sketch, look: Look) -> str:
    wide, top, bottom = s.rng.uniform(56, 66), s.rng.uniform(-98, -88), s.rng.uniform(80, 96)
    dark = look.shade(0.55)
    zipper = PAPER if brightness(look.base) < 60 else look.shade(0.4)
    for side in (1, -1):
        s.strap([(side * 22, top + 8), (side * (wide + 10), top + 60),
                 (side * (wide + 9), bottom - 40), (side * (wide - 8), bottom - 8)], dark, 8)
    s.strap([(-14, top + 6), (-12, top - 14), (12, top - 14), (14, top + 6)], dark, 6)
    body = [(0, top), (wide * 0.62, top + 7), (wide - 2, top + 44), (wide, bottom - 30),
            (wide - 7, bottom, 0.5), (0, bottom + 3)]
    s.fill(mirror(body), look.cloth, 17, 0.05)
    arch = [(wide * 0.86, top + 88), (wide * 0.84, top + 48), (wide * 0.5, top + 17), (0, top + 12)]
    s.stroke([*arch, *((-x, y) for x, y in reversed(arch[:-1]))], zipper, 1.8)
    mid = s.rng.uniform(-4, 12)
    pocket = [(0, mid), (wide * 0.72, mid + 4), (wide * 0.84, mid + 22),
              (wide * 0.82, bottom - 12, 0.4), (0, bottom - 8)]
    s.fill([(x, y + 2, *soft) for x, y, *soft in mirror(pocket)], dark, 3)
    s.fill(mirror(pocket), look.cloth, 9, 0.04)
    s.stroke([(-wide * 0.66, mid + 16), (0, mid + 12), (wide * 0.66, mid + 16)], zipper, 1.8)
    s.strap([(wide * 0.5, mid + 14), (wide * 0.5, mid + 26)], look.accent, 3)
    s.fill([(-10, mid + 36, 0), (10, mid + 36, 0), (10, mid + 50, 0), (-10, mid + 50, 0)],
           look.accent, 2)
    return "Backpack"


# --- shoes ------------------------------------------------------------------------------------


def draw_casual_shoe(s: Sketch, look: Look) -> str:
    """A sneaker from the side, its toe to the left."""
    rise = 26.0 if s.rng.random() < 0.3 else 0.0
    sole = PAPER if brightness(look.base) < 225 else rgb(196, 172, 140)
    back = -32 - rise
    s.fill([(-2, -40 - rise, 0), (45, back - 3), (86, back + 3, 0), (70, 0, 0), (16, -4, 0)],
           look.shade(0.42), 3)
    s.fill([(-26, -22, 0), (-20, -50 - rise), (0, -56 - rise), (12, -32, 0)], look.shade(0.85), 4)
    upper = [(-92, 34, 0), (-90, 20), (-72, 7), (-44, -4), (-16, -28 - rise / 2, 0.5),
             (0, -42 - rise, 0), (22, -25 - rise), (56, -20 - rise), (86, back, 0.3), (87, -6),
             (92, 30, 0), (0, 40, 0)]
    s.fill(upper, look.cloth, 10, 0.06)
    s.fill([(72, back + 7, 0), (86, back, 0), (87, -6), (92, 30, 0), (76, 32, 0), (71, 0)],
           look.shade(0.72), 4)
    if s.rng.random() < 0.55:
        s.fill([(-93, 36, 0), (-91, 19), (-72, 6, 0), (-61, 14), (-57, 37, 0)], sole, 6)
    else:
        s.stroke([(-70, 7), (-59, 18), (-56, 36)], look.shade(0.6), 1.3, stitched=True)
    for shift in range(int(s.rng.integers(0, 4))):
        s.stroke([(10 + 13 * shift, -13), (-2 + 13 * shift, 32)], look.accent, 5)
    eyelets = [(-33 + 8 * i, 1 - (8.5 + rise / 5) * i) for i in range(5)]
    s.stroke([(x + 7, y + 3) for x, y in eyelets], look.shade(0.65), 1.2)
    lace = look.contrast()
    for x, y in eyelets:
        s.strap([(x + 7, y + 1), (x - 9, y - 5)], lace, 3.4)
    s.fill([(-93, 30, 0), (-97, 38), (-88, 47, 0), (90, 47, 0), (96, 38), (92, 25, 0), (40, 34),
            (0, 36), (-50, 33)], sole, 5)
    s.stroke([(-90, 40), (0, 43), (92, 38)], look.base, 2)
    return "High Top Casual Shoes" if rise else "Casual Shoes"


def draw_heels(s: Sketch, look: Look) -> str:
    """A pump from the side, its toe to the left."""
    block = s.rng.uniform(4, 11)
    lift = s.rng.uniform(-14, 0)
    s.fill([(52, 0, 0), (84, -12, 0), (78 + block * 0.3, 58, 0), (78 - block, 58, 0), (66, 16)],
           look.shade(0.75), 4)
    inside = [(-46, 21, 0), (-14, 15), (30, -12), (76, -46 + lift, 0), (60, 2), (0, 42), (-38, 36)]
    s.fill(inside, look.shade(0.45), 3)
    upper = [(-98, 53, 0), (-78, 36), (-42, 19, 0.3), (-30, 30), (10, 28), (52, -18),
             (76, -48 + lift, 0.2), (88, -20), (86, 2, 0), (60, 10), (14, 44), (-30, 56),
             (-96, 58, 0)]
    s.fill(upper, look.cloth, 9)
    s.stroke([(-97, 57), (-30, 58), (14, 47), (60, 12), (84, 3)], look.shade(0.4), 3)
    if s.rng.random() < 0.4:
        for side in (1, -1):
            s.fill([(-48, 22, 0), (-48 + side * 15, 12, 0), (-48 + side * 15, 30, 0)],
                   look.shade(0.85), 3)
        s.dot(-48, 21, 3.6, look.shade(0.7), 2)
    return "Heels"


def draw_flip_flops(s: Sketch, look: Look) -> str:
    """A pair seen from above, toes up."""
    band = look.accent if s.rng.random() < 0.5 else look.shade(0.6)
    spread, wide = s.rng.uniform(34, 40), s.rng.uniform(0.94, 1.1)
    edge = PAPER if s.rng.random() < 0.4 and brightness(look.base) < 200 else look.shade(0.6)
    for side in (1, -1):

        def place(points: Sequence[Point], side: int = side) -> list[Point]:
            return [(side * (spread + x * wide), y, *soft) for x, y, *soft in points]

        bed: list[Point] = [(-4, -94), (20, -80), (29, -46), (21, 4), (24, 56), (14, 88), (-4, 94),
                            (-20, 82), (-21, 48), (-20, 4), (-28, -46), (-24, -80)]
        s.fill(place([(x + 1, y + 5) for x, y, *_ in bed]), edge, 4)
        s.fill(place(bed), look.cloth, 7)
        s.stroke(place([(-10, 78), (-14, 40), (-12, 10), (-18, -46)]), look.shade(0.75), 1, 0.6)
        s.strap(place([(-5, -56), (2, -40), (18, -18), (24, 8)]), band, 9)
        s.strap(place([(-5, -56), (-12, -40), (-19, -18), (-21, 8)]), band, 9)
        s.strap(place([(-5, -62), (-5, -50)]), band, 8)
    return "Flip Flops"
# fmt: on
