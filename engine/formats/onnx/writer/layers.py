"""How layers are written."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine.formats.onnx.flat import NodeAttributes
from engine.formats.onnx.writer.graph import Unwritten, Value, Writer, shapes

LayerRule = Callable[[Writer, Any, Value], str]


def _list(value: Any, count: int) -> list[int]:
    return [int(item) for item in value] if isinstance(value, tuple | list) else [int(value)] * count


def convolution(writer: Writer, layer: Any, x: Value) -> str:
    """A convolution, transposed or not; the normalization behind it may have been folded into it."""
    spatial = layer.weight.dim() - 2
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str) or x.rank != spatial + 2:
        raise Unwritten
    weight, bias = writer.folded.get(layer, (None, None))
    inputs = [x.name, writer.weight(layer.weight, changed=weight)]
    if bias is not None:
        inputs.append(writer.bias_of(layer, bias))
    elif layer.bias is not None:
        inputs.append(writer.weight(layer.bias))
    pads = _list(layer.padding, spatial)
    attributes: NodeAttributes = {
        "kernel_shape": _list(layer.kernel_size, spatial),
        "strides": _list(layer.stride, spatial),
        "pads": [*pads, *pads],
        "dilations": _list(layer.dilation, spatial),
        "group": int(layer.groups),
    }
    if layer.transposed:
        extra = _list(layer.output_padding, spatial)
        if any(extra):
            attributes["output_padding"] = extra
        return str(writer.emit("ConvTranspose", *inputs, **attributes))
    return str(writer.emit("Conv", *inputs, **attributes))


def linear(writer: Writer, layer: nn.Linear, x: Value) -> str:
    """A linear layer: Gemm on matrices, MatMul and Add on anything else."""
    weight, bias = writer.folded.get(layer, (None, None))
    if x.rank == 2:
        inputs = [x.name, writer.weight(layer.weight, changed=weight)]
        if bias is not None:
            inputs.append(writer.bias_of(layer, bias))
        elif layer.bias is not None:
            inputs.append(writer.weight(layer.bias))
        return str(writer.emit("Gemm", *inputs, transB=1))
    if bias is not None:
        raise Unwritten
    product = str(writer.emit("MatMul", x.name, writer.transposed(layer.weight)))
    return product if layer.bias is None else str(writer.emit("Add", product, writer.weight(layer.bias)))


def batch_norm(writer: Writer, layer: Any, x: Value) -> str:
    """Batch normalization with its running statistics."""
    if layer in writer.absorbed:
        return x.name
    if layer.running_mean is None or layer.running_var is None:
        raise Unwritten
    scale = np.ones(layer.num_features, np.float32)
    weight = writer.constant(scale) if layer.weight is None else writer.weight(layer.weight)
    bias = writer.constant(0 * scale) if layer.bias is None else writer.weight(layer.bias)
    tensors = [weight, bias, writer.weight(layer.running_mean), writer.weight(layer.running_var)]
    return str(writer.emit("BatchNormalization", x.name, *tensors, epsilon=float(layer.eps)))


def layer_norm(writer: Writer, layer: nn.LayerNorm, x: Value) -> str:
    """Layer normalization over the last dimensions."""
    shape = tuple(layer.normalized_shape)
    weight = writer.constant(np.ones(shape, np.float32)) if layer.weight is None else writer.weight(layer.weight)
    inputs = [x.name, weight] if layer.bias is None else [x.name, weight, writer.weight(layer.bias)]
    return str(writer.emit("LayerNormalization", *inputs, axis=-len(shape), epsilon=float(layer.eps)))


def group_norm(writer: Writer, layer: nn.GroupNorm, x: Value) -> str:
    """Group normalization: the groups are normalized as channels, and scaled one channel at a time."""
    if x.rank < 3 or layer.weight is None or layer.bias is None:
        raise Unwritten
    groups = layer.num_groups
    one = np.ones(groups, np.float32)
    grouped = str(writer.emit("Reshape", x.name, writer.integers(0, groups, -1)))
    normal = str(writer.emit("InstanceNormalization", grouped, writer.constant(one), writer.constant(0 * one), epsilon=float(layer.eps)))
    between = [(shape[0], groups, math.prod(shape[1:]) // groups) for shape in shapes(x)]
    back = writer.reshaped(normal, between, shapes(x))
    wide = (-1, *[1] * (x.rank - 2))
    scaled = str(writer.emit("Mul", back, writer.weight(layer.weight, "_wide", layer.weight.detach().reshape(wide))))
    return str(writer.emit("Add", scaled, writer.weight(layer.bias, "_wide", layer.bias.detach().reshape(wide))))


def instance_norm(writer: Writer, layer: Any, x: Value) -> str:
    """Instance normalization with a scale and a bias."""
    if layer.track_running_stats or layer.weight is None or layer.bias is None:
        raise Unwritten
    return str(
        writer.emit("InstanceNormalization", x.name, writer.weight(layer.weight), writer.weight(layer.bias), epsilon=float(layer.eps))
    )


def embedding(writer: Writer, layer: nn.Embedding, x: Value) -> str:
    """A table that is looked up."""
    if layer.max_norm is not None:
        raise Unwritten
    return str(writer.emit("Gather", writer.weight(layer.weight), x.name, axis=0))


def pool(writer: Writer, layer: Any, x: Value) -> str:
    """Maximum and average pools."""
    spatial = x.rank - 2
    pads = _list(layer.padding, spatial)
    attributes: NodeAttributes = {
        "kernel_shape": _list(layer.kernel_size, spatial),
        "strides": _list(layer.kernel_size if layer.stride is None else layer.stride, spatial),
        "pads": [*pads, *pads],
    }
    if layer.ceil_mode or getattr(layer, "return_indices", False) or getattr(layer, "divisor_override", None) is not None:
        raise Unwritten
    if isinstance(layer, nn.MaxPool1d | nn.MaxPool2d | nn.MaxPool3d):
        return str(writer.emit("MaxPool", x.name, **attributes, dilations=_list(layer.dilation, spatial)))
    return str(writer.emit("AveragePool", x.name, **attributes, count_include_pad=int(layer.count_include_pad)))


def global_pool(writer: Writer, layer: Any, x: Value) -> str:
    """A mean, or a maximum, over all places."""
    spatial = x.rank - 2
    if _list(layer.output_size, spatial) != [1] * spatial or getattr(layer, "return_indices", False):
        raise Unwritten
    if isinstance(layer, nn.AdaptiveMaxPool1d | nn.AdaptiveMaxPool2d | nn.AdaptiveMaxPool3d):
        return str(writer.emit("GlobalMaxPool", x.name))
    return str(writer.emit("ReduceMean", x.name, writer.integers(*range(2, x.rank)), keepdims=1))


def gelu(writer: Writer, layer: nn.GELU, x: Value) -> str:
    """GELU in the operators of the operator set, which the runtime fuses: exact, or with tanh."""

    def constant(number: float) -> str:
        return writer.constant(number, x.dtype)

    if layer.approximate == "tanh":
        cube = str(writer.emit("Pow", x.name, constant(3.0)))
        inner = str(writer.emit("Add", x.name, str(writer.emit("Mul", constant(0.044715), cube))))
        share = str(writer.emit("Tanh", str(writer.emit("Mul", constant(math.sqrt(2 / math.pi)), inner))))
    else:
        share = str(writer.emit("Erf", str(writer.emit("Div", x.name, constant(math.sqrt(2.0))))))
    half = str(writer.emit("Mul", constant(0.5), str(writer.emit("Add", share, constant(1.0)))))
    return str(writer.emit("Mul", x.name, half))


def silu(writer: Writer, layer: nn.Module, x: Value) -> str:
    """x · sigmoid(x)."""
    return str(writer.emit("Mul", x.name, str(writer.emit("Sigmoid", x.name))))


def mish(writer: Writer, layer: nn.Module, x: Value) -> str:
    """x · tanh(softplus(x))."""
    return str(writer.emit("Mul", x.name, str(writer.emit("Tanh", str(writer.emit("Softplus", x.name))))))


def softplus(writer: Writer, layer: nn.Softplus, x: Value) -> str:
    """Softplus; torch is linear above its threshold, where both are the same to single precision."""
    if layer.beta != 1 or layer.threshold < 20:
        raise Unwritten
    return str(writer.emit("Softplus", x.name))


def clip(writer: Writer, layer: Any, x: Value) -> str:
    """Hardtanh and ReLU6."""
    return str(writer.emit("Clip", x.name, writer.constant(layer.min_val, x.dtype), writer.constant(layer.max_val, x.dtype)))


def prelu(writer: Writer, layer: nn.PReLU, x: Value) -> str:
    """A slope for each channel, or one for all."""
    wide: Tensor = layer.weight.detach().reshape(-1, *[1] * max(0, x.rank - 2))
    return str(writer.emit("PRelu", x.name, writer.weight(layer.weight, "_wide" if wide.dim() > 1 else "", wide)))


def softmax(writer: Writer, layer: Any, x: Value) -> str:
    """Softmax and its logarithm."""
    if layer.dim is None:
        raise Unwritten
    return str(writer.emit("LogSoftmax" if isinstance(layer, nn.LogSoftmax) else "Softmax", x.name, axis=int(layer.dim)))


def same(writer: Writer, layer: nn.Module, x: Value) -> str:
    """Nothing is computed."""
    return x.name


def reshaping(writer: Writer, layer: nn.Module, x: Value) -> str:
    """Another shape of the same values."""
    return writer.reshaped(x.name, shapes(x), [tuple(probe.shape) for probe in writer.probes])


def pixel_shuffle(writer: Writer, layer: nn.PixelShuffle, x: Value) -> str:
    """Channels become places."""
    return str(writer.emit("DepthToSpace", x.name, blocksize=int(layer.upscale_factor), mode="CRD"))


def _plain(kind: str, **fixed: Any) -> LayerRule:
    return lambda writer, layer, x: str(writer.emit(kind, x.name, **fixed))


def _alpha(kind: str, name: str) -> LayerRule:
    return lambda writer, layer, x: str(writer.emit(kind, x.name, alpha=float(getattr(layer, name))))


LAYERS: Mapping[type[nn.Module], LayerRule] = {
    **dict.fromkeys(
        (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
        convolution,
    ),
    nn.Linear: linear,
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), batch_norm),
    nn.LayerNorm: layer_norm,
    nn.GroupNorm: group_norm,
    **dict.fromkeys((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d), instance_norm),
    nn.Embedding: embedding,
    **dict.fromkeys((nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d), pool),
    **dict.fromkeys(
        (
            nn.AdaptiveAvgPool1d,
            nn.AdaptiveAvgPool2d,
            nn.AdaptiveAvgPool3d,
            nn.AdaptiveMaxPool1d,
            nn.AdaptiveMaxPool2d,
            nn.AdaptiveMaxPool3d,
        ),
        global_pool,
    ),
    nn.GELU: gelu,
    nn.SiLU: silu,
    nn.Mish: mish,
    nn.Softplus: softplus,
    **dict.fromkeys((nn.Hardtanh, nn.ReLU6), clip),
    nn.PReLU: prelu,
    **dict.fromkeys((nn.Softmax, nn.LogSoftmax), softmax),
    **dict.fromkeys((nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d), same),
    **dict.fromkeys((nn.Flatten, nn.Unflatten), reshaping),
    nn.PixelShuffle: pixel_shuffle,
    nn.ReLU: _plain("Relu"),
    nn.Sigmoid: _plain("Sigmoid"),
    nn.Tanh: _plain("Tanh"),
    nn.Softsign: _plain("Softsign"),
    nn.Hardswish: _plain("HardSwish"),
    nn.Hardsigmoid: _plain("HardSigmoid", alpha=1 / 6, beta=0.5),
    nn.LeakyReLU: _alpha("LeakyRelu", "negative_slope"),
    nn.ELU: _alpha("Elu", "alpha"),
    nn.CELU: _alpha("Celu", "alpha"),
    nn.SELU: _plain("Selu"),
}


@torch.no_grad()
def folded_norm(layer: Any, norm: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias of a layer that computes what it and the batch normalization behind it do."""
    along = int(getattr(layer, "transposed", False))
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    bias = -norm.running_mean.double() if layer.bias is None else layer.bias.double() - norm.running_mean.double()
    bias = bias * scale + (0 if norm.bias is None else norm.bias.double())
    shape = [1] * layer.weight.dim()
    shape[along] = -1
    return (layer.weight.double() * scale.reshape(shape)).to(layer.weight.dtype), bias.to(layer.weight.dtype)
