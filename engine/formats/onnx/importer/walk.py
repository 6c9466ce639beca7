"""Rebuilds one graph after the other: the main graph, the branches that are taken, and the bodies that are repeated."""

from __future__ import annotations

from collections import ChainMap, defaultdict
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx

from engine.contract.errors import EngineError
from engine.formats.onnx.contents import inner_nodes, own_constants
from engine.formats.onnx.einsum import with_products
from engine.formats.onnx.flat import first_output, subgraphs
from engine.formats.onnx.importer import loops, making, sizes
from engine.formats.onnx.importer.builder import Builder
from engine.formats.onnx.importer.names import is_readable
from engine.formats.onnx.importer.operators import BODIES, OPERATORS, OWN_DOMAIN, Handler, refuse_unknown
from engine.formats.onnx.importer.patterns import Patterns
from engine.formats.onnx.importer.reader import OPEN_BATCH_HINT, Op
from engine.formats.onnx.importer.repeats import Repeats, with_biases
from engine.formats.onnx.importer.values import Constant, Value

Consumers = dict[str, list[onnx.NodeProto]]
Values = MutableMapping[str, Value]


@dataclass(frozen=True)
class _Scope:
    """A graph, made ready to be rebuilt, as often as it may be."""

    graph: onnx.GraphProto
    nodes: Sequence[onnx.NodeProto]
    consumers: Consumers
    constants: Mapping[str, onnx.TensorProto]
    """What is stored in the graph and around it."""
    stored: Mapping[str, Constant]
    """What is stored in the graph, where it is no main graph."""
    prefix: str
    """Before the names of its constants, which another branch or body may have as well."""
    repeats: Repeats | None
    """Of a graph that runs more than once."""


