"""Convolutions and linear layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx
import torch
from torch import nn
from torch.nn import functional

from engine.formats.onnx.importer.builder import Builder
from engine.formats.onnx.importer.padding import Window, convolution_padding, pad_input
from engine.formats.onnx.importer.reader import Op
from engine.formats.onnx.importer.values import Constant, Flow, Value

_CONV: dict[int, type[Any]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_CONV_TRANSPOSE: dict[int, type[Any]] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


@dataclass(frozen=True)
class Tensors:
    """What makes two layers one and the same: their tensors and settings."""

    weight: Constant
    bias: Constant | None
    settings: Any = ()


def conv(op: Op, build: Builder) -> Value:
    """Conv: uneven padding becomes a layer of its own; a weight that is computed keeps the functional form."""
    spatial = op.rank(0) - 2
    if spatial not in _CONV:
        op.fail(f"{spatial} spatial dimensions")
    groups = int(op.attribute("group", 1))
    weight, bias = op.constant(1), op.constant(2)
    window = Window.read(op, [build.size(op.value(1), 2 + dim) for dim in range(spatial)])
    source, padding = convolution_padding(op, build, op.value(0), window)
    if weight is None or (op.get(2) is not None and bias is None):
        function = getattr(functional, f"conv{spatial}d")
        return build.call(function, source, op.value(1), op.get(2), window.stride, padding, window.dilation, groups)
    shape = weight.tensor.shape
    layer = _empty(
        _CONV[spatial], shape[1] * groups, shape[0], window.kernel, window.stride, padding, dilation=window.dilation, groups=groups
    )
    return _finish(op, build, layer, source, Tensors(weight, bias, (window, padding, groups)))


def conv_transpose(op: Op, build: Builder) -> Value:
    """ConvTranspose with explicit padding or an explicit output size."""
    spatial = op.rank(0) - 2
    weight, bias = op.constant(1), op.constant(2)
    if spatial not in _CONV_TRANSPOSE or weight is None:
        op.fail("only constant weights with one to three spatial dimensions are supported")
    window = Window.read(op, weight.tensor.shape[2:])
    stride, dilation, kernel = window.stride, window.dilation, window.kernel
    groups = int(op.attribute("group", 1))
    extra = tuple(op.ints("output_padding") or [0] * spatial)
    pads = op.ints("pads") or [0] * (2 * spatial)
    auto = op.attribute("auto_pad", "NOTSET")
    target = op.ints("output_shape")
    if target is not None or auto.startswith("SAME"):
        measured = [build.size(op.value(0), 2 + dim) for dim in range(spatial)]
        if target is None and not all(isinstance(size, int) for size in measured):
            op.fail("auto_pad needs a fixed input size")
        target = (target or [size * step for size, step in zip(measured, stride, strict=True)])[-spatial:]
        begin, end = [], []
        for dim in range(spatial):
            total = stride[dim] * (measured[dim] - 1) + extra[dim] + (kernel[dim] - 1) * dilation[dim] + 1 - target[dim]
            begin.append(total // 2 if auto != "SAME_LOWER" else total - total // 2)
            end.append(total - begin[-1])
        pads = [*begin, *end]
    low = [min(pads[dim], pads[spatial + dim]) for dim in range(spatial)]
    if any(pad < 0 for pad in pads):
        op.fail("negative padding")
    shape = weight.tensor.shape
    layer = _empty(
        _CONV_TRANSPOSE[spatial], shape[0], shape[1] * groups, kernel, stride, tuple(low), extra, groups=groups, dilation=dilation
    )
    result = _finish(op, build, layer, op.value(0), Tensors(weight, bias, (window, tuple(pads), extra, groups)))
    crops = [(pads[dim] - low[dim], pads[spatial + dim] - low[dim]) for dim in range(spatial)]
    return pad_input(build, result, [(-a, -b) for a, b in crops], 0.0)


def gemm(op: Op, build: Builder) -> Value:
    """Gemm: a Linear where its matrix is constant and its bias, if any, is a constant row."""
    alpha, beta = float(op.attribute("alpha", 1.0)), float(op.attribute("beta", 1.0))
    weight = _linear_weight(op, 1, transposed=bool(op.attribute("transB", 0)))
    bias = op.constant(2)
    row = op.get(2) is None or (bias is not None and bias.tensor.numel() in (1, weight.tensor.shape[0] if weight else -1))
    if weight is None or not row or op.attribute("transA", 0):
        left, right = op.value(0), op.value(1)
        left = build.call("t", left) if op.attribute("transA", 0) else left
        right = build.call("t", right) if op.attribute("transB", 0) else right
        product = build.call(torch.matmul, left, right)
        product = product if alpha == 1 else build.call(torch.mul, product, alpha)
        if op.get(2) is None:
            return product
        added = op.value(2) if beta == 1 else build.call(torch.mul, op.value(2), beta)
        return build.call(torch.add, product, added)
    if alpha != 1:
        weight = Constant(weight.tensor * alpha)
    if bias is not None:
        out = weight.tensor.shape[0]
        plain = beta == 1 and bias.tensor.numel() == out
        bias = (
            Constant(bias.tensor.reshape(-1), bias.source) if plain else Constant((bias.tensor * beta).reshape(-1).expand(out).contiguous())
        )
    return _linear(op, build, op.value(0), weight, bias)


def matmul(op: Op, build: Builder) -> Value:
    """MatMul: a Linear where the right-hand side is a constant matrix, a plain product otherwise."""
    weight = _linear_weight(op, 1, transposed=False)
    if weight is None or op.rank(0) < 1 or not isinstance(op.value(0), Flow):
        return build.call(torch.matmul, op.value(0), op.value(1))
    return _linear(op, build, op.value(0), weight, None)


def absorb_bias(op: Op, build: Builder) -> Value | None:
    """The layer below an Add takes the constant as its bias, where the layer has none and nothing else reads its output."""
    for index in (0, 1):
        flow, constant = op.get(index), op.constant(1 - index)
        layer = build.layer_of(flow)
        if constant is None or not isinstance(flow, Flow) or layer is None or getattr(layer, "bias", 0) is not None:
            continue
        names = build.names_of(flow)
        if names is None or any(len(op.consumers.get(name, ())) != 1 for name in names):
            continue
        if isinstance(layer, nn.Linear):
            width, channel = layer.out_features, -1
        elif isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            width, channel = layer.out_channels, 1 - flow.rank
        else:
            continue
        shape = list(constant.tensor.shape)
        padded = [1] * (flow.rank - len(shape)) + shape
        if len(shape) <= flow.rank and padded[channel] == width == constant.tensor.numel():
            layer.bias = build.parameters.bias(Constant(constant.tensor.reshape(-1), constant.source), layer.weight)
            return flow
    return None


def _linear(op: Op, build: Builder, source: Value, weight: Constant, bias: Constant | None) -> Value:
    turned = build.transpose_of(weight)
    if turned is not None:
        product = build.call(torch.matmul, source, turned)
        return product if bias is None else build.call(torch.add, product, bias)
    source, weight = _channels_first(build, source, weight)
    layer = _empty(nn.Linear, weight.tensor.shape[1], weight.tensor.shape[0])
    return _finish(op, build, layer, source, Tensors(weight, bias))


def _channels_first(build: Builder, source: Value, weight: Constant) -> tuple[Value, Constant]:
    """A linear layer behind flattened (height, width, channel) features, moved to (channel, height, width) ones.

    Keras flattens so. Pruning follows channels through a flattening only where they come first; the columns of the weight are moved
    to match, so that nothing else changes.
    """
    flattened = build.before(source)
    moved = None if flattened is None else build.before(flattened[1])
    if flattened is None or moved is None or not isinstance(build.layer_of(source), nn.Flatten):
        return source, weight
    order = moved[0].args[1] if moved[0].target == "permute" else None
    rank = moved[1].rank
    if order != [0, *range(2, rank), 1] or len(flattened[1].node.users) != 1:
        return source, weight
    channels, *spatial = (build.size(moved[1], dim) for dim in range(1, rank))
    if not all(isinstance(size, int) for size in (channels, *spatial)):
        return source, weight
    columns = weight.tensor.reshape(-1, *spatial, channels).movedim(-1, 1).flatten(1)
    return build.layer(nn.Flatten(1), None, moved[1]), Constant(columns.contiguous())


def _linear_weight(op: Op, index: int, *, transposed: bool) -> Constant | None:
    """A constant matrix as Linear keeps it, (out, in); `transposed` says that it stands so in the file."""
    constant = op.constant(index)
    if constant is None or constant.tensor.dim() != 2 or not constant.tensor.is_floating_point():
        return None
    if transposed:
        return constant
    return Constant(constant.tensor.t(), constant.source, not constant.transposed)


def _finish(op: Op, build: Builder, layer: Any, source: Value, tensors: Tensors) -> Value:
    weight, bias = tensors.weight, tensors.bias
    layer.weight = build.parameters.tied(weight) if isinstance(layer, nn.Linear) else build.parameters.of(weight)
    layer.bias = None if bias is None else build.parameters.bias(bias, layer.weight)
    names = [op.node.input[1]] if len(op.node.input) > 1 else []
    names += [op.node.input[2]] if bias is not None else _added_names(op)
    key = (type(layer), weight.source, weight.transposed, bias.source if bias else None, tensors.settings)
    named = weight.source is not None and (bias is None or bias.source is not None) and not _added_names(op)
    return build.layer(layer, op.path(names), source, key=key if named else None)


def _added_names(op: Op) -> list[str]:
    """Names of what the next node adds: the layer's bias may have the readable name that its weight lost."""
    reader: onnx.NodeProto | None = op.sole_consumer()
    if reader is None or reader.op_type != "Add":
        return []
    return [name for name in reader.input if name != op.node.output[0]]


def _empty(layer: type[Any], *args: Any, **kwargs: Any) -> Any:
    """A layer without the cost of random initial weights; both tensors are set right after."""
    with torch.device("meta"):
        made = type(layer.__name__, (layer,), {"reset_parameters": lambda self: None})(*args, bias=False, **kwargs)
    made.__class__ = layer
    return made


OPERATORS = {"Conv": conv, "ConvTranspose": conv_transpose, "Gemm": gemm, "MatMul": matmul}
