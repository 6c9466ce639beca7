"""Normalization layers."""

from __future__ import annotations

import math
from typing import Any

import onnx
import torch
from torch import nn
from torch.nn import functional

from engine.formats.onnx.importer.builder import Builder
from engine.formats.onnx.importer.reader import Op
from engine.formats.onnx.importer.values import Constant, Value
from engine.formats.onnx.weights import int_attribute

_BATCH_NORM: dict[int, type[Any]] = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
_INSTANCE_NORM: dict[int, type[Any]] = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}


def batch_norm(op: Op, build: Builder) -> Value:
    """BatchNormalization, trainable. ONNX's momentum is the share of the old statistics, torch's that of the new ones."""
    op.refuse_training_mode(normalizes_by_batch(op.node, op.opset), "normalizes by the statistics of whatever batch it is given")
    rank = op.rank(0)
    tensors = [op.constant(index) for index in range(1, 5)]
    if rank not in _BATCH_NORM or any(tensor is None for tensor in tensors):
        op.fail("only constant statistics on two to five dimensions are supported")
    if op.attribute("spatial", 1) != 1:
        op.fail("spatial=0")
    scale, bias, mean, variance = (tensor for tensor in tensors if tensor is not None)
    layer = _BATCH_NORM[rank](
        scale.tensor.numel(), eps=float(op.attribute("epsilon", 1e-5)), momentum=1 - float(op.attribute("momentum", 0.9)), affine=True
    )
    layer.weight, layer.bias = build.parameters.of(scale), build.parameters.of(bias)
    layer.running_mean, layer.running_var = mean.tensor.clone(), variance.tensor.clone()
    key = ("BatchNorm", *(tensor.source for tensor in (scale, bias, mean, variance)))
    # New ones of one width are equal, and exporters store them once: they are layers of their own all the same.
    same = None not in key and not all(tensor.is_uniform for tensor in (scale, bias, mean, variance))
    return build.layer(layer, op.path(list(op.node.input[1:5])), op.value(0), key=key if same else None)


def normalizes_by_batch(node: onnx.NodeProto, opset: int) -> bool:
    """Whether a BatchNormalization is in training mode: by its attribute, before opset 14 by its further outputs, before 7 by `is_test`."""
    if opset >= 14:
        return int_attribute(node, "training_mode") == 1
    return any(node.output[1:]) or (opset < 7 and int_attribute(node, "is_test") == 0)


def layer_norm(op: Op, build: Builder) -> Value:
    """LayerNormalization over the last dimensions, with or without a bias."""
    rank = op.rank(0)
    axis = int(op.attribute("axis", -1)) % rank
    scale, bias = _row(op.constant(1)), _row(op.constant(2))
    if any(name and op.consumers.get(name) for name in op.node.output[1:]):
        op.fail("its statistics are used as outputs")
    shape = [build.size(op.value(0), dim) for dim in range(axis, rank)]
    epsilon = float(op.attribute("epsilon", 1e-5))
    whole = scale is not None and list(scale.tensor.shape) == shape and (op.get(2) is None or bias is not None)
    if scale is None or not whole or (bias is not None and list(bias.tensor.shape) != shape):
        normal = build.call(functional.layer_norm, op.value(0), shape, None, None, epsilon)
        scaled = build.call(torch.mul, normal, op.value(1))
        return scaled if op.get(2) is None else build.call(torch.add, scaled, op.value(2))
    layer = nn.LayerNorm(shape, eps=epsilon, bias=bias is not None)
    layer.weight = build.parameters.of(scale)
    if bias is not None:
        layer.bias = build.parameters.of(bias)
    return build.layer(layer, op.path(list(op.node.input[1:3])), op.value(0))


def _row(constant: Constant | None) -> Constant | None:
    """One number a feature, however many dimensions of one place stand before."""
    rows = constant is not None and constant.tensor.dim() > 1 and constant.tensor.shape[-1] == constant.tensor.numel()
    return Constant(constant.tensor.reshape(-1)) if constant is not None and rows else constant


