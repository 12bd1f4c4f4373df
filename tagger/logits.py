"""Logits of labelled products in memory, with picture and title shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tagger.bundle import Bundle
from tagger.pixel_cache import PixelCache
from tagger.products import Products
from tagger.views import predict_views

NUM_THREADS = 8
Logits = NDArray[np.float32]


def collect_logits(
    bundle: Bundle,
    products: Products,
    root: Path,
    tasks: Sequence[str],
    progress: Callable[[int, int], None],
) -> tuple[dict[str, Logits], NDArray[np.bool_]]:
    """Per task (n, labels), and whether (n,) there was anything to answer from."""
    collected: dict[str, list[Logits]] = {name: [] for name in tasks}
    answered: list[NDArray[np.bool_]] = []
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        pixels = PixelCache(products.images, root, bundle.config.preprocess, pool, max_bytes=0)
        for rows, outputs in predict_views(
            bundle.model, bundle.tokenizer, products, pixels, bundle.device, ["both"], frozenset()
        ):
            output = outputs["both"]
            for name in tasks:
                collected[name].append(output.logits[name].cpu().numpy())
            answered.append((output.modality_weights.sum((1, 2)) > 0).cpu().numpy())
            progress(rows[-1] + 1, len(products))
    return {n: np.concatenate(parts) for n, parts in collected.items()}, np.concatenate(answered)


def softmax(logits: Logits, temperature: float) -> NDArray[np.float64]:
    """(n, labels) probabilities at `temperature`."""
    scaled = logits.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max(1, keepdims=True))
    probabilities: NDArray[np.float64] = powers / powers.sum(1, keepdims=True)
    return probabilities
