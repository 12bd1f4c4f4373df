"""Tasks that nobody has labelled: a contrastively trained model is told their labels by name."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import msgspec

from tagger.config import DEFAULT_ZERO_SHOT, Applicability
from tagger.errors import ModelError, UsageError, listing
from tagger.runtime import Model
from tagger.tasks import Task, asked_labels

Labels = Mapping[str, Sequence[str]]
"""Per task the labels to choose from."""


def with_labels(model: Model, labels: Labels) -> Model:
    """`model`, answering the tasks of `labels`, too; in place of one of the same name.

    Its network is changed. The sha256 is another: answers to other labels are other answers.

    Raises:
        ModelError: it is not contrastively trained, so that names of labels tell it nothing.
        UsageError: no mapping, a task without a usable name, or without two different labels at
            least.
    """
    if not isinstance(labels, Mapping):
        raise UsageError(
            f"labels={labels!r} name no task",
            'for example labels={"neckline": ("v-neck", "crew neck")}',
        )
    if not labels:
        return model
    if model.is_export:  # which a machine without torch may run
        raise _needs_pretraining(model, labels)
    from tagger.bundle import Bundle
    from tagger.systems.zero_shot import ClipZeroShot

    assert isinstance(model, Bundle)
    if not isinstance(model.model, ClipZeroShot):
        raise _needs_pretraining(model, labels)
    asked = tuple(Task(name, asked_labels(name, own)) for name, own in labels.items())
    kept = tuple(task for task in model.config.tasks if task.name not in labels)
    applicability = _still_applicable(model.config.applicability, [task.name for task in kept])
    config = msgspec.structs.replace(
        model.config, tasks=(*kept, *asked), applicability=applicability
    )
    model.model.answer_only(config, model.tokenizer)
    digest = hashlib.sha256(model.sha256.encode() + msgspec.json.encode(asked)).hexdigest()
    calibration = model.calibration
    if calibration is not None:
        still = {name: one for name, one in calibration.tasks.items() if name not in labels}
        calibration = msgspec.structs.replace(calibration, tasks=still)
    return replace(model, config=config, sha256=digest, calibration=calibration)


def _still_applicable(rule: Applicability | None, kept: list[str]) -> Applicability | None:
    """`rule` for those of its tasks that are `kept`: one asked anew may be another attribute."""
    if rule is None or rule.task not in kept:
        return None
    not_for = {task: nodes for task, nodes in rule.not_for.items() if task in kept}
    return Applicability(task=rule.task, not_for=not_for) if not_for else None


def _needs_pretraining(model: Model, labels: Labels) -> ModelError:
    return ModelError(
        f"--tasks {next(iter(labels))}=...: {model.path.name} knows no labels but those that it "
        "has learned; that needs contrastively pretrained weights",
        f"choose among its tasks: {listing([task.name for task in model.config.tasks])}; or "
        f"--model {DEFAULT_ZERO_SHOT}, or another model of the system clip-zero-shot",
    )