def rms_norm(op: Op, build: Builder) -> Value:
    """RMSNormalization (opset 23)."""
    rank = op.rank(0)
    axis = int(op.attribute("axis", -1)) % rank
    scale = op.constant(1)
    shape = [build.size(op.value(0), dim) for dim in range(axis, rank)]
    if scale is None or list(scale.tensor.shape) != shape:
        op.fail("its scale is not a constant of the normalized shape")
    layer = nn.RMSNorm(shape, eps=float(op.attribute("epsilon", 1e-5)))
    layer.weight = build.parameters.of(scale)
    return build.layer(layer, op.path([op.node.input[1]]), op.value(0))


def instance_norm(op: Op, build: Builder) -> Value:
    """InstanceNormalization with its scale and bias; its statistics always come from the example itself."""
    rank = op.rank(0)
    scale, bias = op.constant(1), op.constant(2)
    if rank not in _INSTANCE_NORM or scale is None or bias is None:
        op.fail("only constant scales on three to five dimensions are supported")
    if math.prod(build.size(op.value(0), dim) if isinstance(build.size(op.value(0), dim), int) else 2 for dim in range(2, rank)) == 1:
        # A single place is its own mean, which torch's layer refuses.
        nothing = build.call(torch.sub, op.value(0), op.value(0))
        return build.call(torch.add, nothing, Constant(bias.tensor.reshape(-1, *[1] * (rank - 2))))
    layer = _INSTANCE_NORM[rank](scale.tensor.numel(), eps=float(op.attribute("epsilon", 1e-5)), affine=True)
    layer.weight, layer.bias = build.parameters.of(scale), build.parameters.of(bias)
    return build.layer(layer, op.path(list(op.node.input[1:3])), op.value(0))


def group_norm(op: Op, build: Builder) -> Value:
    """GroupNormalization: scale and bias are one a channel from opset 21 on, one a group before."""
    groups = int(op.attribute("num_groups"))
    channels = build.size(op.value(0), 1)
    scale, bias = op.constant(1), op.constant(2)
    if scale is None or bias is None or not isinstance(channels, int):
        op.fail("only constant scales on a fixed number of channels are supported")
    if scale.tensor.numel() == groups != channels:
        scale, bias = (Constant(item.tensor.repeat_interleave(channels // groups)) for item in (scale, bias))
    scale, bias = (Constant(item.tensor.reshape(-1), item.source) for item in (scale, bias))
    layer = nn.GroupNorm(groups, channels, eps=float(op.attribute("epsilon", 1e-5)))
    layer.weight, layer.bias = build.parameters.of(scale), build.parameters.of(bias)
    return build.layer(layer, op.path(list(op.node.input[1:3])), op.value(0))


def lrn(op: Op, build: Builder) -> Value:
    """LRN across channels; ONNX and torch put an even window one apart, so only odd windows are taken."""
    size = int(op.attribute("size"))
    if size % 2 == 0:
        op.fail("an even window")
    layer = nn.LocalResponseNorm(
        size, float(op.attribute("alpha", 1e-4)), float(op.attribute("beta", 0.75)), float(op.attribute("bias", 1.0))
    )
    return build.activation(op, layer)


def lp_normalization(op: Op, build: Builder) -> Value:
    """LpNormalization: x divided by its norm along one axis."""
    return build.call(functional.normalize, op.value(0), float(op.attribute("p", 2)), int(op.attribute("axis", -1)))


def mean_variance_normalization(op: Op, build: Builder) -> Value:
    """MeanVarianceNormalization over the given axes."""
    axes = op.ints("axes") or [0, 2, 3]
    centered = build.call(torch.sub, op.value(0), build.call(torch.mean, op.value(0), axes, keepdim=True))
    variance = build.call(torch.mean, build.call(torch.pow, centered, 2), axes, keepdim=True)
    return build.call(torch.div, centered, build.call(torch.add, build.call(torch.sqrt, variance), 1e-9))


OPERATORS = {
    "BatchNormalization": batch_norm,
    "GroupNormalization": group_norm,
    "InstanceNormalization": instance_norm,
    "LRN": lrn,
    "LayerNormalization": layer_norm,
    "LpNormalization": lp_normalization,
    "MeanVarianceNormalization": mean_variance_normalization,
    "RMSNormalization": rms_norm,
}
