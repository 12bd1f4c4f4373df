"""The JSON of `tagger eval` over the runs of train_systems.py as Markdown, means over seeds.

    python examples/table_of_systems.py systems.json
    python examples/table_of_systems.py systems.json --curves systems.png
    python examples/table_of_systems.py systems.json noise.json --wrong-labels wrong_labels.png

A run named SYSTEM-SEED counts for the row SYSTEM, and SYSTEM-SEED-noise40 for the row
SYSTEM-noise40. The table has a row per system and a column per task, or per view; behind the mean
of several seeds stands half of what they are apart. With `--curves`, robustness is drawn, the mean
over seeds of each row; with `--wrong-labels`, what wrong labels in training cost.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean

import msgspec
from matplotlib.figure import Figure

from tagger.compare import ModelComparison, ModelFigures, short_count
from tagger.modalities import VIEW_NAMES, View
from tagger.robustness import Robustness
from tagger.robustness_plot import draw_line, draw_robustness, dress
from tagger.scores import Score

PAPER_TASKS = ("color", "pattern", "usage")
"""Over which the claim of the CMA-CLIP paper is looked at."""
NOISE_VIEWS: tuple[View, ...] = ("both", "scrubbed")
Rows = Mapping[str, Sequence[ModelFigures]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("json", type=Path, nargs="+")
    parser.add_argument("--curves", type=Path, help="PNG file to draw")
    parser.add_argument("--wrong-labels", type=Path, help="PNG file to draw")
    arguments = parser.parse_args()
    comparisons = [
        msgspec.json.decode(path.read_bytes(), type=ModelComparison) for path in arguments.json
    ]
    rows = by_row(comparisons)
    tasks = list(comparisons[0].models[0].scores["both"])
    target = f"recall at {100 * comparisons[0].precision:g}% precision"
    for view in VIEW_NAMES:
        print(f"\n{VIEW_NAMES[view]}: accuracy\n")
        print_table(rows, tasks, view, lambda scores: scores.accuracy)
        print(f"\n{VIEW_NAMES[view]}: {target}\n")
        print_table(rows, tasks, view, lambda scores: scores.recall_at_precision)
    print_summary(rows, target)
    if arguments.curves:
        arguments.curves.write_bytes(draw_robustness(mean_curves(rows)))
    if arguments.wrong_labels:
        curves = {view: wrong_labels(rows, view) for view in NOISE_VIEWS}
        for view, by_system in curves.items():
            print_wrong_labels(by_system, f"{VIEW_NAMES[view]}: {target}, mean over tasks")
        draw_wrong_labels(curves, target, arguments.wrong_labels)


def by_row(comparisons: Sequence[ModelComparison]) -> Rows:
    """The runs of each row, in the order of the files."""
    rows: dict[str, list[ModelFigures]] = {}
    for comparison in comparisons:
        for model in comparison.models:
            rows.setdefault(re.sub(r"-\d+(?=$|-noise)", "", model.name), []).append(model)
    return rows


def print_table(
    rows: Rows, tasks: Sequence[str], view: View, figure: Callable[[Score], float | None]
) -> None:
    print("| |", " | ".join(tasks), "| mean |")
    print("|---" * (len(tasks) + 2) + "|")
    for name, models in rows.items():
        figures = [[figure(model.scores[view][task]) or 0.0 for task in tasks] for model in models]
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


def wrong_labels(rows: Rows, view: View) -> dict[str, dict[int, float]]:
    """By system and percentage of wrong training labels, the mean recall over tasks and seeds; of
    systems that were trained with some."""
    curves: dict[str, dict[int, float]] = {}
    for name, models in rows.items():
        system, _, noise = name.partition("-noise")
        recalls = [model.means[view].recall_at_precision or 0.0 for model in models]
        curves.setdefault(system, {})[int(noise or 0)] = mean(recalls)
    return {system: dict(sorted(one.items())) for system, one in curves.items() if len(one) > 1}


def print_wrong_labels(curves: Mapping[str, Mapping[int, float]], title: str) -> None:
    shares = sorted({share for curve in curves.values() for share in curve})
    print(f"\n{title}\n")
    print("| wrong labels |", " | ".join(f"{share}%" for share in shares), "|")
    print("|---" * (len(shares) + 1) + "|")
    for system, curve in curves.items():
        cells = [over_seeds([curve[share]]) if share in curve else "" for share in shares]
        print(f"| {system} |", " | ".join(cells), "|")


def draw_wrong_labels(
    curves: Mapping[View, Mapping[str, Mapping[int, float]]], target: str, path: Path
) -> None:
    """A panel a view, a line a system, in the colors of `draw_robustness`."""
    figure = Figure(figsize=(9.5, 4.2), layout="constrained", facecolor="white")
    panels = figure.subplots(1, len(curves), sharey=True)
    for panel, (view, by_system) in zip(panels, curves.items(), strict=True):
        for number, (system, curve) in enumerate(by_system.items()):
            draw_line(panel, list(curve), list(curve.values()), system, number)
        panel.set_title(VIEW_NAMES[view], loc="left", fontsize=10, fontweight="bold")
        panel.set_xlabel("% of training labels wrong", fontsize=8.5)
        panel.set_xticks(sorted({share for curve in by_system.values() for share in curve}))
        dress(panel)
    panels[0].set_ylabel(target, fontsize=9)
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside right center",
        frameon=False,
        fontsize=9,
    )
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
