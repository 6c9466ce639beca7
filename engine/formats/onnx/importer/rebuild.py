"""Walks an ONNX graph in its order and rebuilds it node by node."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import onnx
import torch
from torch import fx

from engine.contract import limits
from engine.contract.errors import EngineError
from engine.formats.onnx.checks import constant_tensors
from engine.formats.onnx.file import fixed_batch, graph_inputs
from engine.formats.onnx.importer import (
    activations,
    attention,
    elementwise,
    linear,
    making,
    normalization,
    pooling,
    recurrent,
    reductions,
    reshape,
    resize,
    shapes,
    sizes,
)
from engine.formats.onnx.importer.builder import Builder
from engine.formats.onnx.importer.elementwise import DTYPES, HALF_TYPES
from engine.formats.onnx.importer.patterns import Patterns
from engine.formats.onnx.importer.reader import KEEP_HINT, Op
from engine.formats.onnx.importer.values import Constant, Value

Handler = Callable[[Op, Builder], Any]
_GROUPS = (activations, attention, elementwise, linear, making, normalization, pooling, recurrent, reductions, reshape, resize, shapes)
OPERATORS: Mapping[str, Handler] = {name: handler for group in _GROUPS for name, handler in group.OPERATORS.items()}
_CONTROL_FLOW = {"If", "Loop", "Scan", "SequenceMap"}
_BATCHES = (2, 3, 1021)
"""Batches that are imagined: what is the same for all of them is taken as the same for every batch."""
_OPEN_SIZES = ((64, 96, 160), (224, 256, 384), (16, 24, 40), (32, 33, 35), (512, 640, 1024), (1, 2, 3))
"""What an open dimension other than the batch is imagined to be, tried in this order until the whole graph fits."""


def build_module(model: onnx.ModelProto) -> fx.GraphModule:
    """The graph as an `fx.GraphModule` in eval mode, of `torch.nn` layers named after the file's own tensors.

    The module takes the graph's inputs in their order, with any batch size, and returns its output (a tuple where there are
    several). Initializers that are used twice stay one parameter. Raises `unsupported_operator` for a node that has no
    trainable form, and `model_invalid` where shapes contradict one another.
    """
    if len(model.graph.node) > limits.MAX_TRAINABLE_NODES:
        raise EngineError(
            "model_invalid",
            f"The graph has {len(model.graph.node)} operators; up to {limits.MAX_TRAINABLE_NODES} are made trainable.",
            hint="Post-training quantization still works on this model, since it needs no training.",
        )
    opset = max((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), default=1)
    _refuse_unknown(model.graph.node, opset)
    inputs = graph_inputs(model.graph)
    failure: EngineError | None = None
    for open_sizes in _OPEN_SIZES:
        try:
            return _build(model, inputs, open_sizes)
        except EngineError as error:
            failure = failure or error
            if error.code != "model_invalid" or not _has_open_sizes(inputs):
                break
    assert failure is not None
    if failure.code == "model_invalid" and _has_open_sizes(inputs):
        failure.hint = "The file leaves sizes open besides the batch; state the real shapes as metadata.input_specs of the model."
    raise failure


def _refuse_unknown(nodes: Iterable[onnx.NodeProto], opset: int) -> None:
    for node in nodes:
        if node.op_type in OPERATORS and node.domain in ("", "ai.onnx"):
            if len(node.input) < _fewest_inputs(node.op_type, opset) or not node.output:
                raise EngineError("model_invalid", f"Node {node.name or '(unnamed)'} ({node.op_type}) lacks inputs or outputs.")
            continue
        kind = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        reason = "control flow depends on the data" if node.op_type in _CONTROL_FLOW else "the operator has no trainable form here"
        raise EngineError(
            "unsupported_operator",
            f"Node {node.name or '(unnamed)'} ({kind}) cannot be made trainable: {reason}.",
            hint=KEEP_HINT,
            details={"node": node.name, "operator": kind},
        )


def _fewest_inputs(kind: str, opset: int) -> int:
    try:
        return int(onnx.defs.get_schema(kind, opset).min_input)
    except onnx.defs.SchemaError:
        return 1


def _build(model: onnx.ModelProto, inputs: list[onnx.ValueInfoProto], open_sizes: tuple[int, ...]) -> fx.GraphModule:
    graph = model.graph
    build = Builder(probes=len(_BATCHES))
    build.static_batch = fixed_batch(inputs)
    values: dict[str, Value] = {item.name: Constant(making.tensor_of(item), item.name) for item in graph.initializer}
    batch_name = next((item.type.tensor_type.shape.dim[0].dim_param for item in inputs if item.type.tensor_type.shape.dim), "")
    for item in inputs:
        value: Value = build.placeholder(item.name, _probes(item, build.static_batch, batch_name, open_sizes))
        if item.type.tensor_type.elem_type in HALF_TYPES:
            value = build.call("to", value, torch.float32)
        values[item.name] = value
    nodes = Patterns(graph, constant_tensors(model)).rewritten()
    consumers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in nodes:
        for name in node.input:
            consumers[name].append(node)
    for output in graph.output:
        consumers[output.name].append(onnx.NodeProto())
    opset = max((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), default=1)
    for node in nodes:
        try:
            read = [values[name] if name else None for name in node.input]
        except KeyError as error:
            raise EngineError(
                "model_invalid", f"Node {node.name or node.op_type} reads {error.args[0]!r}, which nothing computes before."
            ) from None
        results = _convert(Op(node, read, opset, consumers), build)
        values.update((name, value) for name, value in zip(node.output, results, strict=False) if name)
    try:
        outputs = [values[item.name] for item in graph.output]
    except KeyError as error:
        raise EngineError("model_invalid", f"The output {error.args[0]!r} is computed by no node.") from None
    return build.module(outputs)


def _convert(op: Op, build: Builder) -> list[Value]:
    try:
        result = sizes.evaluate(op)
        if result is None:
            result = OPERATORS[op.type](op, build)
    except EngineError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError, NotImplementedError, AssertionError) as error:
        raise EngineError(
            "model_invalid",
            f"Node {op.label} does not fit its inputs: {str(error).splitlines()[0] if str(error) else type(error).__name__}.",
            hint="Check the file with onnx.checker.check_model(full_check=True), or export it again.",
            details={"node": op.node.name, "operator": op.type},
        ) from error
    return result if isinstance(result, list) else [result]


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