class Walk:
    """Rebuilds the nodes of a graph in their order."""

    def __init__(self, build: Builder, opset: int, own: Mapping[str, Handler]) -> None:
        self._build = build
        self._opset = opset
        self._own = own
        self._inner: dict[tuple[int, str], _Scope] = {}
        self._imagined = loops.Imagined()
        self._budget = loops.Budget()

    def run(self, graph: onnx.GraphProto, values: Values) -> list[Value]:
        """The outputs of the main graph. `values` are those that it may read; what it computes is added to them."""
        constants = own_constants(graph)
        nodes = with_products(graph, Patterns(graph, constants).rewritten(), constants)
        return self._run(_Scope(graph, nodes, _consumers(nodes, graph, {}), _known(graph, constants), {}, "", None), values)

    def _run(self, scope: _Scope, values: Values) -> list[Value]:
        for node in scope.nodes:
            try:
                read = [values[name] if name else None for name in node.input]
            except KeyError as error:
                raise EngineError(
                    "model_invalid", f"Node {node.name or node.op_type} reads {error.args[0]!r}, which nothing computes before."
                ) from None
            op = Op(node, read, self._opset, scope.consumers)
            results = self._converted(op, values, scope)
            self._imagined.follow(op, results)
            for name, value in zip(node.output, results, strict=False):
                if name:
                    values[name] = value
                    self._build.known_as(value, name)
        try:
            return [values[item.name] for item in scope.graph.output]
        except KeyError as error:
            raise EngineError("model_invalid", f"The output {error.args[0]!r} is computed by no node.") from None

    def _converted(self, op: Op, values: Values, scope: _Scope) -> list[Value]:
        if op.node.domain == OWN_DOMAIN:
            handler: Handler | None = self._own[op.type]
        elif op.type == "If":
            return self._branch(op, values, scope)
        elif op.type in BODIES:
            return _convert(op, self._build, lambda op, _: self._repeated(op, values, scope))
        elif op.type == "Constant" and scope.prefix:
            handler = _of_scope(scope.prefix)
        else:
            handler = OPERATORS.get(op.type)
        if scope.repeats is None:
            return _convert(op, self._build, handler)
        return scope.repeats.of(op, self._build, lambda: _convert(op, self._build, handler))

    def _branch(self, op: Op, values: Values, scope: _Scope) -> list[Value]:
        """What an If with a constant condition always runs; exporters write one where a shape decides."""
        condition = self._imagined.constant(op, op.get(0))
        inner = self._scope(op, "then_branch" if bool(condition) else "else_branch", scope)
        return self._run(inner, ChainMap({}, inner.stored, values))  # type: ignore[arg-type]

    def _repeated(self, op: Op, values: Values, scope: _Scope) -> list[Value]:
        """What a Loop or a Scan computes whose body runs a known number of times."""
        inner = self._scope(op, BODIES[op.type], scope)
        names = [item.name for item in inner.graph.input]

        def step(given: Sequence[Value]) -> list[Value]:
            self._budget.take(op, len(inner.nodes))
            return self._run(inner, ChainMap(dict(zip(names, given, strict=True)), inner.stored, values))  # type: ignore[arg-type]

        return loops.UNROLLED[op.type](op, self._build, loops.Body(inner.graph, len(inner.nodes), inner.constants, step), self._imagined)

    def _scope(self, op: Op, attribute: str, around: _Scope) -> _Scope:
        """One of the graphs that a node holds; a body's nodes and constants are the same ones at each time."""
        key = (id(op.node), attribute)
        if key not in self._inner:
            graph = next((item.g for item in op.node.attribute if item.name == attribute), None)
            if graph is None:
                raise EngineError("model_invalid", f"Node {op.label} lacks its {attribute}.")
            self._inner[key] = self._prepared(op, graph, around)
        return self._inner[key]

    def _prepared(self, op: Op, graph: onnx.GraphProto, around: _Scope) -> _Scope:
        refuse_unknown(graph.node, self._opset)
        prefix = f"{around.prefix}{first_output(op.node)}/"
        own, given = own_constants(graph), {item.name for item in graph.input}
        constants = _known(graph, {**{name: item for name, item in around.constants.items() if name not in given}, **own})
        stored = {item.name: Constant(making.tensor_of(item), _source(prefix, item.name)) for item in graph.initializer}
        if op.type == "If" and around.repeats is None:
            nodes = with_products(graph, Patterns(graph, own).rewritten(), own)
            return _Scope(graph, nodes, _consumers(nodes, graph, around.consumers), constants, stored, prefix, None)
        if op.type != "If":
            constants.update((name, constants[outer]) for name, outer in loops.taken_along(op.node, graph).items() if outer in constants)
        nodes = with_biases(with_products(graph, Patterns(graph, constants).rewritten(), own), graph, constants)
        consumers = _consumers(nodes, graph, around.consumers)
        for name, readers in consumers.items():
            if name in constants:
                consumers[name] = [reader for reader in readers if reader is not op.node]
            else:
                # Every value may be read once more, at the next time: none goes into the layer before it.
                readers.append(onnx.NodeProto())
        return _Scope(graph, nodes, consumers, constants, stored, prefix, around.repeats or Repeats())


def _known(graph: onnx.GraphProto, constants: Mapping[str, onnx.TensorProto]) -> dict[str, onnx.TensorProto]:
    """Constants by all of their names: exporters that store equal tensors once give the others an Identity."""
    found = dict(constants)
    for node in graph.node:
        if node.op_type == "Identity" and node.input and node.input[0] in found:
            found[node.output[0]] = found[node.input[0]]
    return found


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


def _source(prefix: str, name: str) -> str:
    """The name of a constant of a branch or body, which stays one that an exporter made up where it is one."""
    return f"{prefix}{name}" if is_readable(name) else f"/{prefix}{name}"


def _of_scope(prefix: str) -> Callable[[Op, Builder], Value]:
    def handler(op: Op, build: Builder) -> Value:
        value = making.constant(op, build)
        if isinstance(value, Constant) and value.source is not None:
            return Constant(value.tensor, _source(prefix, value.source))
        return value

    return handler


def _convert(op: Op, build: Builder, handler: Handler | None) -> list[Value]:
    try:
        result: Any = sizes.evaluate(op)
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
