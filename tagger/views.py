"""A model's answers with both modalities, with either withheld, and with scrubbed titles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from tagger.device import no_room, training_precision
from tagger.inference import image_features
from tagger.modalities import View
from tagger.network import Network, Output
from tagger.network import Sequence as Sequence_
from tagger.pixel_cache import PixelCache
from tagger.preprocess import collate_images, collate_titles
from tagger.products import Products
from tagger.scrub import scrub
from tagger.tasks import NO_ANSWER, UNKNOWN_LABEL, UNLABELED
from tagger.tokenizer import Tokenizer

VIEWS_IN_TRAINING: tuple[View, ...] = ("both", "image", "title")

BATCH_SIZE = 256


def score_views(
    model: Network,
    tokenizer: Tokenizer,
    products: Products,
    pixels: PixelCache,
    device: torch.device,
) -> dict[str, dict[str, float | None]]:
    """Accuracy by view and task, in the precision of training; None for a task without labels."""
    tasks = model.config.tasks
    truth = {t.name: t.label_ids(products.labels[t.name]) for t in tasks}
    # Of a label that is an inner node every leaf is right; of none or an unknown one, no leaf.
    no_leaf = [[0, 0]] * -min(UNLABELED, UNKNOWN_LABEL)
    spans = {t.name: np.concatenate([t.tree.spans, no_leaf]) for t in tasks}
    right: dict[str, dict[str, int]] = {v: {t.name: 0 for t in tasks} for v in VIEWS_IN_TRAINING}
    with training_precision(device):
        for rows, outputs in predict_views(
            model, tokenizer, products, pixels, device, VIEWS_IN_TRAINING
        ):
            for view, output in outputs.items():
                for name, logits in output.logits.items():
                    answered = output.answerable.cpu().numpy()
                    guess = np.where(answered, logits.argmax(-1).cpu().numpy(), NO_ANSWER)
                    first, behind = spans[name][truth[name][rows]].T
                    right[view][name] += int(((first <= guess) & (guess < behind)).sum())
    known = {name: int((ids != UNLABELED).sum()) for name, ids in truth.items()}
    return {
        view: {
            name: count / known[name] if known[name] else None for name, count in by_task.items()
        }
        for view, by_task in right.items()
    }


@torch.inference_mode()
def predict_views(
    model: Network,
    tokenizer: Tokenizer,
    products: Products,
    pixels: PixelCache,
    device: torch.device,
    views: Sequence[View],
    words: Mapping[str, frozenset[str]] | None = None,
) -> Iterator[tuple[list[int], dict[View, Output]]]:
    """Row numbers and outputs per view, batch by batch.

    For each task, the view "scrubbed" takes its `words` out of the titles; it answers only tasks
    that have some. Batches that do not fit into the memory of the device are halved.

    Raises:
        UsageError: one product alone does not fit.
    """
    model.eval()
    start, size = 0, BATCH_SIZE
    while start < len(products):
        rows = list(range(start, min(start + size, len(products))))
        try:
            outputs = _outputs(model, tokenizer, products, pixels, device, views, words or {}, rows)
        except torch.OutOfMemoryError as error:
            if len(rows) == 1:
                raise no_room(device, "one product") from error
        else:
            yield rows, outputs
            start += size
            continue
        # Outside of the except clause, whose error still holds the tensors.
        size = len(rows) // 2
        torch.cuda.empty_cache()


def _outputs(
    model: Network,
    tokenizer: Tokenizer,
    products: Products,
    pixels: PixelCache,
    device: torch.device,
    views: Sequence[View],
    words: Mapping[str, frozenset[str]],
    rows: Sequence[int],
) -> dict[View, Output]:
    """The outputs of one batch, `rows` of the products, per view."""
    batch = products.take(rows)
    pictures, present = collate_images(pixels.get(rows), model.config.preprocess)
    image = model.project_image(image_features(model, pictures), present.to(device))
    fixed = model.text_tower.fixed_length
    text = model.encode_text(*_to(device, collate_titles(batch.titles, tokenizer, fixed)))
    outputs: dict[View, Output] = {}
    for view in views:
        if view == "scrubbed":
            outputs[view] = _scrubbed(model, tokenizer, image, batch.titles, words)
        else:
            outputs[view] = model.fuse(
                image if view != "title" else None, text if view != "image" else None
            )
    return outputs


def _scrubbed(
    model: Network,
    tokenizer: Tokenizer,
    image: Sequence_,
    titles: Sequence[str | None],
    words: Mapping[str, frozenset[str]],
) -> Output:
    """Each task answered from titles without its own words."""
    names = [task.name for task in model.config.tasks]
    logits: dict[str, Tensor] = {}
    weights = image.tokens.new_zeros(len(titles), len(names), 2, dtype=torch.float32)
    fixed, device = model.text_tower.fixed_length, image.tokens.device
    for name, own in words.items():
        bare = [None if title is None else scrub(title, own) for title in titles]
        text = model.encode_text(*_to(device, collate_titles(bare, tokenizer, fixed)))
        output = model.fuse(image, text)
        logits[name] = output.logits[name]
        weights[:, names.index(name)] = output.modality_weights[:, names.index(name)]
    return Output(logits, weights)


def _to(device: torch.device, tensors: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return tensors[0].to(device), tensors[1].to(device)
