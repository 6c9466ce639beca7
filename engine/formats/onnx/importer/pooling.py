"""Pools."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from engine.formats.onnx.importer.builder import Builder
from engine.formats.onnx.importer.padding import Window, pad_input, read_pads
from engine.formats.onnx.importer.reader import Op
from engine.formats.onnx.importer.values import Value

_MAX: dict[int, type[Any]] = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
_AVERAGE: dict[int, type[Any]] = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
_AVERAGE_FUNCTIONS: dict[int, Callable[..., Any]] = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}
_GLOBAL: dict[int, type[Any]] = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}
_GLOBAL_MAX: dict[int, type[Any]] = {1: nn.AdaptiveMaxPool1d, 2: nn.AdaptiveMaxPool2d, 3: nn.AdaptiveMaxPool3d}


def max_pool(op: Op, build: Builder) -> Value:
    """MaxPool without indices; uneven padding is filled with minus infinity first."""
    window, spatial = _window(op)
    if len(op.node.output) > 1 and op.consumers.get(op.node.output[1]):
        op.fail("its indices are used")
    pads = read_pads(op, build, op.value(0), window)
    source, padding = op.value(0), tuple(before for before, _ in pads)
    if any(before != after or before > size // 2 for (before, after), size in zip(pads, window.kernel, strict=True)):
        source, padding = pad_input(build, source, pads, float("-inf")), (0,) * spatial
    ceil = bool(op.attribute("ceil_mode", 0))
    layer = _MAX[spatial](window.kernel, window.stride, padding, window.dilation, ceil_mode=ceil)
    result = build.activation(op, layer, source)
    return result if padding == tuple(before for before, _ in pads) or not ceil else _cropped(op, build, result, window, pads)


def average_pool(op: Op, build: Builder) -> Value:
    """AveragePool; uneven padding that does not count is divided out by pooling a mask of ones."""
    window, spatial = _window(op)
    counted = bool(op.attribute("count_include_pad", 0))
    ceil = bool(op.attribute("ceil_mode", 0))
    pads = read_pads(op, build, op.value(0), window)
    if set(window.dilation) != {1}:
        return _dilated(op, build, window, pads, counted=counted, ceil=ceil)
    if all(before == after and before <= size // 2 for (before, after), size in zip(pads, window.kernel, strict=True)):
        padding = tuple(before for before, _ in pads)
        return build.activation(op, _AVERAGE[spatial](window.kernel, window.stride, padding, ceil_mode=ceil, count_include_pad=counted))
    pool = _AVERAGE_FUNCTIONS[spatial]
    mean = build.call(pool, pad_input(build, op.value(0), pads, 0.0), window.kernel, window.stride, ceil_mode=ceil)
    if not counted:
        mask = pad_input(build, build.call(torch.ones_like, op.value(0)), pads, 0.0)
        mean = build.call(torch.div, mean, build.call(pool, mask, window.kernel, window.stride, ceil_mode=ceil))
    return _cropped(op, build, mean, window, pads) if ceil else mean


def _dilated(op: Op, build: Builder, window: Window, pads: list[tuple[int, int]], *, counted: bool, ceil: bool) -> Value:
    """The mean of elements that are apart, for which torch has no layer: slices of the input are added up, one dimension after the other."""
    if ceil:
        for dim, ((before, after), size) in enumerate(zip(pads, window.kernel, strict=True)):
            length, reach = build.size(op.value(0), 2 + dim), (size - 1) * window.dilation[dim] + 1
            if not isinstance(length, int) or (length + before + after - reach) % window.stride[dim]:
                op.fail("dilations with a ceil_mode that begins windows outside of the image")
    total = _window_sums(build, pad_input(build, op.value(0), pads, 0.0), window)
    if counted or not any(size for pair in pads for size in pair):
        return build.call(torch.div, total, math.prod(window.kernel))
    mask = pad_input(build, build.call(torch.ones_like, op.value(0)), pads, 0.0)
    return build.call(torch.div, total, _window_sums(build, mask, window))


def _window_sums(build: Builder, value: Value, window: Window) -> Value:
    """The sum of each window of a padded image."""
    for dim, (size, stride, apart) in enumerate(zip(window.kernel, window.stride, window.dilation, strict=True)):
        whole = [slice(None)] * (2 + dim)
        ends = [apart * (place - size + 1) or None for place in range(size)]
        parts = [build.call(operator.getitem, value, (*whole, slice(apart * place, end, stride))) for place, end in enumerate(ends)]
        value = functools.reduce(functools.partial(build.call, torch.add), parts)
    return value


def _cropped(op: Op, build: Builder, pooled: Value, window: Window, pads: list[tuple[int, int]]) -> Value:
    """Without windows that begin in the padding behind the image: where that was added beforehand, torch takes it for a part of it."""
    kept: list[Any] = [slice(None), slice(None)]
    for dim, (before, after) in enumerate(pads):
        size, found = build.size(op.value(0), 2 + dim), build.size(pooled, 2 + dim)
        if not isinstance(size, int):
            op.fail("ceil_mode with uneven padding needs a fixed input size")
        reach = (window.kernel[dim] - 1) * window.dilation[dim] + 1
        count = -(-(size + before + after - reach) // window.stride[dim]) + 1
        count -= (count - 1) * window.stride[dim] >= size + before
        kept.append(slice(0, count) if count != found else slice(None))
    return pooled if all(part == slice(None) for part in kept) else build.call(operator.getitem, pooled, tuple(kept))


def global_pool(op: Op, build: Builder) -> Value:
    """GlobalAveragePool and GlobalMaxPool."""
    spatial = op.rank(0) - 2
    layers = _GLOBAL if op.type == "GlobalAveragePool" else _GLOBAL_MAX
    if spatial not in layers:
        op.fail(f"{spatial} spatial dimensions")
    return build.activation(op, layers[spatial](1))


def _window(op: Op) -> tuple[Window, int]:
    kernel = op.ints("kernel_shape") or op.fail("kernel_shape is missing")
    spatial = len(kernel)
    if spatial not in _MAX or op.rank(0) != spatial + 2:
        op.fail(f"{spatial} spatial dimensions")
    return Window.read(op, kernel), spatial


OPERATORS = {"AveragePool": average_pool, "GlobalAveragePool": global_pool, "GlobalMaxPool": global_pool, "MaxPool": max_pool}
