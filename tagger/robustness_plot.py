"""The robustness of several models in one picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tagger.corruption import CONDITIONS
from tagger.robustness import Robustness

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLES = {
    "titles_replaced": ("titles of other products", "% of titles"),
    "words_dropped": ("words dropped from titles", "% of words"),
    "titles_scrubbed": ("titles without label words", "% of titles"),
    "titles_absent": ("titles absent", "% of titles"),
    "pictures_absent": ("pictures absent", "% of pictures"),
    "pictures_replaced": ("pictures of other products", "% of pictures"),
    "pictures_blurred": ("pictures blurred", "radius, % of the shorter side"),
    "pictures_blocked": ("pictures blocked out", "% of the area"),
}
"""What a panel shows, and what its strengths are."""
COLORS = ("#0072b2", "#d55e00", "#009e73", "#aa3377", "#e69f00", "#56b4e9", "#555555")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "*", "h", "d", "8")
INK, FAINT = "#222222", "#dddddd"
COLUMNS = 4


def draw_robustness(results: Mapping[str, Robustness]) -> bytes:
    """Mean recall at precision over tasks and strength, one panel a condition, one line a model, as
    PNG. Figures that are null leave a gap.

    Args:
        results: by name, at least one, all of the same conditions and precision.
    """
    picture = io.BytesIO()
    robustness_figure(results).savefig(picture, format="png", dpi=130)
    return picture.getvalue()


def robustness_figure(results: Mapping[str, Robustness]) -> Figure:
    """What `draw_robustness` draws."""
    from matplotlib.figure import Figure

    first = next(iter(results.values()))
    kinds = [condition.kind for condition in CONDITIONS if condition.kind in first.conditions]
    columns = min(COLUMNS, len(kinds))
    rows = -(-len(kinds) // columns)
    legend_rows = -(-len(results) // max(1, columns))
    size = (3.1 * columns, 2.75 * rows + 0.24 * legend_rows + 0.5)
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)  # type: ignore[union-attr, call-arg]
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    panels = grid.ravel().tolist()
    for panel in panels[len(kinds) :]:
        panel.set_axis_off()
    for panel, kind in zip(panels, kinds, strict=False):
        for number, (name, robustness) in enumerate(results.items()):
            points = robustness.conditions[kind]
            strengths = [100 * point.strength for point in points]
            recall = [float("nan") if p.mean_recall is None else p.mean_recall for p in points]
            draw_line(panel, strengths, recall, name, number)
        _name_axes(panel, kind, strengths)
        dress(panel)
    for row in grid:
        row[0].set_ylabel(f"recall at {100 * first.precision:g}% precision", color=INK, fontsize=9)
    # Names are put in afterwards: matplotlib leaves out what begins with "_".
    names = list(results)
    legend = figure.legend(
        panels[0].get_lines()[: len(names)],
        ["model"] * len(names),
        loc="outside lower center",
        ncols=min(len(names), max(2, columns + 1)),
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        handlelength=3.2,
    )
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_parse_math(False)  # a name may hold two "$"
        text.set_text(name)
    return figure


def draw_line(
    axes: Axes, strengths: Sequence[float], recall: Sequence[float], name: str, number: int
) -> None:
    """A color for each of seven models, and then again with dashes; a marker for each of 14."""
    axes.plot(
        strengths,
        recall,
        label=name,
        color=COLORS[number % len(COLORS)],
        linestyle=("-", (0, (4, 1.5)), ":")[number // len(COLORS) % 3],
        marker=MARKERS[number % len(MARKERS)],
        markersize=5,
        markeredgewidth=0,
        # The first model is the one that the others are compared with.
        linewidth=2.2 if number == 0 else 1.3,
        clip_on=False,
        zorder=4 if number == 0 else 3,
    )


def _name_axes(axes: Axes, kind: str, strengths: Sequence[float]) -> None:
    title, unit = TITLES[kind]
    axes.set_title(title, loc="left", fontsize=10, color=INK, fontweight="bold")
    axes.set_xlabel(unit, fontsize=8.5, color=INK)
    axes.set_xticks(strengths)
    axes.set_xlim(0, strengths[-1])


def dress(axes: Axes) -> None:
    """Shares from 0 to 1 on a light grid, without a frame."""
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(lambda value, place: f"{value:.0%}")
    axes.xaxis.set_major_formatter(lambda value, place: f"{value:g}")
    axes.tick_params(labelsize=8, colors=INK, length=0)
    axes.grid(color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
