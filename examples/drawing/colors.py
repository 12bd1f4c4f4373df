"""The colours of the labels, and how to pick one that fits a label or stands out."""

import colorsys

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

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
