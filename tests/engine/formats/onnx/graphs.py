"""ONNX graphs written by hand, and what onnxruntime makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto, helper, numpy_helper

from engine.formats.onnx.importer.rebuild import build_module

Array = np.ndarray
BATCH = "batch"
I64 = np.int64
_TYPES = {"f": TensorProto.FLOAT, "i": TensorProto.INT64, "b": TensorProto.BOOL}


def node(kind: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, list(inputs), list(outputs), name=f"node_{outputs[0]}", **attributes)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, Sequence[int | str]],
    outputs: Sequence[str],
    constants: dict[str, Array] | None = None,
    *,
    opset: int = 18,
    types: dict[str, str] | None = None,
    domain: str | None = None,
) -> onnx.ModelProto:
    """A model; outputs have no declared shape, as many files have it."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(name, _TYPES[(types or {}).get(name, "f")], list(shape)) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, _TYPES[(types or {}).get(name, "f")], None) for name in outputs],
        [numpy_helper.from_array(np.asarray(array, order="C"), name) for name, array in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def run_reference(proto: onnx.ModelProto, feed: dict[str, Array]) -> list[Array]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, feed)


def run_imported(module: torch.nn.Module, feed: dict[str, Array]) -> list[Array]:
    with torch.no_grad():
        result = module(*[torch.from_numpy(array) for array in feed.values()])
    return [item.numpy() for item in (result if isinstance(result, tuple) else (result,))]


def assert_same(proto: onnx.ModelProto, *feeds: dict[str, Array], tolerance: float = 1e-4) -> torch.fx.GraphModule:
    """Import the model and compare it with onnxruntime on every feed; returns the module."""
    module = build_module(proto)
    for feed in feeds:
        for want, got in zip(run_reference(proto, feed), run_imported(module, feed), strict=True):
            assert want.shape == got.shape
            np.testing.assert_allclose(got, want, atol=tolerance, rtol=tolerance)
    return module


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def ints(*values: int) -> Array:
    return np.array(values, dtype=I64)


def scalar(value: float) -> Array:
    return np.array(value, dtype=np.float32)
