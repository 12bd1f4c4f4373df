"""The comparison of several models as one HTML file, which opens without a network."""

from __future__ import annotations

import base64
from pathlib import Path

from tagger.arrow_types import valid_text
from tagger.compare import MEAN, ModelComparison, ModelFigures, points, short_count
from tagger.modalities import VIEW_NAMES, View
from tagger.output import write_text
from tagger.page import TEMPLATES, templates
from tagger.plots import Mark, rates_by_view


def write_comparison_page(
    path: Path, comparison: ModelComparison, catalog: str, curves: bytes | None = None
) -> None:
    """Write the page of `comparison`, made on the catalog of that name, to `path`.

    `curves` is the picture of `draw_robustness`, a PNG file.

    Raises:
        DiskFullError, OutputError: `path` cannot be written.
    """
    environment = templates()
    environment.filters["points"] = points
    environment.filters["short"] = short_count
    target = f"{100 * comparison.precision:g}%"
    first = comparison.models[0]
    png = None if curves is None else base64.b64encode(curves).decode("ascii")
    text = environment.get_template("comparison.html").render(
        catalog=catalog,
        comparison=comparison,
        first=first,
        target=target,
        mean=MEAN,
        view_names=VIEW_NAMES,
        tasks=list(first.scores["both"]),
        plot=rates_by_view([marks_of(m, first) for m in comparison.models], f"recall at {target}"),
        curves=png,
        style=(TEMPLATES / "report.css").read_text(encoding="utf-8"),
    )
    write_text(path, valid_text(text))


def marks_of(model: ModelFigures, first: ModelFigures) -> dict[View, Mark]:
    """Mean recall at precision by view; its interval is that of the difference, laid on the recall
    of the `first` model."""
    marks: dict[View, Mark] = {}
    for view in VIEW_NAMES:
        rate, base = (one.means[view].recall_at_precision for one in (model, first))
        if rate is None or base is None:
            continue
        if MEAN not in model.differences.get(view, {}):
            marks[view] = Mark(rate)
            continue
        difference = model.differences[view][MEAN].recall_at_precision
        low, high = difference.interval
        marks[view] = Mark(rate, (base + low, base + high), difference.is_noise)
    return marks
