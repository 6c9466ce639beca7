"""Transformers over bytes (Vaswani et al. 2017, section 3.1, with the normalization before each layer)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from engine.architectures.byte_transformer.spec import BYTES, ByteTransformer

_UNSEEN = -1e4
"""Added to the score of what is not attended to; finite, so that a text without any byte gives numbers."""


class Attention(nn.Module):
    """Multi-head self-attention; the number of heads follows from the width of `qkv`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.head_size = width // heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """(batch, length, width) → the same shape; `hidden` is added to the scores of every head."""
        split = self.qkv(tokens).unflatten(2, (3, -1, self.head_size)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(split[0], split[1], split[2], attn_mask=hidden)
        result: torch.Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return result


class Block(nn.Module):
    """Attention and a two-layer perceptron, each behind a normalization and beside a shortcut."""

    def __init__(self, params: ByteTransformer) -> None:
        super().__init__()
        inner = round(params.width * params.mlp_ratio)
        self.norm1 = nn.LayerNorm(params.width)
        self.attn = Attention(params.width, params.heads)
        self.norm2 = nn.LayerNorm(params.width)
        self.fc1 = nn.Linear(params.width, inner)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(inner, params.width)
        self.drop = nn.Dropout(params.dropout)

    def forward(self, tokens: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """(batch, length, width) → the same shape."""
        tokens = tokens + self.drop(self.attn(self.norm1(tokens), hidden))
        inner: torch.Tensor = self.drop(self.fc2(self.drop(self.act(self.fc1(self.norm2(tokens))))))
        return tokens + inner


class Network(nn.Module):
    """Byte embedding `embed` and `pos_embed`; `blocks`; `norm`; `head`."""

    future: torch.Tensor

    def __init__(self, params: ByteTransformer) -> None:
        super().__init__()
        self.causal = params.causal
        self.embed = nn.Embedding(BYTES, params.width)
        self.pos_embed = nn.Parameter(torch.zeros(1, params.length, params.width))
        self.blocks = nn.ModuleList(Block(params) for _ in range(params.depth))
        self.norm = nn.LayerNorm(params.width)
        self.head = nn.Linear(params.width, BYTES if params.causal else params.num_classes)
        future = torch.full((params.length, params.length), _UNSEEN).triu(1) if params.causal else torch.zeros(1, 1)
        self.register_buffer("future", future, persistent=False)

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        """(batch, length) → (batch, num_classes), or (batch, length, 256) where it is causal."""
        present = (text != 0).to(self.pos_embed.dtype)
        hidden = (1 - present)[:, None, None, :] * _UNSEEN + self.future
        tokens = self.embed(text) + self.pos_embed
        for block in self.blocks:
            tokens = block(tokens, hidden)
        tokens = self.norm(tokens)
        if not self.causal:
            weights = present[:, :, None]
            tokens = (tokens * weights).sum(1) / weights.sum(1).clamp(min=1)
        logits: torch.Tensor = self.head(tokens)
        return logits


def build(params: ByteTransformer) -> nn.Module:
    """The network with normal weights of deviation 0.02."""
    network = Network(params)
    nn.init.normal_(network.pos_embed, std=0.02)
    for layer in network.modules():
        if isinstance(layer, nn.Embedding | nn.Linear):
            nn.init.normal_(layer.weight, std=0.02)
        if isinstance(layer, nn.Linear):
            nn.init.zeros_(layer.bias)
    return network
