"""The running mean of a network's weights over the steps of its training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from tagger.network import TOWERS, Network


class WeightAverage:
    """An exponential moving average of what `model` learns (Polyak and Juditsky 1992).

    The weights of single steps jump about what they could be at the end of the schedule; their mean
    is near it all along. `weights` are those of a run that goes on.
    """

    def __init__(
        self, model: Network, decay: float, weights: dict[str, Tensor] | None = None
    ) -> None:
        self._model, self._decay = model, decay
        start = weights or copy_learned(model)
        self.weights = {name: tensor.to(model.device) for name, tensor in start.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move by a share of 1 - decay towards the weights after `step`, counted from 0; by more in
        the first steps, so that what the run started from does not linger."""
        share = 1 - min(self._decay, (1 + step) / (10 + step))
        for name, value in learned(self._model).items():
            if value.is_floating_point():
                self.weights[name].lerp_(value, share)
            else:
                self.weights[name].copy_(value)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The network has the mean of its weights until the block ends."""
        last = copy_learned(self._model)
        put_learned(self._model, self.weights)
        try:
            yield
        finally:
            put_learned(self._model, last)


def learned(model: Network) -> dict[str, Tensor]:
    """What training changes: frozen towers are where the run starts from, and writing a large one
    after each epoch would take longer than the epoch."""
    state = model.state_dict()
    if model.frozen is None:
        return state
    return {name: tensor for name, tensor in state.items() if not name.startswith(TOWERS)}


def copy_learned(model: Network) -> dict[str, Tensor]:
    """`learned`, on the CPU, as it is now."""
    return {name: tensor.detach().cpu().clone() for name, tensor in learned(model).items()}


def put_learned(model: Network, weights: dict[str, Tensor]) -> None:
    """Load `weights`, which must be all that training changes."""
    state = model.state_dict()
    for name in learned(model):
        del state[name]
    model.load_state_dict(state | weights)
