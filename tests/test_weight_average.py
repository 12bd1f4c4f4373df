"""The running mean of weights: what it is, and that the network gets its own back."""

from __future__ import annotations

from contextlib import suppress

import torch

from tagger.network import Network
from tagger.weight_average import WeightAverage, copy_learned
from tests.test_model import make_model


def fill(model: Network, value: float) -> None:
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(value)


def floats(weights: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    return [tensor for tensor in weights.values() if tensor.is_floating_point()]


def test_each_step_moves_the_mean_by_what_the_decay_leaves() -> None:
    model = make_model()
    fill(model, 1.0)
    average = WeightAverage(model, 0.75)
    fill(model, 3.0)
    average.update(10_000)
    for tensor in floats(average.weights):
        torch.testing.assert_close(tensor, torch.full_like(tensor, 1.5))


def test_what_a_run_started_from_is_forgotten_within_a_few_steps() -> None:
    model = make_model()
    fill(model, 100.0)
    average = WeightAverage(model, 0.999)
    fill(model, 0.0)
    for step in range(50):
        average.update(step)
    assert all(float(tensor.max()) < 0.01 for tensor in floats(average.weights))


def test_the_network_has_the_mean_inside_and_its_own_weights_afterwards() -> None:
    model = make_model()
    own = copy_learned(model)
    average = WeightAverage(model, 0.5, {name: torch.ones_like(t) for name, t in own.items()})
    with suppress(KeyboardInterrupt), average.in_place():
        assert all((tensor == 1).all() for tensor in copy_learned(model).values())
        raise KeyboardInterrupt
    assert all(torch.equal(tensor, own[name]) for name, tensor in copy_learned(model).items())
