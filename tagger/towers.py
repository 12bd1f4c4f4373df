"""Image and text towers: open_clip's by name, or small ones by their dimensions.

Every tower returns its global token (batch, width) and its tokens (batch, n, width).
"""

from __future__ import annotations

import functools
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tagger.config import TokenTower
from tagger.conv_towers import ConvImageTower, MobileImageTower
from tagger.errors import ModelError, WeightsError, closest
from tagger.quiet import quietly


class Attention(nn.Module):
    """Multi-head self-attention with a key mask.

    Written out, because at a few dozen tokens the backward pass of the fused kernel takes more
    than twice the time on a CPU.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        # A module, so that a forward hook sees the weights (batch, heads, length, length).
        self.softmax = nn.Softmax(-1)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor, rows: Sequence[int] | None = None) -> Tensor:
        """Of all tokens, or of those at `rows` alone, to all that mask (batch, length) allows."""
        if rows is not None:
            return self._of_few(x, chosen(x, rows), mask)
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        scores = (query * (width // self.heads) ** -0.5) @ key.transpose(-1, -2)
        mixed = self._weights(scores, mask).to(value.dtype) @ value
        return self.out(mixed.transpose(1, 2).reshape(x.shape))  # type: ignore[no-any-return]

    def _of_few(self, x: Tensor, asking: Tensor, mask: Tensor) -> Tensor:
        """Of the tokens `asking` (batch, few, width) to those of x, whose keys and values are never
        computed: they would be most of the work.

        A score q . (K x + c) is (K'q) . x and a number that is the same for all of x, which the
        softmax does not see; and the mean of values V x is V times the mean of x.
        """
        batch, few, width = asking.shape
        size = width // self.heads
        to_query, *others = torch.split(self.qkv.weight, width)
        to_key, to_value = (matrix.view(self.heads, size, width) for matrix in others)
        of_query, _, of_value = torch.split(self.qkv.bias, width)
        query = F.linear(asking, to_query, of_query).view(batch, few, self.heads, size) * size**-0.5
        sought = torch.einsum("bqhd,hdw->bhqw", query, to_key)
        weights = self._weights(torch.einsum("bhqw,bnw->bhqn", sought, x), mask)
        read = torch.einsum("bhqn,bnw->bhqw", weights.to(x.dtype), x)
        mixed = torch.einsum("bhqw,hdw->bqhd", read, to_value).flatten(2) + of_value
        return self.out(mixed)  # type: ignore[no-any-return]

    def _weights(self, scores: Tensor, mask: Tensor) -> Tensor:
        """The softmax of scores (batch, heads, n, length), float32, where mask allows."""
        scores = scores.masked_fill(~mask[:, None, None, :], -1e4)
        return self.softmax(scores.float())  # type: ignore[no-any-return]


class TransformerBlock(nn.Module):
    """Pre-norm transformer block; mask (batch, length) is True where a token may be attended."""

    def __init__(self, width: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, mlp_ratio * width),
            nn.GELU(approximate="tanh"),
            nn.Linear(mlp_ratio * width, width),
        )

    def forward(self, x: Tensor, mask: Tensor, rows: Sequence[int] | None = None) -> Tensor:
        """(batch, length, width), or (batch, len(rows), width) where only `rows` are asked for."""
        attended = self.attention(self.attention_norm(x), mask, rows)
        x = (x if rows is None else chosen(x, rows)) + attended
        return x + self.mlp(self.mlp_norm(x))  # type: ignore[no-any-return]


def chosen(x: Tensor, rows: Sequence[int]) -> Tensor:
    """(batch, len(rows), width): the tokens at `rows`."""
    # Not x[:, rows], which torch.export takes for constants.
    return torch.stack([x[:, row] for row in rows], 1)


class TokenTextTower(nn.Module):
    """ids (batch, n) with mask (batch, n) -> global (batch, w) at the last token, tokens.

    Each token also knows its `Neighbours`, if the tower has a kernel.
    """

    # A title may be padded to the longest of its batch, not to the context length.
    fixed_length: int | None = None

    def __init__(self, config: TokenTower) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocabulary_size, config.width)
        self.position = nn.Parameter(torch.empty(config.context_length, config.width))
        self.neighbours = Neighbours(config.width, config.kernel) if config.kernel > 1 else None
        self.blocks = nn.ModuleList(
            TransformerBlock(config.width, config.heads, config.mlp_ratio)
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width)
        self.width = config.width
        self.token_width = config.width
        nn.init.normal_(self.embedding.weight, std=0.05)
        nn.init.normal_(self.position, std=0.02)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        x = self.embedded(ids, mask)
        for block in self.blocks:
            x = block(x, mask)
        tokens = self.norm(x)
        last = (mask.sum(1) - 1).clamp(min=0)
        return tokens[torch.arange(tokens.shape[0], device=ids.device), last], tokens

    def embedded(self, ids: Tensor, mask: Tensor) -> Tensor:
        """What goes into the first block: (batch, n, w)."""
        words = self.embedding(ids)
        x: Tensor = words + self.position[: ids.shape[1]]
        return x if self.neighbours is None else x + self.neighbours(words, mask)


class Neighbours(nn.Module):
    """words (batch, n, w), mask (batch, n) -> what each gets from those around it, (batch, n, w).

    A depthwise convolution, as "Primer" (So et al. 2021) has in its attention. Shops label "green &
    pink" with the first color: pairs of words tell it, and attention over absolute positions hardly
    learned them from 30,000 titles.
    """

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width, kernel))

    def forward(self, words: Tensor, mask: Tensor) -> Tensor:
        # What a title is filled up with must not be seen, or the batch would change its tokens.
        length, side = words.shape[1], self.weight.shape[1] // 2
        padded = F.pad(words * mask[..., None], (0, 0, side, side))
        # Sums written out, whose order no batch changes; conv1d would choose one by the shape.
        parts = [
            padded[:, place : place + length] * weight
            for place, weight in enumerate(self.weight.unbind(1))
        ]
        return functools.reduce(torch.add, parts)


class OpenClipImageTower(nn.Module):
    """`visual` of an open_clip model: global = encode_image, tokens = its patch tokens."""

    pixel_dtype: torch.dtype | None = None
    """In which it takes its pixels; None: that of its weights."""

    def __init__(self, visual: Any, width: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.visual = visual
        if hasattr(visual, "output_tokens"):
            visual.output_tokens = True
        self.width = width
        self.size = size
        # CoCa pools the patches into tokens that stand for no place of the picture.
        self.tokens_are_places = getattr(visual, "attn_pool", None) is None
        with torch.no_grad():
            was_training = visual.training
            visual.eval()
            tokens = self(torch.zeros(1, 3, *size))[1]
            self.num_tokens, self.token_width = int(tokens.shape[1]), int(tokens.shape[2])
            visual.train(was_training)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        visual = self.visual
        if hasattr(visual, "output_tokens"):  # vision transformers, CoCa's among them
            pooled, tokens = visual(pixels)
            return pooled, tokens
        if hasattr(visual, "trunk"):  # timm: SigLIP, ConvNeXt, ...
            features = visual.trunk.forward_features(pixels)
            pooled = visual.head(visual.trunk.forward_head(features))
            if features.ndim == 4:
                # Swin transformers put out (n, rows, columns, w), all others (n, w, rows, columns).
                if getattr(visual.trunk, "output_fmt", "NCHW") == "NHWC":
                    return pooled, features.flatten(1, 2)
                return pooled, features.flatten(2).transpose(1, 2)
            return pooled, features[:, visual.trunk.num_prefix_tokens :]
        features = visual.stem(pixels)  # CLIP's modified ResNet
        for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
            features = layer(features)
        return visual.attnpool(features), features.flatten(2).transpose(1, 2)


class OpenClipTextTower(nn.Module):
    """`text` of an open_clip model: global = encode_text, tokens = its token embeddings.

    A causal tower sees nothing behind the end of the text, so its input may be cut to the longest
    title of a batch; a bidirectional or CoCa tower must see its full context (`fixed_length`).
    """

    def __init__(self, text: Any, width: int) -> None:
        super().__init__()
        self.text = text
        text.output_tokens = True
        self.width = width
        self.token_width = int(text.token_embedding.weight.shape[1])
        self.cuttable = (
            text.attn_mask is not None
            and text.cls_emb is None
            and not text.use_pad_mask
            and text.pool_type in ("argmax", "eos")
        )
        self.fixed_length: int | None = None if self.cuttable else int(text.context_length)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        if not self.cuttable:
            pooled, tokens = self.text(ids)
            return pooled, tokens
        from open_clip.transformer import text_global_pool

        text, length = self.text, ids.shape[1]
        x = self.embedded(ids, mask)
        # Made anew, not cut from text.attn_mask: torch.export would then except the full length.
        causal = x.new_full((length, length), float("-inf")).triu(1)
        x = text.ln_final(text.transformer(x, attn_mask=causal))
        pooled = text_global_pool(x, ids, text.pool_type, getattr(text, "eos_id", None))
        return self.projected(pooled), x

    def embedded(self, ids: Tensor, mask: Tensor) -> Tensor:
        """What goes into the first block of a tower without a class token: (batch, n, w)."""
        text = self.text
        x: Tensor = text.token_embedding(ids) + text.positional_embedding[: ids.shape[1]]
        return x

    def projected(self, pooled: Tensor) -> Tensor:
        """From the width of the blocks to that of the global token."""
        projection = self.text.text_projection
        if projection is None:
            return pooled
        whole: Tensor = (
            projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection
        )
        return whole


class NoTower(nn.Module):
    """In place of a tower that a system does without: one zero, whatever it is shown."""

    width = token_width = 1
    fixed_length: int | None = None
    tokens_are_places = False

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(batch, 1) and (batch, 1, 1)."""
        nothing = torch.zeros(x.shape[0], 1, device=x.device)
        return nothing, nothing[:, None]


ImageTower = ConvImageTower | MobileImageTower | OpenClipImageTower | NoTower
TextTower = TokenTextTower | OpenClipTextTower | NoTower


def grid_of(count: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of `count` places that fit a picture of `height` x `width` best."""
    shapes = [(rows, count // rows) for rows in range(1, count + 1) if count % rows == 0]
    return min(shapes, key=lambda shape: abs(math.log(shape[0] * width / (shape[1] * height))))


def open_clip_config(name: str) -> dict[str, Any]:
    """open_clip's own description of architecture `name`.

    Raises:
        ModelError: open_clip has no such architecture, or its text tower is a Hugging Face model,
            which cannot be rebuilt without the network.
    """
    import open_clip

    config = open_clip.get_model_config(name)
    if config is None:
        names = open_clip.list_models()
        raise ModelError(
            f"open_clip has no architecture {name!r}.{closest(name, names)}",
            'python -c "import open_clip; print(open_clip.list_models())" lists them',
        )
    if config["text_cfg"].get("hf_model_name"):
        raise ModelError(
            f"{name}: its text tower is {config['text_cfg']['hf_model_name']!r} from Hugging Face, "
            "which cannot be rebuilt without the network",
            "choose an architecture with an open_clip text tower, such as ViT-B-32",
        )
    return dict(config)


def open_clip_image_size(config: dict[str, Any]) -> tuple[int, int]:
    """(height, width) of the pictures that an architecture takes."""
    size = config["vision_cfg"].get("image_size", 224)
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def open_clip_towers(name: str) -> tuple[OpenClipImageTower, OpenClipTextTower]:
    """Towers of open_clip architecture `name` with random weights.

    Raises:
        ModelError: see `open_clip_config`.
    """
    import open_clip

    config = open_clip_config(name)
    # force_custom_text gives every architecture the same two members, visual and text.
    # It warns of random weights, which is no news here: others are filled in, or trained.
    with quietly():
        model = open_clip.create_model(
            name,
            force_custom_text=True,
            pretrained_text=False,
            device=torch.empty(0).device,  # where layers are made here; its own default is the CPU
        )
    return (
        OpenClipImageTower(model.visual, config["embed_dim"], open_clip_image_size(config)),
        OpenClipTextTower(model.text, config["embed_dim"]),
    )


def load_pretrained(name: str, pretrained: str, image: ImageTower, text: TextTower) -> Tensor:
    """Fill both towers from a local .pt/.safetensors file or from an open_clip tag; of towers that
    lack parts of the architecture, what they have.

    Returns:
        (): the logarithm of the scale of cosines that the weights were trained with.

    Raises:
        WeightsError: no such file or tag, the network cannot be reached, or the file does not
            fit the architecture.
    """
    import open_clip

    published = open_clip.get_pretrained_cfg(name, pretrained) or {}
    quick = bool(open_clip_config(name).get("quick_gelu", False))
    if bool(published.get("quick_gelu", quick)) != quick:
        # open_clip only warns here, and the embeddings come out wrong.
        other = name.removesuffix("-quickgelu") if quick else f"{name}-quickgelu"
        raise WeightsError(
            f"weights {pretrained!r} were trained with another activation than {name} has",
            f"--model {other} --pretrained {shlex.quote(pretrained)}",
        )
    is_file = Path(pretrained).suffix in (".pt", ".pth", ".bin", ".safetensors")
    tags = open_clip.list_pretrained_tags_by_model(name)
    if is_file and not Path(pretrained).is_file():
        raise WeightsError(
            f"no such weights file: {pretrained}", "name a file that is there: --pretrained FILE"
        )
    if not is_file and pretrained not in tags:
        raise WeightsError(
            f"open_clip has no weights {pretrained!r} for {name}; it has: {', '.join(tags) or '-'}"
            f".{closest(pretrained, tags)}",
            "name one of these tags, or a .pt, .pth, .bin or .safetensors file",
        )
    try:
        with quietly():
            model = open_clip.create_model(
                name, pretrained=pretrained, force_custom_text=True, weights_only=True
            )
    # The hub client raises errors of a dozen libraries when it is offline or a file is damaged.
    except Exception as error:
        raise _not_loaded(name, pretrained, is_file, error) from error
    if isinstance(image, OpenClipImageTower):
        _fill(image.visual, model.visual)
    if isinstance(text, OpenClipTextTower):
        _fill(text.text, model.text)
    scale: Tensor = model.logit_scale.detach()
    return scale


def _not_loaded(name: str, pretrained: str, is_file: bool, error: Exception) -> WeightsError:
    # torch begins with a line that names nothing; those that follow name what does not fit.
    lines = (str(error).strip() or repr(error)).splitlines()[:3]
    reason = " ".join(line.strip()[:200] for line in lines)
    return WeightsError(
        f"weights {pretrained!r} for {name} could not be loaded: {reason}",
        "the file is damaged, or of another architecture: name that one, --model NAME"
        if is_file
        else "offline? give a local file: --pretrained weights.safetensors; or train from scratch "
        "without --pretrained",
    )


def _fill(tower: nn.Module, whole: nn.Module) -> None:
    own = tower.state_dict()
    tower.load_state_dict({k: v for k, v in whole.state_dict().items() if k in own})
