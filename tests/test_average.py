"""examples/average.py: the mean of models that fit together, and of no others."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace

from tagger import bundle

from .conftest import save_tiny, tiny_config

ROOT = Path(__file__).parent.parent


def average(monkeypatch: pytest.MonkeyPatch, *arguments: Path | str) -> None:
    script = ROOT / "examples/average.py"
    monkeypatch.setattr(sys, "argv", [str(script), *map(str, arguments)])
    runpy.run_path(str(script), run_name="__main__")


def test_weights_are_the_means_and_what_was_measured_is_forgotten(
    calibrated_dir: Path, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = save_tiny(tmp_path / "other", tiny_config(), seed=7)
    average(monkeypatch, calibrated_dir, other, "--out", tmp_path / "mean")
    one, two, mean = (
        bundle.load(path).model.state_dict() for path in (calibrated_dir, other, tmp_path / "mean")
    )
    assert not torch.equal(one["norm.weight"], two["norm.weight"])
    for name, tensor in mean.items():
        if tensor.is_floating_point():
            want = (one[name] + two[name]) / 2
            torch.testing.assert_close(tensor, want, rtol=2e-3, atol=1e-3)
    assert (calibrated_dir / "calibration.json").is_file()
    assert not (tmp_path / "mean/calibration.json").exists()


@pytest.mark.parametrize("part", ["tasks", "preprocess"])
def test_models_that_do_not_fit_together_are_refused(
    part: str, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config()
    changed = (
        replace(config, tasks=config.tasks[:1])
        if part == "tasks"
        else replace(config, preprocess=replace(config.preprocess, width=32))
    )
    other = save_tiny(tmp_path / "other", changed)
    with pytest.raises(SystemExit, match=f"other {part} than"):
        average(monkeypatch, model_dir, other, "--out", tmp_path / "mean")
    assert not (tmp_path / "mean").exists()
