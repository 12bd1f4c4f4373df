"""Garments, laid flat."""

import numpy as np

from drawing.colors import GOLD, PAPER, SILVER, Array, rgb
from drawing.look import Look
from drawing.outlines import Point, flip, mirror
from drawing.paints import Paint, denim, knitted, solid
from drawing.sketch import Sketch

# Outlines read better as rows of points than with one argument on every line.
# fmt: off


def draw_sleeves(
    s: Sketch, look: Look, top: float, shoulder: float, length: str, cuff: Paint | Array,
) -> None:
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
             (shoulder + flare, bottom - hem * 0.8, 0), (0, bottom + 3)]
    s.fill(mirror(half), look.cloth, 11, 0.13)
    for side in (1, -1):
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
# fmt: on
