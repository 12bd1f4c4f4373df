"""Plots of the pages: SVG whose colors follow the page, light or dark."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tagger.metrics import precision_curve, reliability
from tagger.modalities import VIEW_NAMES, View
from tagger.scores import Judged, Published

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Line = str | tuple[int, tuple[float, ...]]
"""How matplotlib calls a style of lines: a sign, or the lengths of dashes and gaps."""

# matplotlib knows no CSS variables: it draws in these colors, which are then replaced.
INK, FAINT = "#010203", "#040506"
SERIES = {"both": "#070809", "scrubbed": "#0a0b0c", "image": "#0d0e0f", "title": "#101112"}
_VARIABLES = {
    INK: "var(--ink)",
    FAINT: "var(--faint)",
    **{color: f"var(--{view})" for view, color in SERIES.items()},
}
_METADATA = ("Creator", "Date", "Format", "Type")
"""What matplotlib would write into the SVG; without any of it there is no such element."""
LINES: Mapping[View, Line] = {
    "both": "-",
    "scrubbed": (0, (6, 1.5)),
    "image": (0, (6, 1.5, 1, 1.5)),
    "title": (0, (1.2, 1.2)),
}
"""Some colors are alike, in the dark or to some people."""
MAX_POINTS = 300


def precision_coverage(
    views: Mapping[View, Judged], target: float, published: Published | None
) -> str:
    """Precision over coverage for each view; the point that is published, if there is one."""
    return _svg(curve_figure(views, target, published))


def curve_figure(
    views: Mapping[View, Judged], target: float, published: Published | None
) -> Figure:
    """What `precision_coverage` draws; the line "published" is the point."""
    figure, axes = _figure(height=3.5)
    lowest = 1.0
    for view, judged in views.items():
        answered = judged.answered
        if not answered.any():
            continue
        # What has no answer is never published.
        coverage, precision = precision_curve(judged.correct[answered], judged.confidence[answered])
        coverage = coverage * answered.mean()
        # The first few products make a jagged line that says nothing.
        kept = np.unique(np.linspace(0, len(coverage) - 1, MAX_POINTS).astype(int))
        kept = kept[coverage[kept] * len(judged.rows) >= min(20, answered.sum())]
        lowest = min([lowest, *precision[kept]])
        axes.plot(
            coverage[kept],
            precision[kept],
            color=SERIES[view],
            linestyle=LINES[view],
            linewidth=2.2 if view == "both" else 1.4,
            label=VIEW_NAMES[view],
        )
    axes.axhline(target, color=FAINT, linestyle="--", linewidth=0.8)
    if published is not None and published.precision is not None:
        point = (published.coverage, published.precision)
        axes.plot(*point, "o", color=INK, markersize=7, label="published", clip_on=False)
    axes.set(xlim=(0, 1.01), ylim=(max(0, min(lowest, target) - 0.05), 1.01))
    axes.set_xlabel("share of products published")
    axes.set_ylabel("share of these right")
    # Below the axes, where no curve can run through it.
    if len(axes.lines) > 1:  # not the target alone
        figure.legend(
            loc="outside lower center",
            ncols=3,
            frameon=False,
            fontsize=8,
            labelcolor=INK,
            handlelength=3.2,
        )
    return figure


def reliability_diagram(judged: Judged) -> str:
    """Share right of the answers over confidence, in ten bins; the area of a dot grows with their
    number."""
    figure, axes = _figure(height=3.0)
    answered = judged.answered
    confidence, right, counts = reliability(judged.correct[answered], judged.confidence[answered])
    axes.plot([0, 1], [0, 1], color=FAINT, linestyle="--", linewidth=1)
    full = counts > 0
    sizes = 20 + 380 * counts[full] / max(1, counts.max())
    axes.plot(confidence[full], right[full], color=SERIES["both"], linewidth=1.2)
    axes.scatter(confidence[full], right[full], s=sizes, color=SERIES["both"], alpha=0.7)
    axes.set(xlim=(0, 1.04), ylim=(0, 1.04), xlabel="confidence", ylabel="share right")
    return _svg(figure)


@dataclass(frozen=True)
class Mark:
    """A rate 0..1 in a picture, with its interval if it has one; faint if it may be noise."""

    rate: float
    interval: tuple[float, float] | None = None
    faint: bool = False


def rates_by_view(models: Sequence[Mapping[View, Mark]], name: str) -> str:
    """A group of marks per view, the models in it numbered from 1; `name` is that of the rate."""
    return _svg(rates_figure(models, name))


def rates_figure(models: Sequence[Mapping[View, Mark]], name: str) -> Figure:
    """What `rates_by_view` draws: a dot for each mark, an empty one where it is faint, its number
    above, a line for its interval."""
    figure, axes = _figure(height=3.2, width=max(7.5, len(models)))
    # Numbers instead of names: no color, and no font that may lack a letter, tells models apart.
    for number, marks in enumerate(models):
        shift = 0.7 * ((number + 0.5) / len(models) - 0.5)
        for place, view in enumerate(VIEW_NAMES):
            if view not in marks:
                continue
            mark, color = marks[view], SERIES[view]
            if mark.interval is not None:
                axes.plot([place + shift] * 2, mark.interval, color=color, linewidth=1.4)
            face = "none" if mark.faint else color
            axes.plot(place + shift, mark.rate, "o", color=color, markerfacecolor=face)
            top = max((mark.rate, *(mark.interval or ())))
            axes.text(place + shift, top + 0.03, str(number + 1), color=INK, size=8, ha="center")
    axes.set_xticks(range(len(VIEW_NAMES)), VIEW_NAMES.values())
    axes.set(xlim=(-0.5, len(VIEW_NAMES) - 0.5), ylim=(-0.02, 1.12), ylabel=name)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    return figure


def _figure(height: float, width: float = 4.6) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.subplots()
    axes.patch.set_alpha(0)
    axes.tick_params(colors=INK, labelsize=8)
    axes.xaxis.label.set(color=INK, size=9)
    axes.yaxis.label.set(color=INK, size=9)
    axes.spines[["top", "right"]].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)
    return figure, axes


def _svg(figure: Figure) -> str:
    """An <svg> element for use in HTML: text stays text, and no identifier is random."""
    from matplotlib import rc_context

    sink = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "tagger"}):
        figure.savefig(sink, format="svg", metadata=dict.fromkeys(_METADATA))
    text = sink.getvalue()
    text = text[text.index("<svg") :]
    for color, variable in _VARIABLES.items():
        text = text.replace(color, variable)
    return text
