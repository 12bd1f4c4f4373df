"""Plots of the report page: SVG whose colors follow the page, light or dark."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from tagger.metrics import precision_curve, reliability
from tagger.modalities import VIEW_NAMES, View
from tagger.scores import Judged, Published

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
        coverage, precision = precision_curve(judged.correct, judged.confidence)
        # The first few products make a jagged line that says nothing.
        kept = np.unique(np.linspace(0, len(coverage) - 1, MAX_POINTS).astype(int))
        kept = kept[coverage[kept] * len(judged.rows) >= min(20, len(judged.rows))]
        lowest = min([lowest, *precision[kept]])
        axes.plot(
            coverage[kept],
            precision[kept],
            color=SERIES[view],
            linewidth=2.2 if view == "both" else 1.2,
            label=VIEW_NAMES[view],
        )
    axes.axhline(target, color=FAINT, linestyle="--", linewidth=1)
    if published is not None and published.precision is not None:
        point = (published.coverage, published.precision)
        axes.plot(*point, "o", color=INK, markersize=7, label="published", clip_on=False)
    axes.set(xlim=(0, 1.01), ylim=(max(0, min(lowest, target) - 0.05), 1.01))
    axes.set_xlabel("share of products published")
    axes.set_ylabel("share of these right")
    # Below the axes, where no curve can run through it.
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8, labelcolor=INK)
    return figure


def reliability_diagram(judged: Judged) -> str:
    """Share right over confidence, in ten bins; the area of a dot grows with its products."""
    figure, axes = _figure(height=3.0)
    confidence, right, counts = reliability(judged.correct, judged.confidence)
    axes.plot([0, 1], [0, 1], color=FAINT, linestyle="--", linewidth=1)
    full = counts > 0
    sizes = 20 + 380 * counts[full] / max(1, counts.max())
    axes.plot(confidence[full], right[full], color=SERIES["both"], linewidth=1.2)
    axes.scatter(confidence[full], right[full], s=sizes, color=SERIES["both"], alpha=0.7)
    axes.set(xlim=(0, 1.04), ylim=(0, 1.04), xlabel="confidence", ylabel="share right")
    return _svg(figure)


def _figure(height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, height), layout="constrained")
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
