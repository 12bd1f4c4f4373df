"""Fit a model directory on a labelled catalog; write a new model directory."""

from __future__ import annotations

import shlex
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import msgspec
import torch

from tagger import bundle, checkpoint
from tagger.allocator import keep_freed_memory
from tagger.answers import answer_batches, pictures
from tagger.card import write_card
from tagger.catalog import Columns
from tagger.checkpoint import Epoch
from tagger.config import DEFAULT_DEFINITION, MAX_RATE, Config, Training, read_config
from tagger.curve import draw_learning_curve
from tagger.definitions import find_definition, with_system
from tagger.device import choose_device, no_room
from tagger.drift import profile_of, write_profile
from tagger.errors import OutputError, UsageError
from tagger.fast_vit import write_out_attention
from tagger.feature_cache import FeatureCache
from tagger.fit import Learner, fit
from tagger.frozen import FrozenTowers
from tagger.images import NUM_THREADS, ImageStatus
from tagger.lock import Lock
from tagger.output import cannot_write, write_bytes
from tagger.paths import is_there
from tagger.pixel_cache import PixelCache
from tagger.precision import Bf16Change, change_by_bf16
from tagger.products import ProductSource
from tagger.shelf import CONFIG
from tagger.systems import SYSTEMS
from tagger.titles import title_status
from tagger.trained_on import write_trained_on
from tagger.training_data import Data, read_data
from tagger.version import __version__
from tagger.warm_start import start_model, trained_directory

LEARNING_CURVE = "learning_curve.png"
LOCK = ".lock"


@dataclass(frozen=True)
class TrainOptions:
    """What the command line says; None leaves the recipe of the model as it is."""

    catalog: Path
    tasks: Sequence[str]
    out: Path
    model: str = DEFAULT_DEFINITION
    validation: Path | None = None
    image_root: Path | None = None
    columns: Columns = field(default_factory=Columns)
    system: str | None = None
    pretrained: str | None = None
    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    seed: int | None = None
    device: str | None = None
    limit: int | None = None
    resume: bool = False
    freeze_towers: bool = False
    taxonomy: Path | None = None
    command: str = "tagger train"

    @property
    def products(self) -> ProductSource:
        """The catalog to train on."""
        return ProductSource(self.catalog, self.columns, self.image_root, self.limit, self.taxonomy)

    @property
    def kept_back(self) -> ProductSource | None:
        """The catalog to validate on; None if a share of the other one is."""
        if self.validation is None:
            return None
        return replace(self.products, path=self.validation, limit=None)

    @property
    def image_roots(self) -> tuple[Path, Path]:
        """Where image paths of the training and of the validation products start."""
        return self.products.root, (self.kept_back or self.products).root


@dataclass(frozen=True)
class TrainResult:
    """What a finished run says: the learning curve and where it was best; `seconds` are those of
    all its epochs, also of the sessions that a resumed run had before."""

    data: Data
    history: list[Epoch]
    best_epoch: int
    image_statuses: dict[ImageStatus, int]
    seconds: float
    bf16: Bf16Change | None = None
    """What bf16 would change; None where nothing was computed in it."""


class Monitor(Protocol):
    """What a run tells while it runs; the command line draws it."""

    def prepared(self, data: Data, model: torch.nn.Module, device: torch.device) -> None: ...
    def step(self, step: int, total: int, loss: float) -> None: ...
    def epoch(self, number: int, epoch: Epoch) -> None: ...
    def left_aside(self, trouble: str) -> None: ...


def train(options: TrainOptions, monitor: Monitor) -> TrainResult:
    """Train as `options` say and write the model directory `options.out`.

    Raises:
        CatalogError, ModelError, WeightsError, UsageError: before anything is written.
        UsageError: a step does not fit into the memory of the device.
        TrainingError: nothing to learn from, or a checkpoint of another run.
        OutputError: `out` exists already, or cannot be written.
        LockedError: another run is writing it.
        DiskFullError: there is no room left in it; finished epochs are kept.
    """
    keep_freed_memory()
    with locked(options.out):
        check_target(options)
        return _train(options, monitor)


