"""How functions are written that compute what a layer without weights does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.nn import functional

from engine.formats.onnx.writer.functions import Args, Kwargs, Rule, given, tensor
from engine.formats.onnx.writer.graph import Size, Unwritten, Value, Writer
from engine.formats.onnx.writer.layers import LAYERS


def as_layer(make: Callable[..., nn.Module]) -> Rule:
    """Written as the layer that is made of all arguments but the first; what overwrites its argument is not written."""

    def rule(writer: Writer, args: Args, kwargs: Kwargs) -> str:
        rest = {name: value for name, value in kwargs.items() if name != "inplace"}
        if kwargs.get("inplace") or any(isinstance(item, Value | Size) for item in (*args[1:], *rest.values())):
            raise Unwritten
        layer = make(*args[1:], **rest)
        return LAYERS[type(layer)](writer, layer, tensor(args[0]))

    return rule


def grid_sample(writer: Writer, args: Args, kwargs: Kwargs) -> str:
    """Pictures read at computed places; the operator of the opset that is written knows no volumes."""
    value, grid = tensor(args[0]), tensor(given(args, kwargs, 1, "grid"))
    mode = str(given(args, kwargs, 2, "mode", "bilinear"))
    if value.rank != 4 or value.dtype != grid.dtype:
        raise Unwritten
    padding = str(given(args, kwargs, 3, "padding_mode", "zeros"))
    align = int(bool(given(args, kwargs, 4, "align_corners", False)))
    return str(writer.emit("GridSample", value.name, grid.name, mode=mode, padding_mode=padding, align_corners=align))


FUNCTIONS: Mapping[Any, Rule] = {
    functional.grid_sample: grid_sample,
    functional.relu: as_layer(nn.ReLU),
    functional.relu6: as_layer(nn.ReLU6),
    functional.silu: as_layer(nn.SiLU),
    functional.gelu: as_layer(nn.GELU),
    functional.mish: as_layer(nn.Mish),
    functional.hardswish: as_layer(nn.Hardswish),
    functional.hardsigmoid: as_layer(nn.Hardsigmoid),
    functional.leaky_relu: as_layer(nn.LeakyReLU),
    functional.elu: as_layer(nn.ELU),
    functional.avg_pool2d: as_layer(nn.AvgPool2d),
    functional.adaptive_avg_pool2d: as_layer(nn.AdaptiveAvgPool2d),
    functional.max_pool2d: as_layer(nn.MaxPool2d),
}
