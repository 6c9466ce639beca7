"""Shapes of values that shape inference does not find, read off one run. Imports no torch."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from engine.contract.errors import EngineError
from engine.formats.onnx import runtime
from engine.formats.onnx.file import graph_inputs
from engine.formats.onnx.inference import skeleton_of

Shapes = dict[str, list[int] | None]
_HOLLOW = frozenset(
    [onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.INT8, onnx.TensorProto.UINT8]
)
"""Types of weights that may be zero for once: whole numbers of other types may be divided by."""


def run_shapes(model: onnx.ModelProto, names: Sequence[str], known: Shapes) -> Shapes:
    """Shapes of the named values, found by running the graph once on zeros: some arithmetic on shapes is beyond inference.

    Empty where the graph does not run on the sizes that were imagined for its open dimensions: those products stay uncounted.
    """
    wanted = [name for name in dict.fromkeys(names) if known.get(name) is None]
    probe = _hollow(model)
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    feed = {}
    for item in graph_inputs(model.graph):
        dtype = onnx.helper.tensor_dtype_to_np_dtype(item.type.tensor_type.elem_type)
        feed[item.name] = np.zeros(known.get(item.name) or [], dtype)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.onnx"
        onnx.save_model(probe, str(path))
        try:
            results = runtime.run(runtime.open_session(path, threads=1, optimized=False), feed)
        except EngineError as error:
            if error.code != "model_invalid":
                raise
            return {}
    return {name: list(array.shape) for name, array in zip(wanted, results, strict=True)}


def _hollow(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that makes its large weights itself, all of them zero: no shape is computed from them, and none of them has to be copied."""
    hollow = skeleton_of(model)
    stored = {item.name: item for item in model.graph.initializer}
    own = {item.name for item in graph_inputs(model.graph)}
    weights = [stored[item.name] for item in hollow.graph.input if item.name in stored and item.name not in own]
    kept = [item for item in hollow.graph.input if item.name in own]
    del hollow.graph.input[:]
    hollow.graph.input.extend(kept)
    nodes = list(hollow.graph.node)
    made = []
    for number, tensor in enumerate(weights):
        if tensor.data_type not in _HOLLOW:
            hollow.graph.initializer.append(tensor)
            continue
        sizes = f"{tensor.name}:sizes{number}"
        hollow.graph.initializer.append(onnx.numpy_helper.from_array(np.array(tensor.dims, np.int64), sizes))
        zero = onnx.helper.make_tensor("zero", tensor.data_type, [1], [0])
        made.append(onnx.helper.make_node("ConstantOfShape", [sizes], [tensor.name], value=zero))
    del hollow.graph.node[:]
    hollow.graph.node.extend([*made, *nodes])
    return hollow
