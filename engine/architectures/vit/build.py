"""Vision transformer (Dosovitskiy et al. 2020, section 3), in the sizes of small images."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from engine.architectures.vit.spec import ViT


class Attention(nn.Module):
    """Multi-head self-attention; the number of heads follows from the width of `qkv`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.head_size = width // heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(batch, tokens, width) → the same shape."""
        split = self.qkv(tokens).unflatten(2, (3, -1, self.head_size)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(split[0], split[1], split[2])
        result: torch.Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return result


class Block(nn.Module):
    """Attention and a two-layer perceptron, each behind a normalization and beside a shortcut."""

    def __init__(self, params: ViT) -> None:
        super().__init__()
        hidden = round(params.width * params.mlp_ratio)
        self.norm1 = nn.LayerNorm(params.width, eps=1e-6)
        self.attn = Attention(params.width, params.heads)
        self.norm2 = nn.LayerNorm(params.width, eps=1e-6)
        self.fc1 = nn.Linear(params.width, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, params.width)
        self.drop = nn.Dropout(params.dropout)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(batch, tokens, width) → the same shape."""
        tokens = tokens + self.drop(self.attn(self.norm1(tokens)))
        inner: torch.Tensor = self.drop(self.fc2(self.drop(self.act(self.fc1(self.norm2(tokens))))))
        return tokens + inner


class Network(nn.Module):
    """Patches, class token and position embedding; `blocks`; `norm`; `head` on the class token."""

    def __init__(self, params: ViT) -> None:
        super().__init__()
        patches = (params.image_size // params.patch_size) ** 2
        self.patch_embed = nn.Conv2d(params.in_channels, params.width, params.patch_size, params.patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, params.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, patches + 1, params.width))
        self.blocks = nn.Sequential(*(Block(params) for _ in range(params.depth)))
        self.norm = nn.LayerNorm(params.width, eps=1e-6)
        self.head = nn.Linear(params.width, params.num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(batch, in_channels, image_size, image_size) → (batch, num_classes)."""
        tokens = self.patch_embed(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], 1) + self.pos_embed
        logits: torch.Tensor = self.head(self.norm(self.blocks(tokens))[:, 0])
        return logits


def build(params: ViT) -> nn.Module:
    """The network with truncated-normal weights of deviation 0.02."""
    network = Network(params)
    for weight in (network.cls_token, network.pos_embed, *(layer.weight for layer in network.modules() if isinstance(layer, nn.Linear))):
        nn.init.trunc_normal_(weight, std=0.02)
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            nn.init.zeros_(layer.bias)
    return network
