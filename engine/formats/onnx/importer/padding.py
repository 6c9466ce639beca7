"""Padding of convolutions and pools: even padding is a setting of the layer, uneven padding a layer before it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn import functional

from engine.formats.onnx.importer.builder import Builder
from engine.formats.onnx.importer.reader import Op
from engine.formats.onnx.importer.values import Value

_PAD_LAYERS: dict[int, type[Any]] = {1: nn.ConstantPad1d, 2: nn.ConstantPad2d, 3: nn.ConstantPad3d}


@dataclass(frozen=True)
class Window:
    """The sliding window of a convolution or pool, one number a spatial dimension."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]

    @classmethod
    def read(cls, op: Op, kernel: Sequence[int]) -> Window:
        """The window of a node with this kernel; strides and dilations are 1 where they are left out."""
        ones = [1] * len(kernel)
        return cls(tuple(kernel), tuple(op.ints("strides") or ones), tuple(op.ints("dilations") or ones))


def read_pads(op: Op, build: Builder, source: Value, window: Window) -> list[tuple[int, int]]:
    """(before, after) of each spatial dimension, from `pads` or `auto_pad`."""
    kernel, stride, dilation = window.kernel, window.stride, window.dilation
    spatial = len(kernel)
    auto = op.attribute("auto_pad", "NOTSET")
    if auto in ("NOTSET", ""):
        pads = op.ints("pads") or [0] * (2 * spatial)
        return [(pads[dim], pads[spatial + dim]) for dim in range(spatial)]
    if auto == "VALID":
        return [(0, 0)] * spatial
    result = []
    for dim in range(spatial):
        reach = (kernel[dim] - 1) * dilation[dim] + 1
        size = build.size(source, 2 + dim)
        if stride[dim] == 1:
            total = reach - 1
        elif isinstance(size, int):
            total = max(0, (-(-size // stride[dim]) - 1) * stride[dim] + reach - size)
        else:
            op.fail(f"auto_pad={auto} with a stride needs a fixed input size")
        small, large = total // 2, total - total // 2
        result.append((small, large) if auto == "SAME_UPPER" else (large, small))
    return result


def convolution_padding(op: Op, build: Builder, source: Value, window: Window) -> tuple[Value, tuple[int, ...]]:
    """The value to convolve and the layer's own (even) padding."""
    pads = read_pads(op, build, source, window)
    if all(before == after and before >= 0 for before, after in pads):
        return source, tuple(before for before, _ in pads)
    return pad_input(build, source, pads, 0.0), (0,) * len(pads)


def pad_input(build: Builder, source: Value, pads: Sequence[tuple[int, int]], fill: float) -> Value:
    """`source` with its last dimensions padded (negative: cropped) by constant amounts; unchanged where all are zero."""
    if not any(before or after for before, after in pads):
        return source
    flat = [amount for pair in reversed(pads) for amount in pair]
    if len(pads) in _PAD_LAYERS and math.isfinite(fill):
        return build.layer(_PAD_LAYERS[len(pads)](tuple(flat), fill), None, source)
    return build.call(functional.pad, source, flat, "constant", fill)
