"""Builds the module: an fx graph whose layers are real `torch.nn` modules, with every node tried on the probes at once."""

from __future__ import annotations

import contextlib
import functools
import operator
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import map_aggregate

from engine.formats.onnx.importer.attaching import attach
from engine.formats.onnx.importer.names import Names, identifier, is_readable
from engine.formats.onnx.importer.parameters import Parameters
from engine.formats.onnx.importer.reader import Op
from engine.formats.onnx.importer.trials import Trials, alike, of_function, of_layer, probe, refuse_huge, refuse_large, tried
from engine.formats.onnx.importer.values import Constant, Flow, Items, Sizes, Symbol, Value, sizes_of

_MOST_ALIKE = 8
"""Layers of one place in a body that another one is compared with."""
_FACTORIES = (torch.arange, torch.full, torch.scalar_tensor)


class Builder:
    """The growing graph.

    A call whose operands are all constant is computed on the spot and leaves no node behind.
    """

    def __init__(self, probes: int) -> None:
        self.graph = fx.Graph()
        self.root = nn.Module()
        self.names = Names()
        self.probes = probes
        self.static_batch: int | None = None
        """Batch size that the file fixes, where it does; the rebuilt network takes any."""
        self.batch: Symbol | None = None
        """Batch size of the running call: the first dimension of the first input that has one."""
        self.parameters = Parameters()
        self.constants: dict[str, tuple[str, bool]] = {}
        """The initializer that a tensor of no layer is, and whether it is its transpose, by the tensor's path."""
        self._attributes: dict[Any, fx.Node] = {}
        self._layers: dict[Any, str] = {}
        self._calls: dict[str, int] = {}
        self._flows: dict[fx.Node, Flow] = {}
        self._known_as: dict[fx.Node, list[str]] = defaultdict(list)
        self._listed: set[fx.Node] = set()
        """What is part of a sequence."""
        self._made_again: dict[Any, list[Any]] = defaultdict(list)
        self._again: Any = None
        self._turn = 0
        self._trials = Trials()

    def placeholder(self, name: str, probes: tuple[torch.Tensor, ...]) -> Flow:
        """An input of the network. `name` may be anything; the argument gets a safe name."""
        flow = self._flow(self.graph.placeholder(identifier(name, "input")), probes)
        sizes = {probe.shape[0] for probe in probes} if flow.rank else {0}
        if self.batch is None and len(sizes) > 1:
            size = self.size(flow, 0)
            self.batch = size if isinstance(size, Symbol) else None
        return flow

    def size(self, value: Value, dim: int) -> Any:
        """Size of one dimension: an int, or a Symbol where the probes differ."""
        if not isinstance(value, Flow):
            return value.tensor.shape[dim] if isinstance(value, Constant) else sizes_of(value).shape[dim]
        values = tuple(probe.shape[dim] for probe in value.probes)
        if len(set(values)) == 1:
            return values[0]
        return Symbol(self.graph.call_method("size", (value.node, dim % value.rank)), values)

    def call(self, function: Callable[..., Any] | str, *args: Any, **kwargs: Any) -> Value:
        """Call a function, or a method by its name, on values, Symbols and Python objects; one value comes back."""
        given: Any = map_aggregate((args, kwargs), self._materialized)
        return self._run(function, given[0], given[1])

    def call_many(self, function: Callable[..., Any] | str, outputs: int, *args: Any, **kwargs: Any) -> list[Value]:
        """The same for a function that returns a tuple of `outputs` tensors."""
        result = self.call(function, *args, **kwargs)
        return self.unpack(result, outputs)

    def unpack(self, result: Value, outputs: int) -> list[Value]:
        """The parts of a tuple."""
        if not isinstance(result, Flow):
            return [Constant(item) for item in result.tensor] if isinstance(result, Constant) else [result]
        return [
            self._flow(self.graph.call_function(operator.getitem, (result.node, index)), tuple(probe[index] for probe in result.probes))
            for index in range(outputs)
        ]

    def layer(self, module: nn.Module, path: str | None, *args: Any, key: Any = None, twin: nn.Module | None = None) -> Value:
        """Apply a layer.

        The same `key` (its tensors and settings) means the same layer, called once more. `twin` is the layer on the meta device, for
        layers that cannot be called with parameters of another device.
        """
        given: Any = map_aggregate(args, self._materialized)
        flowing: list[Any] = []
        map_aggregate(given, lambda item: flowing.append(item) if isinstance(item, Flow | Symbol) else None)
        if not flowing:
            real: Any = map_aggregate(given, lambda item: item.tensor if isinstance(item, Constant) else item)
            with torch.no_grad():
                return Constant(module.eval()(*real))
        if key is None and self._again is not None:
            key = self._again_key(module)
        if key is None or key not in self._layers:
            claimed = self.names.claim(path, type(module).__name__.lower())
            attach(self.root, claimed, module)
            self._layers[key if key is not None else claimed] = claimed
        target = self._layers[key] if key is not None else claimed
        self._calls[target] = self._calls.get(target, 0) + 1
        node = self.graph.call_module(target, map_aggregate(given, self._argument))
        module.eval()
        known = of_layer(module) if twin is None else None
        results = []
        for index in range(self.probes):
            imagined: Any = map_aggregate(given, functools.partial(probe, index=index))
            results.append(self._trials.of(known, imagined, functools.partial(tried, module, twin, imagined)))
        return self._flow(node, tuple(results))

    @contextlib.contextmanager
    def again(self, node: int, constants: Any) -> Iterator[None]:
        """Inside of it, layers that the node made before are the same ones where they are alike; those of the same constants come first."""
        self._again, self._turn = (node, constants), 0
        try:
            yield
        finally:
            self._again = None

    def _again_key(self, module: nn.Module) -> Any:
        """The key of the layer that is the same one, or else a new one's."""
        self._turn += 1
        kind = of_layer(module)
        if kind is None:
            return None
        exact = (*self._again, self._turn, kind)
        made = self._made_again[self._again[0], self._turn, kind]
        near = [key for key in (exact, *made[:_MOST_ALIKE]) if key in self._layers]
        same = next((key for key in near if alike(self.root.get_submodule(self._layers[key]), module)), None)
        if same is None and exact not in self._layers:
            made.append(exact)
            return exact
        return same

    def known_as(self, value: Value, name: str) -> None:
        """Note a name that the file has for a value."""
        if isinstance(value, Flow):
            self._known_as[value.node].append(name)
        elif isinstance(value, Items):
            self._listed.update(item.node for item in value.values if isinstance(item, Flow))

    def names_of(self, value: Flow) -> Sequence[str] | None:
        """All names that the file has had for a value so far: an Identity gives it another one. None where more than names lead to it."""
        return None if value.node.users or value.node in self._listed else self._known_as[value.node]

    def activation(self, op: Op, module: nn.Module, value: Value | None = None) -> Value:
        """A layer without parameters, applied to the node's first input (or to `value`)."""
        return self.layer(module, op.path(), op.value(0) if value is None else value)

    def same_batch(self, values: Sequence[Value], *, spread: bool = False) -> list[Value]:
        """Constants that were made for the batch of the exported example, cut to one row (and spread over the running batch).

        Only where the file fixes its batch: elsewhere the graph itself says how large a constant is.
        """
        rank = max((value.rank for value in values if isinstance(value, Flow)), default=0)
        varying = any(value.rank == rank > 0 and _first_varies(value) for value in values if isinstance(value, Flow))
        if self.static_batch is None or self.batch is None or not varying:
            return list(values)
        return [self._one_row(value, rank, spread=spread) for value in values]

    def _one_row(self, value: Value, rank: int, *, spread: bool) -> Value:
        if isinstance(value, Constant) and value.tensor.dim() == rank and value.tensor.shape[0] in (1, self.static_batch):
            first = value.tensor[:1]
            if not bool((value.tensor == first).all()):
                return value
            row: Value = value if len(value.tensor) == 1 else Constant(first.contiguous(), value.source)
        elif isinstance(value, Flow) and value.rank == rank and not _first_varies(value) and value.probes[0].shape[0] == 1:
            row = value
        else:
            return value
        return self.call("expand", row, [self.batch, *[-1] * (rank - 1)]) if spread else row

    def before(self, value: Value) -> tuple[fx.Node, Flow] | None:
        """The node that made a value, and that node's own first input, where both flow; None where that is a tuple."""
        if not isinstance(value, Flow) or not value.node.args:
            return None
        source = self._flows.get(value.node.args[0])  # type: ignore[arg-type]  # what is no node made no value
        return None if source is None or not isinstance(source.probes[0], torch.Tensor) else (value.node, source)

    def layer_of(self, value: Value | None) -> nn.Module | None:
        """The layer whose output the value is, if it is called once only."""
        if isinstance(value, Flow) and value.node.op == "call_module" and self._calls.get(str(value.node.target)) == 1:
            return self.root.get_submodule(str(value.node.target))
        return None

    def transpose_of(self, weight: Constant) -> Flow | None:
        """The parameter of which a matrix is the transpose, where another operator reads it in its other orientation."""
        if weight.source is None or weight.is_uniform or not self.parameters.holds(weight.source, transposed=not weight.transposed):
            return None
        return self.flowing(Constant(weight.tensor.t(), weight.source, not weight.transposed))

    def flowing(self, constant: Constant) -> Flow:
        """The constant as a value of the running network, which is not computed with before it runs."""
        imagined = torch.empty(constant.tensor.shape, dtype=constant.tensor.dtype, device="meta")
        return self._flow(self._attribute(constant), (imagined,) * self.probes)

    def module(self, outputs: Sequence[Value]) -> fx.GraphModule:
        """The finished module, in eval mode; one output is returned bare, several as a tuple."""
        nodes = [self._argument(self._materialized(value)) for value in outputs]
        self.graph.output(nodes[0] if len(nodes) == 1 else tuple(nodes))
        self.graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
        self.graph.lint()
        return fx.GraphModule(self.root, self.graph, class_name="ImportedNetwork").eval()

    def _run(self, function: Callable[..., Any] | str, args: Any, kwargs: Any) -> Value:
        flowing: list[Any] = []
        map_aggregate((args, kwargs), lambda item: flowing.append(item) if isinstance(item, Flow | Symbol) else None)
        run = _method(function) if isinstance(function, str) else function
        known = of_function(function)
        if not flowing:
            real: Any = map_aggregate((args, kwargs), lambda item: item.tensor if isinstance(item, Constant) else item)
            refuse_huge(run, args, kwargs)
            with torch.no_grad():
                return Constant(run(*real[0], **real[1]))
        results = []
        for index in range(self.probes):
            imagined: Any = map_aggregate((args, kwargs), functools.partial(probe, index=index))
            with torch.device("meta") if function in _FACTORIES else contextlib.nullcontext():
                results.append(self._trials.of(known, imagined, functools.partial(run, *imagined[0], **imagined[1])))
        nodes: Any = map_aggregate((args, kwargs), self._argument)
        if isinstance(function, str):
            return self._flow(self.graph.call_method(function, nodes[0], dict(nodes[1])), tuple(results))
        return self._flow(self.graph.call_function(function, nodes[0], dict(nodes[1])), tuple(results))

    def _flow(self, node: fx.Node, probes: tuple[Any, ...]) -> Flow:
        if isinstance(probes[0], torch.Tensor):
            refuse_large(probes[0])
        self._flows[node] = Flow(node, probes)
        return self._flows[node]

    def _materialized(self, item: Any) -> Any:
        """`Sizes` where a tensor is needed."""
        if not isinstance(item, Sizes | Items):
            return item
        array = sizes_of(item)
        parts = [
            self._run(torch.scalar_tensor, (element,), {"dtype": torch.int64})
            if isinstance(element, Symbol)
            else Constant(torch.tensor(element))
            for element in array.ravel()
        ]
        if array.ndim == 0:
            return parts[0]
        return self._run("reshape", (self._run(torch.stack, (parts,), {}), array.shape), {})

    def _argument(self, item: Any) -> Any:
        if isinstance(item, Flow | Symbol):
            return item.node
        return self._attribute(item) if isinstance(item, Constant) else item

    def _attribute(self, constant: Constant) -> fx.Node:
        """A tensor that belongs to no layer: a parameter if a person named it, else a buffer."""
        key = (constant.source, constant.transposed) if constant.source else constant
        if key not in self._attributes:
            tensor = constant.tensor
            named = constant.source if constant.source and not constant.transposed and is_readable(constant.source) else None
            shared = constant.source is not None and self.parameters.holds(constant.source, transposed=constant.transposed)
            weight = tensor.is_floating_point() and tensor.numel() > 1 and bool(torch.isfinite(tensor).all())
            trainable = shared or (named is not None and weight)
            path = self.names.claim(named.replace("/", ".") if named else None, "constant")
            attach(self.root, path, self.parameters.of(constant) if trainable else tensor.detach().clone())
            if constant.source is not None:
                self.constants[path] = constant.source, constant.transposed
            self._attributes[key] = self.graph.get_attr(path)
        return self._attributes[key]


def _first_varies(value: Flow) -> bool:
    return len({probe.shape[0] for probe in value.probes}) > 1


def _method(name: str) -> Callable[..., Any]:
    return lambda tensor, *args, **kwargs: getattr(tensor, name)(*args, **kwargs)
