"""What people see of several models side by side, and of an export beside its source."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from tagger.compare import MEAN, points, short_count
from tagger.console import percent, plain, results, say, table
from tagger.errors import listing
from tagger.modalities import VIEW_NAMES
from tagger.picture_messages import say_pictures
from tagger.wording import counted

if TYPE_CHECKING:
    from tagger.compare import Difference, ModelComparison, ModelFigures
    from tagger.export import Comparison
    from tagger.images import ImageStatus
    from tagger.products import ProductSource


def show_models(
    comparison: ModelComparison, image_statuses: Counter[ImageStatus], source: ProductSource
) -> None:
    """One table with a row per model, then one per task; differences are to the first model."""
    first, *others = comparison.models
    recall = f"recall at {100 * comparison.precision:g}% precision"
    made = table(
        f"means over tasks, %; below: difference to {plain(first.name)}, and its 95% interval "
        "(paired bootstrap over products)",
        "model",
        "accuracy",
        *(f"{recall if view == 'both' else 'recall'}, {name}" for view, name in VIEW_NAMES.items()),
        "parameters, FLOPs and products a second",
    )
    for model in comparison.models:
        means = model.means
        made.add_row(
            plain(model.name),
            _beside(means["both"].accuracy, model, "both", MEAN, "accuracy"),
            *(
                _beside(means[v].recall_at_precision, model, v, MEAN, "recall_at_precision")
                for v in VIEW_NAMES
            ),
            _cost(model),
            end_section=True,
        )
    results.print(made)
    for task in first.scores["both"]:
        _show_task(comparison, task)
    if others:
        say(
            "(noise): the interval holds 0, or the models differ on fewer than 6 products, so that "
            "others may turn the difference around"
        )
    say_pictures(image_statuses, source)
    _say_learned(comparison)
    _say_unknown(comparison)


def _show_task(comparison: ModelComparison, task: str) -> None:
    """One task with picture and title, and with its own words scrubbed; a row per model."""
    first = comparison.models[0]
    labelled = first.scores["both"][task].num_products
    views = {"both": "", "scrubbed": ", scrubbed"}
    measures = {
        "accuracy": "accuracy",
        "macro_f1": "macro-F1",
        "recall_at_precision": f"recall at {100 * comparison.precision:g}%",
    }
    made = table(
        f"{plain(task)}, %, {counted(labelled, 'labelled product')}",
        "model",
        *(f"{name}{view}" for view in views.values() for name in measures.values()),
    )
    for model in comparison.models:
        made.add_row(
            plain(model.name),
            *(
                _beside(getattr(model.scores[view][task], measure), model, view, task, measure)
                for view in views
                for measure in measures
            ),
            end_section=True,
        )
    results.print(made)


def _beside(rate: float | None, model: ModelFigures, view: str, task: str, measure: str) -> str:
    """A rate in percent; below it, where it is known, its difference to the first model."""
    found = model.differences.get(view, {}).get(task)
    difference: Difference | None = getattr(found, measure, None)
    if difference is None:
        return percent(rate)
    low, high = difference.interval
    style = "dim" if difference.is_noise else "green" if low > 0 else "red"
    noise = " (noise)" if difference.is_noise else ""
    below = f"{points(difference.difference)}{noise}\n{points(low)} to {points(high)}"
    return f"{percent(rate)}\n[{style}]{below}[/]"


def _cost(model: ModelFigures) -> str:
    """Three lines, as the cells beside it have."""
    flops, rate = model.flops_per_product, model.products_per_second
    return "\n".join(
        (
            short_count(model.parameters),
            "-" if flops is None else f"{short_count(flops)}FLOP",
            f"{rate:,.{1 if rate < 100 else 0}f}/s",
        )
    )


def _say_learned(comparison: ModelComparison) -> None:
    """Which models know some of the products already."""
    guilty = [f"{one.name} from {one.trained_on:,}" for one in comparison.models if one.trained_on]
    if guilty:
        say(
            f"{comparison.trained_on:,} of these {counted(comparison.num_products, 'product')} "
            f"were trained on ({', '.join(guilty)}), which flatters every figure of the model"
        )


def _say_unknown(comparison: ModelComparison) -> None:
    """Labels that a model does not know, of which each product counts as wrong."""
    for model in comparison.models:
        for task, both in model.scores["both"].items():
            if both.unknown_labels:
                say(
                    f"{counted(sum(both.unknown_labels.values()), 'product')} with a {task} that "
                    f"{model.name} does not know, which counts as wrong: "
                    f"{listing(list(both.unknown_labels))}"
                )


def show_comparison(comparison: Comparison) -> None:
    """How an export answers beside its source, and size and speed of both."""
    made = table(
        "the export beside its source: labels, and the largest differences",
        "compared on",
        "products",
        "labels agree, %",
        "confidences differ by",
        "weights differ by",
    )
    for agreement in comparison.agreements:
        made.add_row(
            plain(agreement.compared_on),
            f"{agreement.num_products:,}",
            "-" if agreement.labels_agree is None else f"{100 * agreement.labels_agree:.2f}",
            f"{agreement.confidence_difference:.1e}",
            "-" if agreement.weight_difference is None else f"{agreement.weight_difference:.1e}",
        )
    results.print(made)
    sides = table("size and speed", "", "MB", "products a second")
    for name, side in (("source, torch, fp32", comparison.source), ("export", comparison.export)):
        rate = side.products_per_second
        sides.add_row(name, f"{side.num_bytes / 1e6:,.1f}", "-" if rate is None else f"{rate:,.1f}")
    results.print(sides)
