"""The mean of the weights of models that learned the same tasks from the same start, as a model.

    python examples/average.py first second third --out averaged

The models must stem from one another or from one parent, or their weights have nothing to do with
each other. The mean is about as good as the answers of all averaged, at the cost of one
(Wortsman et al. 2022, "Model soups"). Calibrate it anew: tagger eval CATALOG --calibrate.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from tagger import bundle
from tagger.bundle import Bundle
from tagger.shelf import CARD


def main() -> None:
    """Parse options, average, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("models", nargs="+", type=Path, help="two model directories or more")
    parser.add_argument("--out", required=True, type=Path, help="a folder that is not there yet")
    options = parser.parse_args()
    models = [bundle.load(path) for path in options.models]
    for other in models[1:]:
        if differs := difference(models[0], other):
            sys.exit(f"{other.path} has other {differs} than {models[0].path}")
    if options.out.exists():
        sys.exit(f"{options.out} is there already: name another --out")
    model = models[0].model
    model.load_state_dict(mean([one.model.state_dict() for one in models]))
    names = ", ".join(str(path) for path in options.models)
    card = f"# The mean of {names}\n\nMade by `examples/average.py`.\n"
    # What it learned from stays true; how sure it is, and on what, has to be measured anew.
    forgotten = shutil.ignore_patterns("calibration.json", "profile.json", "*.png", CARD)
    shutil.copytree(options.models[0], options.out, ignore=forgotten)
    bundle.save(options.out, models[0].config, model, models[0].tokenizer, card)


def difference(one: Bundle, other: Bundle) -> str:
    """What makes a mean of their weights senseless; empty if nothing does."""
    if one.tokenizer.to_fast().to_str() != other.tokenizer.to_fast().to_str():
        return "tokens"
    for part in ("architecture", "fusion", "preprocess", "tasks"):
        if getattr(one.config, part) != getattr(other.config, part):
            return part
    return ""


def mean(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Of each tensor; what is counted, not measured, is the first one's."""
    return {
        name: torch.stack([state[name] for state in states]).mean(0)
        if first.is_floating_point()
        else first
        for name, first in states[0].items()
    }


if __name__ == "__main__":
    main()
