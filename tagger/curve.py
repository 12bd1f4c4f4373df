"""The learning curve of a training run as a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np

from tagger.checkpoint import Epoch, mean
from tagger.modalities import VIEW_NAMES
from tagger.views import VIEWS_IN_TRAINING


def draw_learning_curve(history: Sequence[Epoch], best_epoch: int) -> bytes:
    """Training loss, and mean validation accuracy per view, over epochs, as PNG."""
    from matplotlib.figure import Figure

    epochs = range(1, len(history) + 1)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    losses = [np.nan if epoch.loss is None else epoch.loss for epoch in history]
    loss.plot(epochs, losses, marker=".", color="#444444")
    loss.set(xlabel="epoch", ylabel="training loss", ylim=(0, None))
    for view in VIEWS_IN_TRAINING:
        means = [mean(epoch.accuracy[view].values()) for epoch in history]
        line = accuracy.plot(epochs, means, marker=".", label=VIEW_NAMES[view])[0]
        accuracy.annotate(
            f"{means[best_epoch]:.3f}",
            (best_epoch + 1, means[best_epoch]),
            textcoords="offset points",
            xytext=(0, 5),
            ha="center",
            color=line.get_color(),
        )
    accuracy.axvline(best_epoch + 1, color="#999999", linestyle=":", label="best epoch")
    accuracy.set(xlabel="epoch", ylabel="validation accuracy, mean over tasks")
    # Outside of the axes: where few epochs leave no corner free, it would hide a curve.
    figure.legend(loc="outside upper right", ncols=len(VIEWS_IN_TRAINING) + 1, frameon=False)
    for axes in (loss, accuracy):
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.get_major_locator().set_params(integer=True)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    return picture.getvalue()
