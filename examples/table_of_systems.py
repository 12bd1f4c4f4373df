"""The JSON of `tagger eval` over the runs of train_systems.py as Markdown, means over seeds.

    python examples/table_of_systems.py systems.json
    python examples/table_of_systems.py systems.json --curves systems.png

A run named SYSTEM-SEED counts for the row SYSTEM. The table has a row per system and a column per
task, or per view; behind the mean of several seeds stands half of what they are apart. With
`--curves`, robustness is drawn, the mean over seeds of each row.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean

import msgspec

from tagger.compare import ModelComparison, ModelFigures, short_count
from tagger.modalities import VIEW_NAMES
from tagger.robustness import Robustness
from tagger.robustness_plot import draw_robustness

PAPER_TASKS = ("color", "pattern", "usage")
"""Over which the claim of the CMA-CLIP paper is looked at."""
Rows = Mapping[str, Sequence[ModelFigures]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("json", type=Path)
    parser.add_argument("--curves", type=Path, help="PNG file to draw")
    arguments = parser.parse_args()
    comparison = msgspec.json.decode(arguments.json.read_bytes(), type=ModelComparison)
    rows = by_row(comparison)
    tasks = list(comparison.models[0].scores["both"])
    target = f"recall at {100 * comparison.precision:g}% precision"
    for view in VIEW_NAMES:
        print(f"\n{VIEW_NAMES[view]}: accuracy\n")
        print_table(rows, tasks, lambda one, task, v=view: one.scores[v][task].accuracy)
        print(f"\n{VIEW_NAMES[view]}: {target}\n")
        print_table(rows, tasks, lambda one, task, v=view: one.scores[v][task].recall_at_precision)
    print_summary(rows, target)
    if arguments.curves:
        draw_robustness(mean_curves(rows), arguments.curves)


def by_row(comparison: ModelComparison) -> Rows:
    """The runs of each row, in the order of the file."""
    rows: dict[str, list[ModelFigures]] = {}
    for model in comparison.models:
        rows.setdefault(re.sub(r"-\d+(?=$|-noise)", "", model.name), []).append(model)
    return rows


def print_table(
    rows: Rows, tasks: Sequence[str], figure: Callable[[ModelFigures, str], float | None]
) -> None:
    print("| |", " | ".join(tasks), "| mean |")
    print("|---" * (len(tasks) + 2) + "|")
    for name, models in rows.items():
        figures = [[figure(model, task) or 0.0 for task in tasks] for model in models]
        columns = [*zip(*figures, strict=True), [mean(one) for one in figures]]
        print(f"| {name} |", " | ".join(over_seeds(column) for column in columns), "|")


def print_summary(rows: Rows, target: str) -> None:
    """Cost, and the mean of the recall over PAPER_TASKS in every view."""
    views = " | ".join(VIEW_NAMES.values())
    print(f"\n{target}, mean of {', '.join(PAPER_TASKS)}\n")
    print(f"| | {views} | parameters | FLOPs | products/s |")
    print("|---" * (len(VIEW_NAMES) + 4) + "|")
    for name, models in rows.items():
        cells = [
            over_seeds(
                [
                    mean(
                        model.scores[view][task].recall_at_precision or 0.0 for task in PAPER_TASKS
                    )
                    for model in models
                ]
            )
            for view in VIEW_NAMES
        ]
        one = models[0]
        cells += [short_count(one.parameters), short_count(one.flops_per_product)]
        cells.append(f"{mean(model.products_per_second for model in models):,.0f}")
        print(f"| {name} |", " | ".join(cells), "|")


def over_seeds(values: Sequence[float]) -> str:
    """.873 ±4: the mean, and half the distance between the extremes in thousandths."""
    text = f"{mean(values):.3f}".removeprefix("0")
    return text if len(values) == 1 else f"{text} ±{500 * (max(values) - min(values)):.0f}"


def mean_curves(rows: Rows) -> dict[str, Robustness]:
    """Of each row, the mean over seeds of the mean recall at each point."""
    curves = {}
    for name, models in rows.items():
        held = [model.robustness for model in models if model.robustness is not None]
        if not held:
            continue
        first = held[0]
        curves[name] = msgspec.structs.replace(
            first,
            conditions={
                kind: tuple(
                    msgspec.structs.replace(
                        point,
                        mean_recall=mean(one.conditions[kind][k].mean_recall or 0 for one in held),
                    )
                    for k, point in enumerate(points)
                )
                for kind, points in first.conditions.items()
            },
        )
    return curves


if __name__ == "__main__":
    main()
