"""Activations, softmax and dropout as layers."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from engine.formats.onnx.importer.builder import Builder
from engine.formats.onnx.importer.reader import Op
from engine.formats.onnx.importer.values import Constant, Value

_SIMPLE: dict[str, type[nn.Module]] = {
    "HardSwish": nn.Hardswish,
    "Identity": nn.Identity,
    "Mish": nn.Mish,
    "Relu": nn.ReLU,
    "Sigmoid": nn.Sigmoid,
    "Softplus": nn.Softplus,
    "Softsign": nn.Softsign,
    "Tanh": nn.Tanh,
}


def simple(op: Op, build: Builder) -> Value:
    """An activation without settings."""
    return build.activation(op, _SIMPLE[op.type]())


def identity(op: Op, build: Builder) -> Value:
    """Identity leaves no trace, so that what passes through it keeps its name."""
    return op.value(0)


def leaky_relu(op: Op, build: Builder) -> Value:
    """LeakyRelu, slope 0.01 by default."""
    return build.activation(op, nn.LeakyReLU(float(op.attribute("alpha", 0.01))))


def elu(op: Op, build: Builder) -> Value:
    """Elu."""
    return build.activation(op, nn.ELU(float(op.attribute("alpha", 1.0))))


def celu(op: Op, build: Builder) -> Value:
    """Celu."""
    return build.activation(op, nn.CELU(float(op.attribute("alpha", 1.0))))


def selu(op: Op, build: Builder) -> Value:
    """Selu with the constants of the paper (Klambauer et al. 2017), or other ones."""
    alpha = float(op.attribute("alpha", 1.6732632))
    gamma = float(op.attribute("gamma", 1.0507010))
    if math.isclose(alpha, 1.6732632, abs_tol=1e-5) and math.isclose(gamma, 1.0507010, abs_tol=1e-5):
        return build.activation(op, nn.SELU())
    return build.call(torch.mul, build.activation(op, nn.ELU(alpha)), gamma)


def gelu(op: Op, build: Builder) -> Value:
    """Gelu, exact or with tanh."""
    return build.activation(op, nn.GELU(approximate=op.attribute("approximate", "none")))


def swish(op: Op, build: Builder) -> Value:
    """Swish (opset 24): x · sigmoid(alpha · x)."""
    alpha = float(op.attribute("alpha", 1.0))
    if alpha == 1:
        return build.activation(op, nn.SiLU())
    return build.call(torch.mul, op.value(0), build.call(torch.sigmoid, build.call(torch.mul, op.value(0), alpha)))


def hard_sigmoid(op: Op, build: Builder) -> Value:
    """HardSigmoid: clamp(alpha · x + beta, 0, 1); torch's layer has alpha = 1/6, ONNX's default is 0.2."""
    alpha, beta = float(op.attribute("alpha", 0.2)), float(op.attribute("beta", 0.5))
    if math.isclose(alpha, 1 / 6, rel_tol=1e-5) and beta == 0.5:
        return build.activation(op, nn.Hardsigmoid())
    scaled = build.call(torch.add, build.call(torch.mul, op.value(0), alpha), beta)
    return build.call(torch.clamp, scaled, 0.0, 1.0)


def thresholded_relu(op: Op, build: Builder) -> Value:
    """ThresholdedRelu."""
    return build.activation(op, nn.Threshold(float(op.attribute("alpha", 1.0)), 0.0))


def shrink(op: Op, build: Builder) -> Value:
    """Shrink as soft or hard shrinkage."""
    bias, limit = float(op.attribute("bias", 0.0)), float(op.attribute("lambd", 0.5))
    if bias not in (0.0, limit):
        op.fail("bias differs from both 0 and lambd")
    return build.activation(op, nn.Softshrink(limit) if bias else nn.Hardshrink(limit))


def prelu(op: Op, build: Builder) -> Value:
    """PRelu with one slope or one a channel."""
    slope = op.constant(1)
    rank = op.rank(0)
    if slope is not None:
        shape = [1] * (rank - slope.tensor.dim()) + list(slope.tensor.shape)
        count = slope.tensor.numel()
        if count == 1 or (rank > 1 and len(shape) == rank and shape[1] == count):
            layer = nn.PReLU(count)
            layer.weight = build.parameters.of(Constant(slope.tensor.reshape(-1), slope.source))
            return build.layer(layer, op.path([op.node.input[1]]), op.value(0))
    positive = build.call(torch.relu, op.value(0))
    negative = build.call(torch.clamp, op.value(0), None, 0.0)
    return build.call(torch.add, positive, build.call(torch.mul, negative, op.value(1)))


def softmax(op: Op, build: Builder) -> Value:
    """Softmax and LogSoftmax; before opset 13 they work on everything from `axis` on, flattened."""
    layer: Any = nn.Softmax if op.type == "Softmax" else nn.LogSoftmax
    axis = int(op.attribute("axis", -1 if op.opset >= 13 else 1))
    rank = op.rank(0)
    if op.opset >= 13 or axis in (-1, rank - 1):
        return build.activation(op, layer(dim=axis))
    axis %= rank
    function = functional.softmax if op.type == "Softmax" else functional.log_softmax
    flat = build.call(function, build.call(torch.flatten, op.value(0), axis, -1), -1)
    return build.call("reshape", flat, [build.size(op.value(0), dim) for dim in range(rank)])


def dropout(op: Op, build: Builder) -> Value:
    """Dropout: active in train(), the identity in eval(). In training mode its outputs are random, and nothing can be compared with them."""
    ratio = op.number("ratio", 1, 0.5)
    mode = op.get(2)
    drops = (mode is not None and bool(op.known(2, "training_mode").any())) or (op.opset < 7 and op.attribute("is_test", 0) == 0)
    op.refuse_training_mode(drops and ratio != 0, "drops values at random")
    if len(op.node.output) > 1 and op.consumers.get(op.node.output[1]):
        op.fail("its mask is used")
    return build.activation(op, nn.Dropout(0.5 if ratio is None else ratio))


OPERATORS = {
    **dict.fromkeys(_SIMPLE, simple),
    "Celu": celu,
    "Dropout": dropout,
    "Elu": elu,
    "Gelu": gelu,
    "HardSigmoid": hard_sigmoid,
    "Identity": identity,
    "LeakyRelu": leaky_relu,
    "LogSoftmax": softmax,
    "PRelu": prelu,
    "Selu": selu,
    "Shrink": shrink,
    "Softmax": softmax,
    "Swish": swish,
    "ThresholdedRelu": thresholded_relu,
}
