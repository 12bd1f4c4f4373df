"""Every system of the shelf, by the name that `fusion.system` of config.json gives it."""

from __future__ import annotations

from tagger.config import Config, System
from tagger.model import CMAClip
from tagger.network import Network
from tagger.systems.clip_fine_tuned import ClipFineTuned
from tagger.systems.cma_ablation import WithoutModalityAttention
from tagger.systems.coca import CoCa
from tagger.systems.embracenet import EmbraceNet
from tagger.systems.mmbt import MMBT
from tagger.systems.one_modality import ImageOnly, TitleOnly
from tagger.systems.one_stream import KaleidoBERT, OneStream
from tagger.systems.perceiver_io import PerceiverIO
from tagger.systems.zero_shot import ClipZeroShot

SYSTEMS: dict[System, type[Network]] = {
    "cma-clip": CMAClip,
    "cma-clip-without-modality-attention": WithoutModalityAttention,
    "clip-fine-tuned": ClipFineTuned,
    "clip-zero-shot": ClipZeroShot,
    "coca": CoCa,
    "embracenet": EmbraceNet,
    "kaleidobert": KaleidoBERT,
    "mmbt": MMBT,
    "one-stream": OneStream,
    "perceiver-io": PerceiverIO,
    "image-only": ImageOnly,
    "title-only": TitleOnly,
}


def build_network(config: Config) -> Network:
    """The network that `config` describes, with random weights.

    Raises:
        ModelError: the architecture is not known, or the system cannot stand on it.
    """
    return SYSTEMS[config.fusion.system](config)
