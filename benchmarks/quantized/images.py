"""EfficientNet-Lite0 (Tan and Le, 2019; the Lite variant of TensorFlow) with given weights, and photographs as its inputs."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

SIZE = 224
CROP = 0.875
MEAN, STD = 127 / 255, 128 / 255
_STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320))
"""Blocks, kernel, stride of the first, expansion, channels."""


class SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow does it: as little as keeps size / stride, the odd pixel at the end."""

    def forward(self, x: Tensor) -> Tensor:
        padding: list[int] = []
        for size, kernel, stride in zip((x.shape[3], x.shape[2]), self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            padding += [total // 2, total - total // 2]
        return super().forward(functional.pad(x, padding) if any(padding) else x)


class Block(nn.Module):
    """Expansion, depthwise convolution and projection beside a shortcut."""

    def __init__(self, inside: int, outside: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inside * expansion
        self._expand_conv = SameConv(inside, width, 1, bias=False) if expansion > 1 else None
        self._bn0 = nn.BatchNorm2d(width, eps=1e-3) if expansion > 1 else None
        self._depthwise_conv = SameConv(width, width, kernel, stride, groups=width, bias=False)
        self._bn1 = nn.BatchNorm2d(width, eps=1e-3)
        self._project_conv = SameConv(width, outside, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(outside, eps=1e-3)
        self.shortcut = stride == 1 and inside == outside

    def forward(self, x: Tensor) -> Tensor:
        h = x
        if self._expand_conv is not None and self._bn0 is not None:
            h = functional.relu6(self._bn0(self._expand_conv(h)))
        h = functional.relu6(self._bn1(self._depthwise_conv(h)))
        h = self._bn2(self._project_conv(h))
        return h + x if self.shortcut else h


class EfficientNetLite0(nn.Module):
    """4.65 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = SameConv(3, 32, 3, 2, bias=False), nn.BatchNorm2d(32, eps=1e-3)
        blocks, inside = [], 32
        for depth, kernel, stride, expansion, outside in _STAGES:
            for place in range(depth):
                blocks.append(Block(inside, outside, kernel, stride if not place else 1, expansion))
                inside = outside
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = SameConv(320, 1280, 1, bias=False), nn.BatchNorm2d(1280, eps=1e-3)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> Tensor:
        h = functional.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            h = block(h)
        return self._fc(functional.relu6(self._bn1(self._conv_head(h))).mean((2, 3)))


def photographs(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The 20 photographs of the package `foolbox` as normalized inputs, and their labels, which stand in their names."""
    from PIL import Image

    images, labels = [], []
    for path in sorted(folder.glob("imagenet_*.jpg")):
        image = Image.open(path).convert("RGB")
        side = int(min(image.size) * CROP)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        pixels = image.crop((left, top, left + side, top + side)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        images.append((np.asarray(pixels, np.float32).transpose(2, 0, 1) / 255 - MEAN) / STD)
        labels.append(int(path.stem.split("_")[-1]))
    return np.stack(images).astype(np.float32), np.array(labels)


def make(weights: Path, photos: Path, network: Path, data: Path) -> None:
    """Write the network as ONNX and the photographs as a dataset; crops and mirrors of the same photographs are calibrated on."""
    from safetensors.torch import load_file

    module = EfficientNetLite0().eval()
    state = {name: value for name, value in load_file(str(weights)).items() if name in module.state_dict()}
    module.load_state_dict(state)
    axes = {"input": {0: "batch"}, "output": {0: "batch"}}
    names = {"input_names": ["input"], "output_names": ["output"]}
    torch.onnx.export(module, (torch.zeros(2, 3, SIZE, SIZE),), network, dynamo=False, opset_version=17, dynamic_axes=axes, **names)
    images, labels = photographs(photos)
    np.savez(data, x_train=np.concatenate([images, images[:, :, :, ::-1]]), y_train=np.tile(labels, 2), x_test=images, y_test=labels)