def _train(options: TrainOptions, monitor: Monitor) -> TrainResult:
    source, definition = find_definition(options.model, options.pretrained)
    definition = with_system(definition, options.system)
    training = override(definition.training, options, source)
    device = choose_device(options.device)
    check_weights(options, training, definition, source)
    earlier = [path for path in (source, trained_directory(options.pretrained)) if path is not None]
    data = read_data(options.products, options.kept_back, options.tasks, training, earlier)
    config = msgspec.structs.replace(
        definition, training=training, tasks=data.tasks, applicability=data.applicability
    )
    titles = [t for t in data.train.titles if t is not None and title_status(t) == "ok"]
    model, tokenizer = start_model(source, config, titles, options.pretrained, training.seed)
    model = model.to(device)
    if device.type == "cpu":
        write_out_attention(model)
    monitor.prepared(data, model, device)
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        caches = [
            PixelCache(products.images, root, config.preprocess, pool)
            for products, root in zip(
                (data.train, data.validation), options.image_roots, strict=True
            )
        ]
        learner = Learner(model, tokenizer, training, data.train, caches[0], device)
        print_ = fingerprint(options, config, data, source)
        with enough_memory(learner), frozen_towers(learner, options.out, monitor.left_aside):
            history, best = fit(
                learner,
                data.validation,
                caches[1],
                options.out,
                print_,
                monitor.step,
                monitor.epoch,
            )
    statuses = Counter(status for cache in caches for status in cache.statuses.values())
    seconds = sum(epoch.seconds for epoch in history)
    change = change_by_bf16(config, model, tokenizer, data.validation, options.image_roots[1])
    if change is not None:
        config = msgspec.structs.replace(config, computes_in=change.computes_in)
    card = write_card(options.command, config, model, data, history, best, seconds, change)
    write_bytes(options.out / LEARNING_CURVE, draw_learning_curve(history, best))
    bundle.save(options.out, config, model, tokenizer, card)
    model.to("cpu")  # what was saved is loaded next, and a GPU may have no room for both
    write_what_it_saw(options, training, data, earlier, device)
    checkpoint.remove(options.out)
    return TrainResult(data, history, best, dict(statuses), seconds, change)


def check_weights(
    options: TrainOptions, training: Training, definition: Config, source: Path | None
) -> None:
    """Whether the towers know what the run takes for granted; `source` is the directory of the
    model to start from.

    Raises:
        UsageError: they are to be frozen and know nothing, a batch is too small to learn from, or
            see `check_needs_no_training`.
    """
    trained = is_trained(source)
    if training.batch_size < 2 and training.epochs and SYSTEMS[definition.fusion.system].zero_shot:
        raise UsageError(
            "a batch of one product has no other title to tell its own from",
            "take --batch-size 2 at least, better 128",
        )
    if training.freeze_towers and options.pretrained is None and not trained:
        asked = "--freeze-towers" if options.freeze_towers else f"the recipe of {options.model}"
        raise UsageError(
            f"{asked} freezes the towers, and these know nothing yet",
            "start from a trained model (--model DIR) or from weights (--pretrained TAG)",
        )
    if training.epochs == 0:
        check_needs_no_training(options, definition, source if trained else None)


def is_trained(source: Path | None) -> bool:
    """Whether `source`, the directory that a definition came from, has weights."""
    return source is not None and (source / bundle.WEIGHTS).is_file()


def check_needs_no_training(
    options: TrainOptions, definition: Config, trained: Path | None
) -> None:
    """Raises:
    UsageError: a system that has to learn labels, or towers that never learned from pictures with
        titles.
    """
    system = definition.fusion.system
    if not SYSTEMS[system].zero_shot:
        asked = (
            "--epochs 0" if options.epochs == 0 else f"the recipe of {options.model} is 0 epochs"
        )
        raise UsageError(
            f"{asked}: {system} knows no label before it has learned it",
            "add --epochs 10, or --system clip-zero-shot",
        )
    came_from = None if trained is None else read_config(trained / CONFIG).fusion.system
    of_pairs = came_from is not None and SYSTEMS[came_from].zero_shot
    # A file for towers that are not open_clip's holds an image tower alone.
    published = options.pretrained is not None and definition.architecture.open_clip is not None
    if not of_pairs and (not published or trained_directory(options.pretrained) is not None):
        raise UsageError(
            f"{system} needs contrastively pretrained weights, and {options.model} has none",
            "name some: --pretrained laion2b_s34b_b79k, or a file of weights; or learn from the "
            "catalog's own pictures and titles: --model clip-zero-shot-small",
        )


@contextmanager
def frozen_towers(learner: Learner, out: Path, left_aside: Callable[[str], None]) -> Iterator[None]:
    """Until the block ends, the towers of a recipe that freezes them see everything once.

    What they say is in `out` while the run is unfinished, so that a resumed one has it, too;
    `left_aside` is told why if it cannot be kept there any longer.

    Raises:
        OutputError: it cannot be written.
    """
    if not learner.training.freeze_towers:
        yield
        return
    model = learner.model
    for tower in (model.image_tower, model.text_tower):
        tower.requires_grad_(False)
    # What does not fit would be computed anew in each epoch: the disk alone is the limit.
    room = shutil.disk_usage(out).total
    with closing(FeatureCache(checkpoint.features(out), room, left_aside)) as cache:
        model.frozen = FrozenTowers(model, learner.tokenizer, cache)
        try:
            yield
        finally:
            model.frozen = None


