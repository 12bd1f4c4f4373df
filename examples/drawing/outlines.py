"""Outlines: smooth lines through a few points, and their mirror images."""

from collections.abc import Sequence

import numpy as np

from drawing.colors import Array

Point = tuple[float, ...]  # x, y and optionally a softness: 0 makes the point a sharp corner


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
