"""What people see of a labelling run: what was wrong with some products, and where the rest is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tagger.console import percent, say, say_bad
from tagger.picture_messages import say_pictures
from tagger.wording import counted, lasting

if TYPE_CHECKING:
    from tagger.dry_run import Estimate
    from tagger.products import ProductSource
    from tagger.report import Summary
    from tagger.run import Result


def show_prediction(result: Result, out: Path, source: ProductSource) -> None:
    """How many rows of `source`, what was wrong with some, and where the result is."""
    summary = result.summary
    _show_bad(summary, source)
    for task, statuses in summary.task_status.items():
        line = f"{task}: {statuses['ok']:,} of {counted(summary.num_rows, 'product')} labelled"
        if statuses["not_applicable"]:
            line += f"; it does not apply to {statuses['not_applicable']:,}"
        if statuses["abstain"]:
            coverage = percent(statuses["ok"] / (statuses["ok"] + statuses["abstain"]))
            line += f"; the model abstained from {statuses['abstain']:,}, coverage {coverage}%"
        say(line)
    if result.remark:
        say(result.remark)
    carried = summary.num_rows - result.stages.computed_rows
    if result.was_done:
        say(f"{out}: {counted(summary.num_rows, 'row')}; this run was finished already")
    elif not result.finished:
        say(
            f"{out}: this share is done; missing: {counted(result.missing, 'part')} of other shares"
        )
    else:
        kept = f", {carried:,} of them kept from before" if carried else ""
        say(f"{out}: {counted(summary.num_rows, 'row')}{kept}")


def show_review(count: int, path: Path) -> None:
    """How many products wait for a person."""
    say(f"{path}: {counted(count, 'product')} to look at, those that teach most first")


def show_estimate(estimate: Estimate, out: Path, source: ProductSource) -> None:
    """What a dry run found in `source`, and what the whole run would take."""
    summary = estimate.sample
    _show_bad(summary, source)
    say(f"{counted(estimate.num_rows, 'row')}; tried: {summary.num_rows:,} of them")
    megabytes = estimate.num_bytes / 1e6
    say(f"{out} can be written: about {lasting(estimate.seconds)} and {megabytes:,.1f} MB")
    say("dry run: nothing was written")


def _show_bad(summary: Summary, source: ProductSource) -> None:
    """Pictures and titles that could not be used."""
    say_pictures(summary.image_status, source, summary.image_examples, may_lead_outside=True)
    say_bad("titles", summary.title_status, summary.title_examples)