@contextmanager
def enough_memory(learner: Learner) -> Iterator[None]:
    """Raises:
    UsageError: the device has no memory left for a step.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        size = learner.training.batch_size
        half = f"--batch-size {size // 2}, with another --out" if size > 1 else ""
        raise no_room(learner.device, f"a step of {size:,} products", half) from error


def write_what_it_saw(
    options: TrainOptions,
    training: Training,
    data: Data,
    earlier: Sequence[Path],
    device: torch.device,
) -> None:
    """profile.json, what the validation products look like; and hashes of the products that the
    model and those `earlier` ones that it came from learned from and were validated on."""
    trained = bundle.load(options.out, device)
    names = [task.name for task in data.tasks]
    with pictures(trained, data.validation, options.image_roots[1]) as pixels:
        batches = answer_batches(trained, data.validation, pixels, names)
        profile = profile_of(trained, data.validation, (answers for _, answers in batches))
    write_profile(profile, options.out)
    learned_from = data.train if training.epochs else data.train.take([])
    write_trained_on(options.out, learned_from, data.validation, earlier)


def override(training: Training, options: TrainOptions, source: Path | None) -> Training:
    """The recipe of `source` with the values that the command line names.

    `--lr` is the rate of the new layers; the other rates keep their ratio to it.
    """
    changes: dict[str, object] = {
        name: value
        for name in ("epochs", "batch_size", "seed")
        if (value := getattr(options, name)) is not None
    }
    # Who goes on from a model that had its towers frozen may want them trained.
    recipe = training.freeze_towers and not is_trained(source)
    changes["freeze_towers"] = options.freeze_towers or recipe
    if options.lr is not None:
        ratio = options.lr / training.lr if training.lr else 1.0
        changes |= {
            "lr": options.lr,
            "tower_lr": min(training.tower_lr * ratio, MAX_RATE),
            "muon_lr": min(training.muon_lr * ratio, MAX_RATE),
        }
    return msgspec.structs.replace(training, **changes)


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Until the block ends, no other run writes `out`, which is made where it is not there.

    Raises:
        LockedError: another one does.
        DiskFullError, OutputError: it cannot be written.
    """
    lock, was_there = Lock(out / LOCK), is_there(out, OutputError)
    try:
        lock.take(shared=False, patience=0.0)
    except OSError as error:
        raise cannot_write(out, error) from error
    try:
        yield
    finally:
        lock.release(remove=True)
        if not was_there:
            with suppress(OSError):  # it is not empty
                out.rmdir()


def check_target(options: TrainOptions) -> None:
    """Whether this run may write its output, before the work begins; what a kill left in a
    finished one is deleted where `resume` asks to end it.

    Raises:
        OutputError: it holds something that this run must not overwrite.
    """
    out = options.out
    unfinished = checkpoint.exists(out)
    if unfinished and not options.resume:
        raise OutputError(
            f"{out} holds an unfinished run", "add --resume to go on with it, or name another --out"
        )
    if (out / bundle.WEIGHTS).exists() and not unfinished:
        if options.resume:  # killed while it tidied up, which nobody else would do, in gigabytes
            checkpoint.remove_leftovers(out)
        named = shlex.join(["--tasks", ",".join(options.tasks), "--model", str(out)])
        raise OutputError(
            f"{out} holds a trained model already: its training has finished",
            f"use it: tagger predict CATALOG {named}; or train another one with another --out",
        )
    others = set(out.iterdir()) - {out / LOCK, *checkpoint.leftovers(out)}
    if others and not unfinished:
        raise OutputError(f"{out} is not empty", "name another --out")


def fingerprint(
    options: TrainOptions, config: Config, data: Data, source: Path | None
) -> dict[str, str]:
    """What decides the result of a run, by name; the pictures themselves are not read for it."""
    start = bundle.digest(source) if source is not None else options.model
    towers = trained_directory(options.pretrained)
    pretrained = options.pretrained if towers is None else bundle.digest(towers)
    return {
        "configuration": msgspec.json.encode(config).decode(),
        "training catalog": data.train.digest(),
        "validation catalog": data.validation.digest(),
        "start": f"{start} {pretrained}",
        "image root": " ".join(str(root.resolve()) for root in options.image_roots),
        "version of tagger or torch": f"{__version__} {torch.__version__}",
    }
