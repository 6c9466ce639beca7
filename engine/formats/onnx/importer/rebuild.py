"""Walks an ONNX graph in its order and rebuilds it node by node."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx
import torch
from torch import fx

from engine.contract import limits
from engine.contract.errors import EngineError
from engine.formats.onnx.file import fixed_batch, graph_inputs
from engine.formats.onnx.importer import making
from engine.formats.onnx.importer.builder import Builder
from engine.formats.onnx.importer.elementwise import DTYPES, HALF_TYPES
from engine.formats.onnx.importer.operators import NO_OPERATORS, OPERATORS, OWN_DOMAIN, Handler, refuse_unknown
from engine.formats.onnx.importer.parameters import Origin
from engine.formats.onnx.importer.reader import KEEP_HINT
from engine.formats.onnx.importer.values import Constant, Items, Value
from engine.formats.onnx.importer.walk import Walk

__all__ = ["OPERATORS", "OWN_DOMAIN", "Rebuilt", "build_module", "rebuild"]

_BATCHES = (2, 3, 1021)
"""Batches that are imagined: what is the same for all of them is taken as the same for every batch."""
_OPEN_SIZES = ((64, 96, 160), (224, 256, 384), (16, 24, 40), (32, 33, 35), (512, 640, 1024), (1, 2, 3))
"""What an open dimension other than the batch is imagined to be, tried in this order until the whole graph fits."""

Weights = Mapping[str, torch.Tensor]
"""Initializers by name."""


@dataclass(frozen=True)
class Rebuilt:
    """A module and where its parameters stand in the file."""

    module: fx.GraphModule
    origins: tuple[Origin, ...]
    constants: Mapping[str, tuple[str, bool]]
    """The initializer that a tensor of no layer is, and whether it is its transpose, by the tensor's path."""


def build_module(model: onnx.ModelProto, weights: Weights | None = None) -> fx.GraphModule:
    """The module alone; see `rebuild`."""
    return rebuild(model, weights=weights).module


def rebuild(model: onnx.ModelProto, own: Mapping[str, Handler] = NO_OPERATORS, *, weights: Weights | None = None) -> Rebuilt:
    """The graph as an `fx.GraphModule` in eval mode, of `torch.nn` layers named after the file's own tensors.

    `weights` are the values of initializers that are empty in the graph (`making.without_weights`).

    The module takes the graph's inputs in their order, with any batch size, and returns its output (a tuple where there are
    several). Initializers that are used twice stay one parameter. `own` handles the operators of the domain `modelpress`. Raises `unsupported_operator` for a node that has no
    trainable form, and `model_invalid` where shapes contradict one another.
    """
    if len(model.graph.node) > limits.MAX_TRAINABLE_NODES:
        raise EngineError(
            "model_invalid",
            f"The graph has {len(model.graph.node)} operators; up to {limits.MAX_TRAINABLE_NODES} are made trainable.",
            hint="Post-training quantization still works on this model, since it needs no training.",
        )
    opset = max((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), default=1)
    refuse_unknown((node for node in model.graph.node if node.domain != OWN_DOMAIN or node.op_type not in own), opset)
    inputs = graph_inputs(model.graph)
    failure: EngineError | None = None
    for open_sizes in _OPEN_SIZES:
        try:
            return _build(model, weights or {}, inputs, open_sizes, own)
        except EngineError as error:
            failure = failure or error
            if error.code != "model_invalid" or not _has_open_sizes(inputs):
                break
    assert failure is not None
    if failure.code == "model_invalid" and _has_open_sizes(inputs):
        failure.hint = "The file leaves sizes open besides the batch; state the real shapes as metadata.input_specs of the model."
    raise failure


def _build(
    model: onnx.ModelProto,
    weights: Weights,
    inputs: list[onnx.ValueInfoProto],
    open_sizes: tuple[int, ...],
    own: Mapping[str, Handler],
) -> Rebuilt:
    graph = model.graph
    build = Builder(probes=len(_BATCHES))
    build.static_batch = fixed_batch(inputs)
    values: dict[str, Value] = {
        item.name: Constant(weights[item.name] if item.name in weights else making.tensor_of(item), item.name) for item in graph.initializer
    }
    batch_name = next((item.type.tensor_type.shape.dim[0].dim_param for item in inputs if item.type.tensor_type.shape.dim), "")
    for item in inputs:
        value: Value = build.placeholder(item.name, _probes(item, build.static_batch, batch_name, open_sizes))
        if item.type.tensor_type.elem_type in HALF_TYPES:
            value = build.call("to", value, torch.float32)
        values[item.name] = value
    opset = max((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), default=1)
    outputs = Walk(build, opset, own).run(graph, values)
    if any(isinstance(output, Items) for output in outputs):
        raise EngineError("unsupported_operator", "An output of the network is a sequence, and no tensor.", hint=KEEP_HINT)
    module = build.module(outputs)
    return Rebuilt(module, tuple(build.parameters.origins), build.constants)


def _probes(item: onnx.ValueInfoProto, static_batch: int | None, batch_name: str, open_sizes: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
    """Imagined inputs on the meta device that differ in the batch and in every open dimension."""
    kind = item.type.tensor_type
    dtype = HALF_TYPES.get(kind.elem_type) or DTYPES.get(kind.elem_type)
    if dtype is None or not item.type.HasField("tensor_type") or not kind.HasField("shape"):
        raise EngineError("unsupported_operator", f"Input {item.name!r} is not a tensor of known rank and a numeric type.", hint=KEEP_HINT)
    batches = _BATCHES if static_batch is None else (static_batch, static_batch + 2, static_batch + 1019)

    def size(index: int, dim: onnx.TensorShapeProto.Dimension, probe: int) -> int:
        if dim.dim_value > 0:
            return batches[probe] if index == 0 and static_batch is not None else dim.dim_value
        return batches[probe] if index == 0 or (dim.dim_param and dim.dim_param == batch_name) else open_sizes[probe]

    sizes_ = ([size(index, dim, probe) for index, dim in enumerate(kind.shape.dim)] for probe in range(len(batches)))
    return tuple(torch.empty(shape, dtype=dtype, device="meta") for shape in sizes_)


def _has_open_sizes(inputs: Iterable[onnx.ValueInfoProto]) -> bool:
    return any(dim.dim_value <= 0 for item in inputs for dim in item.type.tensor_type.shape.dim[1:])
