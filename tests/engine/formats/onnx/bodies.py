"""Loop and Scan written by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.engine.formats.onnx.graphs import Array, node

_KINDS = {"f": TensorProto.FLOAT, "i": TensorProto.INT64, "b": TensorProto.BOOL}
YES = node("Identity", ["go"], ["go_on"])
"""The condition of a body that never ends early."""


def body(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[str],
    outputs: Sequence[str],
    weights: Mapping[str, Array] | None = None,
    kinds: Mapping[str, str] | None = None,
) -> onnx.GraphProto:
    """What is repeated; values are real numbers of any shape but where `kinds` says so: a letter, and the number of dimensions where it is known."""

    def info(name: str) -> onnx.ValueInfoProto:
        kind = (kinds or {}).get(name, "f")
        return helper.make_tensor_value_info(name, _KINDS[kind[0]], [1] * int(kind[1]) if kind[1:] else None)

    stored = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    return helper.make_graph(list(nodes), "body", list(map(info, inputs)), list(map(info, outputs)), stored)


def loop(
    given: Sequence[str],
    made: Sequence[str],
    nodes: Sequence[onnx.NodeProto],
    states: Sequence[str],
    results: Sequence[str],
    *,
    weights: Mapping[str, Array] | None = None,
    kinds: Mapping[str, str] | None = None,
    condition: onnx.NodeProto | None = YES,
    names: tuple[str, str, str] = ("i", "go", "go_on"),
) -> onnx.NodeProto:
    """A Loop whose body calls the number of the time and the condition as `names` say, and reads states by these names."""
    number, go, go_on = names
    stated = {number: "i0", go: "b0", go_on: "b0", **(kinds or {})}
    inside = body([*nodes, *([condition] if condition is not None else [])], [number, go, *states], [go_on, *results], weights, stated)
    return node("Loop", given, made, body=inside)
