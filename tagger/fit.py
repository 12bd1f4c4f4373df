"""The training loop: epochs, losses, checkpoints, the best epoch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer

from tagger import checkpoint
from tagger.augment import Mixed, augment_pixels, augment_titles, mix
from tagger.checkpoint import Epoch, mean
from tagger.config import Training
from tagger.device import training_precision
from tagger.errors import TrainingError
from tagger.network import Network, Output, Sequence
from tagger.optimizer import build_optimizers, schedule, set_rates
from tagger.pixel_cache import PixelCache
from tagger.preprocess import collate_images, collate_titles
from tagger.products import Products
from tagger.scrub import giveaways
from tagger.tokenizer import Tokenizer
from tagger.views import score_views
from tagger.weight_average import WeightAverage, copy_learned, learned, put_learned

Progress = Callable[[int, int, float], None]
"""Called after each step with (step, total steps, running loss)."""


@dataclass(frozen=True)
class Lesson:
    """An answer of the network for n products, and what its mistakes cost.

    `weight` is that of every product's loss, or (n,) of each. `labels_of` (n,) has the places in
    the batch of the products whose labels are right; without it they are the products' own.
    """

    output: Output
    weight: float | Tensor = 1.0
    labels_of: Tensor | None = None


@dataclass(frozen=True)
class Learner:
    """All that an epoch needs: the network, its recipe and the products to learn from."""

    model: Network
    tokenizer: Tokenizer
    training: Training
    products: Products
    pixels: PixelCache
    device: torch.device

    @cached_property
    def targets(self) -> dict[str, Tensor]:
        """Per task the label ids of all products, as `Task.nearest_ids`: one that was left out
        counts as its ancestor, or as none."""
        return {
            task.name: torch.from_numpy(task.nearest_ids(self.products.labels[task.name]))
            for task in self.model.config.tasks
        }

    @cached_property
    def words(self) -> list[frozenset[str]]:
        """Per task those that give its labels away."""
        return [giveaways(task.nodes) for task in self.model.config.tasks]

    @property
    def num_batches(self) -> int:
        return -(-len(self.products) // self.training.batch_size)

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.num_batches // self.training.accumulate)


def fit(
    learner: Learner,
    validation: Products,
    validation_pixels: PixelCache,
    run: Path,
    fingerprint: dict[str, str],
    progress: Progress,
    report: Callable[[int, Epoch], None],
) -> tuple[list[Epoch], int]:
    """Train for `training.epochs` and leave `learner.model` with the weights of the best epoch.

    The best epoch has the highest mean validation accuracy over tasks and views. After every
    epoch a checkpoint goes into `run`; where one is there already, training goes on from it, and
    the result equals that of an uninterrupted run on the same machine.

    Returns:
        The learning curve and the index of the best epoch.
    """
    model, training = learner.model, learner.training
    optimizers = build_optimizers(model, training)
    history: list[Epoch] = []
    best, best_epoch = copy_learned(model), -1
    mean_weights: dict[str, Tensor] = {}
    if resumed := checkpoint.load(run, fingerprint):
        state, tensors = resumed
        put_learned(model, checkpoint.part(tensors, "weights"))
        checkpoint.restore(state, tensors, optimizers)
        best, best_epoch = checkpoint.part(tensors, "best"), state.best_epoch
        mean_weights = checkpoint.part(tensors, "average")
        history = list(state.history)
    average = None
    if training.weight_average:
        average = WeightAverage(model, training.weight_average, mean_weights)
    # A system that needs no training has one line all the same, of how good it is as it came.
    for epoch in range(len(history), max(1, training.epochs)):
        started = time.monotonic()
        loss = None
        if training.epochs:
            loss = train_epoch(learner, optimizers, average, epoch, progress)
        with nullcontext() if average is None else average.in_place():
            model.read_labels(learner.tokenizer)
            accuracy = score_views(
                model, learner.tokenizer, validation, validation_pixels, learner.device
            )
            score, seconds = _score(accuracy), time.monotonic() - started
            history.append(Epoch(loss=loss, score=score, accuracy=accuracy, seconds=seconds))
            report(epoch, history[-1])
            if best_epoch < 0 or score > history[best_epoch].score:
                best, best_epoch = copy_learned(model), epoch
        groups = [o.state_dict()["param_groups"] for o in optimizers]
        state = checkpoint.State(
            fingerprint=fingerprint, history=tuple(history), best_epoch=best_epoch, groups=groups
        )
        weights = {"weights": learned(model), "best": best}
        if average is not None:
            weights["average"] = average.weights
        checkpoint.save(run, state, weights, optimizers)
    put_learned(model, best)
    return history, best_epoch


def train_epoch(
    learner: Learner,
    optimizers: list[Optimizer],
    average: WeightAverage | None,
    epoch: int,
    progress: Progress,
) -> float:
    """One pass over the products in a random order; returns the mean loss per batch.

    All randomness follows from the seed and the epoch, so that a resumed run repeats it.
    """
    training, model = learner.training, learner.model
    generator = torch.Generator().manual_seed(training.seed * 1_000_003 + epoch)
    torch.manual_seed(training.seed * 1_000_003 + epoch)
    total_steps = learner.steps_per_epoch * training.epochs
    total_batches = learner.num_batches * training.epochs
    weights = label_weights(learner)
    spans = {t.name: torch.from_numpy(t.tree.spans).to(learner.device) for t in model.config.tasks}
    losses: list[float] = []
    model.train()
    for number, rows in enumerate(_shuffled(learner, generator)):
        with training_precision(learner.device):
            image, text, mixed = _encode(learner, rows, generator)
            loss = model.pair_loss(image, text)
            if loss is None:
                lessons = _lessons(model, training, image, text, mixed, generator)
                targets = {n: ids[rows].to(learner.device) for n, ids in learner.targets.items()}
                loss = multitask_loss(lessons, targets, spans, weights, training)
        group = number - number % training.accumulate
        if loss.requires_grad:  # not where no product of the batch has a label
            (loss / min(training.accumulate, learner.num_batches - group)).backward()  # type: ignore[no-untyped-call]
        losses.append(float(loss.detach()))
        if not np.isfinite(losses[-1]):
            raise TrainingError(
                f"the loss is {losses[-1]} in epoch {epoch + 1}",
                "try a lower --lr, with another --out",
            )
        if (number + 1) % training.accumulate == 0 or number + 1 == learner.num_batches:
            step = epoch * learner.steps_per_epoch + number // training.accumulate
            set_rates(optimizers, schedule(step, total_steps, training.warmup))
            torch.nn.utils.clip_grad_norm_(model.parameters(), training.clip_norm)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            if average is not None:
                average.update(step)
        recent = losses[-50:]
        progress(epoch * learner.num_batches + number + 1, total_batches, sum(recent) / len(recent))
    return sum(losses) / len(losses)


def multitask_loss(
    lessons: list[Lesson],
    targets: dict[str, Tensor],
    spans: dict[str, Tensor],
    weights: dict[str, Tensor],
    training: Training,
) -> Tensor:
    """Cross-entropy summed over tasks and weighted lessons; unlabelled products count nothing.

    Each task's loss is the mean over its labelled products of the batch.
    """
    total = torch.zeros((), device=next(iter(targets.values())).device)
    for lesson in lessons:
        # A product that lacks the modality of this output cannot be blamed for its answer.
        answerable = lesson.output.answerable
        share = torch.as_tensor(lesson.weight, device=total.device).expand(len(answerable))
        for name, logits in lesson.output.logits.items():
            target = targets[name]
            if lesson.labels_of is not None:
                target = target[lesson.labels_of]
            rows = answerable & (target >= 0)
            if bool(rows.any()):
                total = total + cross_entropy(
                    logits[rows],
                    target[rows],
                    spans[name],
                    weights[name],
                    training.label_smoothing,
                    share[rows],
                )
    return total


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    spans: Tensor,
    weights: Tensor,
    smoothing: float,
    shares: Tensor | float = 1.0,
) -> Tensor:
    """Weighted mean of -log P(target), where P(node) is the sum over the leaves below it.

    A product labelled `Shoes` so teaches `Shoes`, and nothing of which ones: the likelihood of the
    leaves, marginalised (Deng et al. 2014, "HEX graphs"; Valmadre 2022). For a leaf it is the
    cross-entropy of the softmax, smoothed as torch does it.

    Args:
        logits: (n, leaves).
        target: (n,) ids of nodes.
        spans: (nodes, 2), as `Tree.spans`.
        weights: (nodes,) of the targets.
        smoothing: share of the loss that is the mean over all leaves, 0..1.
        shares: (n,) of each product's loss that counts; the mean is over all still.
    """
    logs = F.log_softmax(logits, -1)
    first, behind = spans[target].unbind(1)
    likelihoods = logs.gather(1, first[:, None])[:, 0]
    inner = behind - first > 1
    if bool(inner.any()):
        place = torch.arange(logits.shape[1], device=logits.device)
        other = (place < first[inner, None]) | (place >= behind[inner, None])
        sums = logs[inner].masked_fill(other, float("-inf")).logsumexp(-1)
        likelihoods = likelihoods.masked_scatter(inner, sums)
    losses = -likelihoods * weights[target]
    if smoothing:
        smooth = -(logs * weights[: logits.shape[1]]).mean(-1)
        losses = (1 - smoothing) * losses + smoothing * smooth
    return (losses * shares).sum() / weights[target].sum()


def label_weights(learner: Learner) -> dict[str, Tensor]:
    """Per task (num_nodes,): support ** -class_balance, scaled to mean 1 over the products."""
    weights: dict[str, Tensor] = {}
    for task in learner.model.config.tasks:
        ids = learner.targets[task.name].numpy()
        support = np.bincount(ids[ids >= 0], minlength=len(task.tree)).clip(min=1)
        raw = support.astype(np.float64) ** -learner.training.class_balance
        scaled = raw * support.sum() / (raw * support).sum()
        weights[task.name] = torch.tensor(scaled, dtype=torch.float32, device=learner.device)
    return weights


def _encode(
    learner: Learner, rows: list[int], generator: torch.Generator
) -> tuple[Sequence | None, Sequence, Mixed | None]:
    """Varied pictures (None if the batch has none) and titles of the products `rows`, and how the
    pictures were mixed, if they were."""
    model, training, device = learner.model, learner.training, learner.device
    batch = learner.products.take(rows)
    pixels, present = collate_images(learner.pixels.get(rows), model.config.preprocess)
    titles = augment_titles(batch.titles, learner.words, training, generator)
    ids, mask = collate_titles(titles, learner.tokenizer, model.text_tower.fixed_length)
    pixels = pixels.to(device)
    mixed = None
    if not training.freeze_towers:
        pixels = augment_pixels(pixels, training, generator)
        if training.cutmix and not model.zero_shot and bool(present.any()):
            mixed = mix(pixels, present, training.cutmix, generator)
            pixels = mixed.pixels
    image = None
    if bool(present.any()):
        image = model.encode_image(pixels, present.to(device))
    return image, model.encode_text(ids.to(device), mask.to(device)), mixed


def _lessons(
    model: Network,
    training: Training,
    image: Sequence | None,
    text: Sequence,
    mixed: Mixed | None,
    generator: torch.Generator,
) -> list[Lesson]:
    """With both modalities, with the picture alone and with the title alone."""
    both = model.fuse(*mismatched(image, text, training.mismatch, generator))
    # Without a title it is answered from the picture alone.
    lessons = _by_area(both, 1.0, mixed, ~text.mask.any(1))
    if training.image_only_weight and image is not None:
        lessons += _by_area(model.fuse(image, None), training.image_only_weight, mixed, True)
    if training.title_only_weight:
        lessons.append(Lesson(model.fuse(None, text), training.title_only_weight))
    return lessons


def _by_area(
    output: Output, weight: float, mixed: Mixed | None, from_picture: Tensor | bool
) -> list[Lesson]:
    """What `output` teaches; of products that were answered `from_picture` (n,) alone, and are
    mixed, the labels of both by their areas."""
    if mixed is None:
        return [Lesson(output, weight)]
    device = output.modality_weights.device
    share, other = mixed.share.to(device) * from_picture, mixed.other.to(device)
    return [Lesson(output, weight * (1 - share)), Lesson(output, weight * share, other)]


def mismatched(
    image: Sequence | None, text: Sequence, share: float, generator: torch.Generator
) -> tuple[Sequence | None, Sequence]:
    """In a random `share` of the n products that have both, picture or title is that of another
    product: alone, it would teach the wrong labels."""
    if not share or image is None:
        return image, text
    n = len(text.tokens)
    lot = torch.rand(n, generator=generator)
    own = torch.arange(n)
    other = (own + torch.randint(1, max(2, n), (n,), generator=generator)) % n
    device = text.tokens.device
    lot, own, other = lot.to(device), own.to(device), other.to(device)
    has_both = image.mask.any(1) & text.mask.any(1)
    pictures = torch.where(has_both & (lot < share / 2), other, own)
    titles = torch.where(has_both & (lot >= share / 2) & (lot < share), other, own)
    return (
        Sequence(image.tokens[pictures], image.mask[pictures]),
        Sequence(text.tokens[titles], text.mask[titles]),
    )


def _shuffled(learner: Learner, generator: torch.Generator) -> Iterator[list[int]]:
    order = torch.randperm(len(learner.products), generator=generator).tolist()
    size = learner.training.batch_size
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _score(accuracy: dict[str, dict[str, float | None]]) -> float:
    """Mean over views and tasks: a model that ignores a modality does not win."""
    return mean(value for by_task in accuracy.values() for value in by_task.values())
