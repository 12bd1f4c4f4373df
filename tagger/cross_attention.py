"""Attention of a few queries to the tokens of both modalities, with the weights that it gave."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class CrossAttention(nn.Module):
    """Pre-norm multi-head attention of queries to tokens; a mask is True where a token may be
    attended."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_norm = nn.LayerNorm(width)
        self.token_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        # A module, so that a forward hook sees the weights (batch, heads, q, n).
        self.softmax = nn.Softmax(-1)
        self.out = nn.Linear(width, width)

    def forward(self, queries: Tensor, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """queries (batch, q, width), tokens (batch, n, width), mask (batch, n) -> what the queries
        read (batch, q, width), and the attention (batch, q, n), mean over the heads."""
        width = queries.shape[2]
        weight, bias = self.qkv.weight, self.qkv.bias
        known = self.token_norm(tokens)
        asking = self.query_norm(queries)
        scores = scores_of(asking, known, weight, bias, self.heads, mask)
        attention = self.softmax(scores)
        value = F.linear(known, weight[2 * width :], bias[2 * width :])
        mixed = attention.to(value.dtype) @ _split(value, self.heads)
        read = self.out(mixed.transpose(1, 2).reshape(queries.shape))
        return read, attention.mean(1)


class CrossBlock(nn.Module):
    """`CrossAttention` and an MLP, each added to the queries."""

    def __init__(self, width: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.attention = CrossAttention(width, heads)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, mlp_ratio * width),
            nn.GELU(approximate="tanh"),
            nn.Linear(mlp_ratio * width, width),
        )

    def forward(self, queries: Tensor, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """As `CrossAttention`."""
        read, attention = self.attention(queries, tokens, mask)
        x = queries + read
        return x + self.mlp(x), attention


def attention_of(
    queries: Tensor, tokens: Tensor, weight: Tensor, bias: Tensor, heads: int, mask: Tensor
) -> Tensor:
    """The attention (batch, heads, q, n), float32, of a layer whose queries, keys and values come
    from `weight` (3 * width, width) and `bias`, as torch stacks them.

    queries (batch, q, width), tokens (batch, n, width), both normalised; mask (batch, n).
    """
    return torch.softmax(scores_of(queries, tokens, weight, bias, heads, mask), -1)


def scores_of(
    queries: Tensor, tokens: Tensor, weight: Tensor, bias: Tensor, heads: int, mask: Tensor
) -> Tensor:
    """What `attention_of` is the softmax of."""
    width = queries.shape[2]
    query = _split(F.linear(queries, weight[:width], bias[:width]), heads)
    key = _split(F.linear(tokens, weight[width : 2 * width], bias[width : 2 * width]), heads)
    scores = (query * (width // heads) ** -0.5) @ key.transpose(-1, -2)
    scores = scores.masked_fill(~mask[:, None, None, :], -1e4)
    floats: Tensor = scores.float()
    return floats


def _split(x: Tensor, heads: int) -> Tensor:
    """(batch, n, width) -> (batch, heads, n, width / heads)."""
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)
