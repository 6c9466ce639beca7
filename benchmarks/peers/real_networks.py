"""ResNet-50 (He et al., 2016) and ViT-B/16 (Dosovitskiy et al., 2021) with random weights, in torch without torchvision."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

SIZE = 224


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions beside a shortcut."""

    def __init__(self, inside: int, width: int, stride: int) -> None:
        super().__init__()
        outside = 4 * width
        sizes = ((inside, width, 1, 1), (width, width, 3, stride), (width, outside, 1, 1))
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, k, s, k // 2, bias=False) for a, b, k, s in sizes)
        self.norms = nn.ModuleList(nn.BatchNorm2d(b) for _, b, _, _ in sizes)
        self.shortcut = nn.Sequential()
        if stride > 1 or inside != outside:
            self.shortcut = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for place, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            h = norm(convolution(h))
            h = h if place == 2 else functional.relu(h)
        return functional.relu(h + self.shortcut(x))


def resnet50() -> nn.Module:
    """25.6 million parameters."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    inside = 64
    for stage, depth in enumerate((3, 4, 6, 3)):
        for place in range(depth):
            layers.append(Bottleneck(inside, 64 << stage, 2 if stage and not place else 1))
            inside = 256 << stage
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000))
    for layer in network.modules():
        if isinstance(layer, Bottleneck):
            nn.init.constant_(layer.norms[2].weight, 0.2)  # random residual branches would add up to infinity
    return network


class Block(nn.Module):
    """Attention and a perceptron, each behind a normalization."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        count, places, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(count, places, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q @ k.transpose(-2, -1) * (width // self.heads) ** -0.5).softmax(-1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(count, places, width))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class VisionTransformer(nn.Module):
    """ViT-B/16: 86.6 million parameters."""

    def __init__(self, width: int = 768, depth: int = 12, heads: int = 12) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, 16)
        self.token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.position = nn.Parameter(torch.randn(1, (SIZE // 16) ** 2 + 1, width) * 0.02)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0])


NETWORKS: dict[str, Callable[[], nn.Module]] = {"resnet50": resnet50, "vit_b16": VisionTransformer}


def make(name: str, folder: Path, examples: int = 64) -> tuple[Path, Path]:
    """Write a network as ONNX and a dataset of smooth random images, where they are not there yet; returns both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    network, data = folder / f"{name}.onnx", folder / "images.npz"
    if not network.exists():
        torch.manual_seed(0)
        module = NETWORKS[name]().eval()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            axes = {"input": {0: "batch"}, "output": {0: "batch"}}
            names = {"input_names": ["input"], "output_names": ["output"]}
            torch.onnx.export(module, (torch.randn(2, 3, SIZE, SIZE),), network, dynamo=False, opset_version=17, dynamic_axes=axes, **names)
    if not data.exists():
        generator = torch.Generator().manual_seed(0)
        coarse = torch.randn(2 * examples, 3, 14, 14, generator=generator)
        images = functional.interpolate(coarse, size=SIZE, mode="bicubic").numpy()
        np.savez(data, x_train=images[:examples], x_test=images[examples:])
    return network, data
