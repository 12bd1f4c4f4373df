"""Shoes."""

from collections.abc import Sequence

from drawing.colors import PAPER, brightness, rgb
from drawing.look import Look
from drawing.outlines import Point
from drawing.sketch import Sketch

# Outlines read better as rows of points than with one argument on every line.
# fmt: off


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
