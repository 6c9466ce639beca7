"""Walks an ONNX graph in its order and rebuilds it node by node."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import onnx
import torch
from torch import fx

from engine.contract import limits
from engine.contract.errors import EngineError
from engine.formats.onnx.contents import inner_nodes, own_constants
from engine.formats.onnx.einsum import with_products
from engine.formats.onnx.file import fixed_batch, graph_inputs
from engine.formats.onnx.flat import subgraphs
from engine.formats.onnx.importer import making, sizes
from engine.formats.onnx.importer.builder import Builder
from engine.formats.onnx.importer.elementwise import DTYPES, HALF_TYPES
from engine.formats.onnx.importer.parameters import Origin
from engine.formats.onnx.importer.patterns import Patterns
from engine.formats.onnx.importer.reader import KEEP_HINT, OPEN_BATCH_HINT, Op
from engine.formats.onnx.importer.values import Constant, Value

Handler = Callable[[Op, Builder], Any]
_FAMILIES = (
    "activations",
    "attention",
    "elementwise",
    "linear",
    "making",
    "normalization",
    "pooling",
    "recurrent",
    "reductions",
    "reshape",
    "resize",
    "sampling",
    "scattering",
    "shapes",
)
"""Modules of this folder, each with the operators of one kind."""
OPERATORS: Mapping[str, Handler] = {
    name: handler for family in _FAMILIES for name, handler in import_module(f"{__package__}.{family}").OPERATORS.items()
}
OWN_DOMAIN = "modelpress"
"""Of operators that a method writes into a graph before it is rebuilt, and handles itself."""
NO_OPERATORS: Mapping[str, Handler] = {}
Consumers = dict[str, list[onnx.NodeProto]]
_CONTROL_FLOW = {"Loop", "Scan", "SequenceMap"}
_BY_DATA = "control flow depends on the data"
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
    _refuse_unknown((node for node in model.graph.node if node.domain != OWN_DOMAIN or node.op_type not in own), opset)
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


def _refuse_unknown(nodes: Iterable[onnx.NodeProto], opset: int) -> None:
    for node in nodes:
        if node.op_type == "If" and node.domain in ("", "ai.onnx") and node.input and node.output:
            continue
        if node.op_type in OPERATORS and node.domain in ("", "ai.onnx"):
            if len(node.input) < _fewest_inputs(node.op_type, opset) or not node.output:
                raise EngineError("model_invalid", f"Node {node.name or '(unnamed)'} ({node.op_type}) lacks inputs or outputs.")
            continue
        kind = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        reason = _BY_DATA if node.op_type in _CONTROL_FLOW else "the operator has no trainable form here"
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
    module = build.module(_Walk(build, opset, own).run(graph, values, {}))
    return Rebuilt(module, tuple(build.parameters.origins), build.constants)


class _Walk:
    """Rebuilds one graph after the other: the main graph, and the branches that are taken."""

    def __init__(self, build: Builder, opset: int, own: Mapping[str, Handler]) -> None:
        self._build = build
        self._opset = opset
        self._own = own

    def run(self, graph: onnx.GraphProto, values: dict[str, Value], around: Consumers) -> list[Value]:
        """The graph's outputs. `values` are those that it may read; `around` says who reads the ones of the graph around it."""
        constants = own_constants(graph)
        nodes = with_products(graph, Patterns(graph, constants).rewritten(), constants)
        consumers = _consumers(nodes, graph, around)
        for node in nodes:
            try:
                read = [values[name] if name else None for name in node.input]
            except KeyError as error:
                raise EngineError(
                    "model_invalid", f"Node {node.name or node.op_type} reads {error.args[0]!r}, which nothing computes before."
                ) from None
            op = Op(node, read, self._opset, consumers)
            handler = self._own[node.op_type] if node.domain == OWN_DOMAIN else OPERATORS.get(node.op_type)
            results = self._branch(op, values, consumers) if node.op_type == "If" else _convert(op, self._build, handler)
            values.update((name, value) for name, value in zip(node.output, results, strict=False) if name)
        try:
            return [values[item.name] for item in graph.output]
        except KeyError as error:
            raise EngineError("model_invalid", f"The output {error.args[0]!r} is computed by no node.") from None

    def _branch(self, op: Op, values: dict[str, Value], consumers: Consumers) -> list[Value]:
        """What an If with a constant condition always runs; exporters write one where a shape decides."""
        condition = op.constant(0)
        if condition is None or condition.tensor.numel() != 1:
            op.fail(_BY_DATA)
        wanted = "then_branch" if bool(condition.tensor.item()) else "else_branch"
        graph = next((item.g for item in op.node.attribute if item.name == wanted), None)
        if graph is None:
            raise EngineError("model_invalid", f"Node {op.label} lacks its {wanted}.")
        _refuse_unknown(graph.node, self._opset)
        stored = {item.name: Constant(making.tensor_of(item), f"{op.node.output[0]}/{item.name}") for item in graph.initializer}
        return self.run(graph, {**values, **stored}, consumers)


def _consumers(nodes: Iterable[onnx.NodeProto], graph: onnx.GraphProto, around: Consumers) -> Consumers:
    """Who reads each value: nodes, subgraphs by the node that holds them, and the graph's caller by a node without a type."""
    consumers: Consumers = defaultdict(list, {name: list(readers) for name, readers in around.items()})
    for node in nodes:
        inner = [name for item in inner_nodes(node) for name in item.input]
        handed_on = [item.name for part in (node, *inner_nodes(node)) for held in subgraphs(part) for item in held.output]
        for name in (*node.input, *inner, *handed_on):
            consumers[name].append(node)
    for output in graph.output:
        consumers[output.name].append(onnx.NodeProto())
    return consumers


def _convert(op: Op, build: Builder, handler: Handler | None) -> list[Value]:
    try:
        result = sizes.evaluate(op)
        if result is None:
            assert handler is not None
            result = handler(op, build)
    except EngineError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError, NotImplementedError, AssertionError) as error:
        _refuse_rows(op, build)
        raise EngineError(
            "model_invalid",
            f"Node {op.label} does not fit its inputs: {str(error).splitlines()[0] if str(error) else type(error).__name__}.",
            hint="Check the file with onnx.checker.check_model(full_check=True), or export it again.",
            details={"node": op.node.name, "operator": op.type},
        ) from error
    return result if isinstance(result, list) else [result]


def _refuse_rows(op: Op, build: Builder) -> None:
    """Refuse a constant with values of its own for every example of the batch that the file fixes: no other batch fits it."""
    for name, value in zip(op.node.input, op.inputs, strict=False):
        rows = build.static_batch
        if isinstance(value, Constant) and rows is not None and rows > 1 and value.tensor.dim() and len(value.tensor) == rows:
            op.fail(f"{name!r} has a row for each of the {rows} examples of the batch that the file fixes", hint=OPEN_BATCH_HINT)


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
