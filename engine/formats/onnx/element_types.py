"""Types of stored weights and of what goes in and out: a network keeps those of its upload, whatever it is trained in.

Half precision is trained in single (see `importer.elementwise.HALF_TYPES`). The published file stores such weights as float16 again
and casts them when it is loaded, which the runtime does once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx
import torch
from torch import nn

from engine.formats.onnx.file import TYPES
from engine.formats.onnx.naming import FreshNames
from engine.networks.network import TensorSpec

_HALF_MAX = 65504.0
_SMALLEST = 2
"""Elements from which a constant is stored in half precision."""


@torch.no_grad()
def round_weights(module: nn.Module) -> nn.Module:
    """Round the parameters to half precision in place, as their file will hold them; those out of its range stay as they are."""
    for parameter in module.parameters():
        if parameter.dtype == torch.float32 and float(parameter.abs().max() if parameter.numel() else 0) <= _HALF_MAX:
            parameter.copy_(parameter.half())
    return module


def store_in_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model, changed in place, with its float32 weights stored as float16, each behind a Cast."""
    graph = model.graph
    names = FreshNames(graph)
    outputs = {item.name for item in graph.output}
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or math.prod(tensor.dims) < _SMALLEST or tensor.name in outputs:
            continue
        array = onnx.numpy_helper.to_array(tensor)
        if not float(np.abs(array).max()) <= _HALF_MAX:
            continue
        name, stored = tensor.name, names.claim(f"{tensor.name}_half")
        tensor.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float16), stored))
        casts.append(onnx.helper.make_node("Cast", [stored], [name], name=f"{stored}/Cast", to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def cast_outputs(model: onnx.ModelProto, outputs: Sequence[TensorSpec]) -> onnx.ModelProto:
    """The model, changed in place, with outputs of the types that its signature states."""
    graph = model.graph
    names = FreshNames(graph)
    for item, spec in zip(graph.output, outputs, strict=True):
        wanted = next((kind for kind, name in TYPES.items() if name == spec.dtype), None)
        if wanted is None or item.type.tensor_type.elem_type == wanted:
            continue
        inner = names.claim(f"{item.name}_computed")
        for node in graph.node:
            for side in (node.input, node.output):
                side[:] = [inner if name == item.name else name for name in side]
        graph.node.append(onnx.helper.make_node("Cast", [inner], [item.name], name=names.claim(f"/{item.name}/Cast"), to=wanted))
        item.type.tensor_type.elem_type = wanted
    return model
