"""Towers that training leaves as they are: what they say of each picture and title is kept."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from tagger.bundle import Bundle
from tagger.encoder import Encoder
from tagger.feature_cache import FeatureCache
from tagger.images import Pixels
from tagger.inference import speed_up
from tagger.network import Features, Network
from tagger.runtime import ROUND, Inputs
from tagger.tokenizer import Tokenizer

MAX_BYTES = 1 << 30
"""Of features in memory, for pictures and for titles; others come from the cache on disk."""


class FrozenTowers:
    """Copies of a model's towers made ready to answer fast, which see everything once."""

    def __init__(self, model: Network, tokenizer: Tokenizer, cache: FeatureCache | None) -> None:
        """`model` itself stays as it is; put the towers to work as `model.frozen`."""
        ready = copy.deepcopy(model).eval()
        speed_up(ready, fp32=model.config.computes_in == "float32")
        bundle = Bundle(
            path=Path(), config=model.config, model=ready, tokenizer=tokenizer, sha256=""
        )
        # A batch of training has titles of all lengths: coarse steps make fewer, larger batches.
        self.encoder = Encoder(bundle, cache, MAX_BYTES, title_step=ROUND)

    def image_features(self, pixels: Tensor) -> Features:
        """pixels uint8 (n, 3, height, width), as decoded."""
        pictures = pixels.permute(0, 2, 3, 1).cpu().contiguous().numpy()
        return self._in_own_precision(
            lambda: self.encoder.image_features([self._seen(picture) for picture in pictures])
        )

    def text_features(self, ids: Tensor, mask: Tensor) -> Features:
        """ids and mask (n, length); what stands behind the end of a title is no feature of it."""
        ends = mask.sum(1).tolist()
        titles = [tuple(row[:end]) for row, end in zip(ids.tolist(), ends, strict=True)]
        features = self._in_own_precision(lambda: self.encoder.text_features(titles))
        return Features(features.pooled, features.tokens[:, : ids.shape[1]])

    def _in_own_precision(self, compute: Callable[[], Features]) -> Features:
        """As in predict; outside of autocast, which takes either, as float32."""
        device = self.encoder.bundle.device.type
        with torch.no_grad(), torch.autocast(device, enabled=False):
            features = compute()
        if torch.is_autocast_enabled(device):
            return features
        return Features(features.pooled.float(), features.tokens.float())

    def _seen(self, picture: Pixels) -> Inputs:
        key = hashlib.sha256(picture.data).digest()
        features = self.encoder.recall(key)
        return Inputs(key, picture if features is None else None, features)
