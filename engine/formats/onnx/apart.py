"""Graphs on disk whose large constants lie in one file beside them, so that a copy with other nodes costs no copy of the constants.

These are files of this process alone, in its own directory: what a user uploads or downloads is one file (see `one_file`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

from engine.formats.onnx import runtime

LARGE_BYTES = 1 << 16
"""Constants of so many bytes lie apart; the shapes and bounds that a graph is planned by are smaller."""

Constants = Mapping[str, NDArray[np.float32]]


def split(model: onnx.ModelProto) -> tuple[onnx.ModelProto, Constants]:
    """A model without its large constants of float32, and those by name; the model itself can be let go."""
    rest = onnx.ModelProto()
    _copy_fields(model, rest, "graph")
    _copy_fields(model.graph, rest.graph, "initializer")
    constants = {}
    for tensor in model.graph.initializer:
        data = tensor.raw_data if tensor.data_type == onnx.TensorProto.FLOAT else b""
        if len(data) < LARGE_BYTES:
            rest.graph.initializer.append(tensor)
            continue
        constants[tensor.name] = np.frombuffer(data, np.float32).reshape(list(tensor.dims))
        stated = rest.graph.initializer.add(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type)
        stated.data_location = onnx.TensorProto.EXTERNAL
        stated.external_data.add(key="location", value="in_memory")
    return rest, constants


def joined(rest: onnx.ModelProto, constants: Constants) -> onnx.ModelProto:
    """The model that `split` took apart; the first is changed in place."""
    for tensor in rest.graph.initializer:
        if tensor.name in constants:
            tensor.raw_data = constants[tensor.name].tobytes()
            _state_inside(tensor)
    return rest


def optimize(rest: onnx.ModelProto, constants: Constants, target: Path) -> None:
    """Write a model to `target` after those of the runtime's optimizations that do not depend on the machine; its large constants go
    beside it.

    Raises `model_invalid` where the runtime refuses the model, `out_of_memory`.
    """
    _data(target).unlink(missing_ok=True)
    runtime.optimize(rest.SerializeToString(), constants, target, apart=_data(target), from_bytes=LARGE_BYTES)


def outline(path: Path) -> onnx.ModelProto:
    """A graph without the constants that lie apart. It can be written again in the same directory, where it finds them."""
    return onnx.load(path, load_external_data=False)


def load_constant(tensor: onnx.TensorProto, path: Path) -> None:
    """Read a constant of the graph at `path` in place, where it lies apart."""
    if uses_external_data(tensor):
        load_external_data_for_tensor(tensor, str(path.parent))
        _state_inside(tensor)


def remove(path: Path) -> None:
    """Delete a graph with what lies beside it."""
    path.unlink()
    _data(path).unlink(missing_ok=True)


def _state_inside(tensor: onnx.TensorProto) -> None:
    """Say of a constant that its data no longer lie apart."""
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")


def _data(path: Path) -> Path:
    return path.with_suffix(".data")


def _copy_fields(source: onnx.ModelProto | onnx.GraphProto, target: onnx.ModelProto | onnx.GraphProto, without: str) -> None:
    for field, value in source.ListFields():
        if field.name != without:
            target.MergeFrom(type(target)(**{field.name: value}))
