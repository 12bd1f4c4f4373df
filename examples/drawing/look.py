"""The look of a product, chosen for its colour label and its pattern label."""

from dataclasses import dataclass

import numpy as np

from drawing.colors import PAPER, Array, brightness, pick_accent, pick_color, rgb
from drawing.paints import Paint, checked, solid, striped
from drawing.prints import printed


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
    angle: float,
    size: float,
    chest: bool,
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
