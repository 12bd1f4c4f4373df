"""Ties, caps, watches and bags."""

import math

from drawing.colors import GOLD, INK, PAPER, SILVER, brightness, rgb
from drawing.look import Look
from drawing.outlines import mirror
from drawing.sketch import Sketch

# Outlines read better as rows of points than with one argument on every line.
# fmt: off


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
# fmt: on
