"""A traced network of known operations as a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from engine.contract.errors import EngineError
from engine.formats.onnx import runtime
from engine.formats.onnx.counting import on_meta
from engine.formats.onnx.writer import functional_layers, functions, moving, recurrent
from engine.formats.onnx.writer.following import followed
from engine.formats.onnx.writer.graph import Size, Unwritten, Value, Writer, element_type
from engine.formats.onnx.writer.layers import LAYERS, folded_norm
from engine.networks.example_inputs import example_inputs
from engine.networks.layers import CONVOLUTIONS
from engine.networks.network import OPEN_SIZES, Signature

_BATCHES = (2, 5)
"""What differs between the two depends on the batch, or on another dimension that the signature leaves open."""
ABSOLUTE_TOLERANCE = 1e-4
"""Beside a thousandth of the largest output (a hundredth in half precision), as for every published file."""
Values = dict[str, Any]
"""What a node gives, by its name."""
_FUNCTIONS = {**functions.FUNCTIONS, **functional_layers.FUNCTIONS, **moving.FUNCTIONS}
_METHODS = {**functions.METHODS, **moving.METHODS}


def written(module: nn.Module, signature: Signature, opset: int) -> onnx.ModelProto | None:
    """The network with the names of its signature and its first dimension open; None where it holds what is not written here."""
    graph = followed(module)
    if graph is None or sum(node.op == "placeholder" for node in graph.graph.nodes) != len(signature.inputs):
        return None
    try:
        return _Writing(graph, signature).model(opset)
    except Unwritten:
        return None


class _Writing:
    """One file."""

    def __init__(self, module: fx.GraphModule, signature: Signature) -> None:
        self._module, self._signature = module, signature
        self._nodes = _live(module.graph)
        self._refuse_unknown()
        names = [item.name for side in (signature.inputs, signature.outputs) for item in side]
        self._writer = Writer(module, names)
        self._found = _probed(module, signature)
        self._values: dict[fx.Node, Any] = {}

    def _refuse_unknown(self) -> None:
        """Before anything is computed."""
        for node in self._nodes:
            unknown = (
                (node.op == "call_module" and type(self._module.get_submodule(str(node.target))) not in (*LAYERS, *recurrent.LAYERS))
                or (node.op == "call_function" and node.target not in _FUNCTIONS)
                or (node.op == "call_method" and node.target not in _METHODS)
            )
            if unknown:
                raise Unwritten

    def model(self, opset: int) -> onnx.ModelProto:
        """The whole file."""
        writer, inputs, outputs = self._writer, [], []
        self._fold_norms()
        given = iter(self._signature.inputs)
        for node in self._nodes:
            writer.node, writer.probes = node, tuple(found[node.name] for found in self._found)
            if node.op == "placeholder":
                spec = next(given)
                self._values[node] = Value(spec.name, writer.probes)
                inputs.append(self._described(spec.name, writer.probes))
            elif node.op == "output":
                outputs = [self._values[item] for item in _listed(node.args[0])]
            else:
                self._values[node] = self._result(node, self._written(node))
        described = self._named(outputs)
        graph = helper.make_graph(writer.nodes, "network", inputs, described, list(writer.stored.values()))
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)

    def _fold_norms(self) -> None:
        """Find normalizations that the layer before them can compute, where nothing else reads it."""
        module, calls = self._module, [node for node in self._module.graph.nodes if node.op == "call_module"]
        layers = {node: module.get_submodule(str(node.target)) for node in calls}
        called = list(layers.values())
        readers: dict[int, int] = {}
        for part in module.modules():
            for item in part.parameters(recurse=False):
                readers[id(item)] = readers.get(id(item), 0) + 1
        for node, norm in layers.items():
            before = node.args[0]
            layer: Any = layers.get(before) if isinstance(before, fx.Node) else None
            if not isinstance(norm, _BatchNorm) or norm.running_var is None or not isinstance(layer, (*CONVOLUTIONS, nn.Linear)):
                continue
            fits = self._found[0][before.name].dim() == 2 if isinstance(layer, nn.Linear) else not (layer.transposed and layer.groups > 1)
            own = all(readers[id(item)] == 1 for item in layer.parameters(recurse=False))
            if fits and own and len(before.users) == 1 and called.count(layer) == called.count(norm) == 1:
                self._writer.folded[layer] = folded_norm(layer, norm)
                self._writer.absorbed.add(norm)

    def _written(self, node: fx.Node) -> Any:
        writer = self._writer
        if node.op == "get_attr":
            tensor = _attribute(self._module, str(node.target))
            return writer.weight(tensor)
        given: Any = fx.node.map_arg((node.args, node.kwargs), lambda other: self._values[other])
        args, kwargs = given
        if node.op == "call_module":
            layer = self._module.get_submodule(str(node.target))
            if type(layer) in recurrent.LAYERS:
                return recurrent.recurrent(writer, layer, args)
            return LAYERS[type(layer)](writer, layer, functions.tensor(args[0]))
        if all(isinstance(probe, int) for probe in writer.probes) and len(set(writer.probes)) == 1:
            return None  # a number that is the same for every batch
        rule = _FUNCTIONS[node.target] if node.op == "call_function" else _METHODS[str(node.target)]
        return rule(writer, args, kwargs)

    def _result(self, node: fx.Node, name: Any) -> Any:
        probes = self._writer.probes
        if isinstance(name, Size):
            return name
        if name is None:
            return probes[0]
        if isinstance(name, list):
            return _valued(name, probes)
        if not isinstance(probes[0], Tensor):
            raise Unwritten
        return Value(name, probes)

    def _described(self, name: str, probes: Sequence[Tensor]) -> onnx.ValueInfoProto:
        shape: list[int | str] = []
        for dim, sizes in enumerate(zip(*(probe.shape for probe in probes), strict=True)):
            open_name = "batch" if tuple(sizes) == _BATCHES else f"{name}_{dim}"
            shape.append(sizes[0] if len(set(sizes)) == 1 else open_name)
        return helper.make_tensor_value_info(name, element_type(probes[0].dtype), shape)

    def _named(self, outputs: Sequence[Any]) -> list[onnx.ValueInfoProto]:
        """Give the outputs their names; what is an input, a stored tensor or an output already is handed on by a node of its own."""
        writer, new = self._writer, dict[str, str]()
        made = {name for node in writer.nodes for name in node.output}
        described = []
        for value, spec in zip(map(functions.tensor, outputs), self._signature.outputs, strict=True):
            if value.name in made and value.name not in new:
                new[value.name] = spec.name
            else:
                writer.nodes.append(helper.make_node("Identity", [value.name], [spec.name], name="/Identity"))
            described.append(self._described(spec.name, value.probes))
        for node in writer.nodes:
            node.input[:] = [new.get(name, name) for name in node.input]
            node.output[:] = [new.get(name, name) for name in node.output]
        return described


class _Record(fx.Interpreter):
    """Runs a network that has shapes only, and remembers every value."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.found: Values = {}

    @classmethod
    def of(cls, module: fx.GraphModule, inputs: Sequence[Tensor]) -> Values:
        """The values by the names of their nodes. Raises `Unwritten` where the network looks at values."""
        twin = on_meta(module)
        assert isinstance(twin, fx.GraphModule)
        run = cls(twin)
        try:
            with torch.no_grad(), torch.device("meta"):
                run.run(*inputs)
        except (RuntimeError, NotImplementedError, ValueError, TypeError, IndexError):
            raise Unwritten from None
        return run.found

    def run_node(self, n: fx.Node) -> Any:
        """One node."""
        result = super().run_node(n)
        self.found[n.name] = result
        return result


def _live(graph: fx.Graph) -> list[fx.Node]:
    """Inputs, outputs and what these depend on, in order."""
    live: dict[fx.Node, None] = {}
    for node in reversed(graph.nodes):
        if node.op in ("placeholder", "output") or any(user in live for user in node.users):
            live[node] = None
    return list(live)[::-1]


def _valued(names: list[Any], probes: Sequence[Any]) -> list[Any]:
    """A result of several tensors, some of them in lists of their own."""
    parts = [(own, tuple(probe[place] for probe in probes)) for place, own in enumerate(names)]
    return [_valued(own, part) if isinstance(own, list) else Value(own, part) for own, part in parts]


def _probed(module: fx.GraphModule, signature: Signature) -> list[Values]:
    """Every value of the network on inputs that differ in the batch and in every dimension that is open. Raises `Unwritten`."""
    axes = [signature.batch_axis(spec) for spec in signature.inputs]
    if all(axis is None for axis in axes):
        raise Unwritten
    is_open = any(
        size is None for spec, axis in zip(signature.inputs, axes, strict=True) for dim, size in enumerate(spec.shape) if dim != axis
    )
    found: list[Values] = []
    for size in OPEN_SIZES:
        try:
            found.append(_Record.of(module, example_inputs(signature, _BATCHES[len(found)], torch.device("meta"), open_size=size)))
        except Unwritten:
            if not is_open:
                raise
        if len(found) == len(_BATCHES):
            return found
    raise Unwritten


def _attribute(module: nn.Module, path: str) -> Tensor:
    holder, _, name = path.rpartition(".")
    value = getattr(module.get_submodule(holder), name)
    if not isinstance(value, Tensor):
        raise Unwritten
    return value


def _listed(outputs: Any) -> list[fx.Node]:
    found = list(outputs) if isinstance(outputs, list | tuple) else [outputs]
    if not all(isinstance(item, fx.Node) for item in found):
        raise Unwritten
    return found


def agrees(file: Path, module: nn.Module, inputs: Sequence[Tensor], *, half: bool = False) -> bool:
    """Whether a file says what the module does about some inputs, up to rounding; `half` says that its weights were rounded to half precision."""
    try:
        session = runtime.open_session(file, threads=torch.get_num_threads())
        got = runtime.run(session, {item.name: value.numpy() for item, value in zip(session.get_inputs(), inputs, strict=True)})
        with torch.no_grad():
            outputs = module.forward(*inputs)  # Not a call: a traced network that is called prints what it fails with.
    except (EngineError, RuntimeError, ValueError, IndexError):
        return False  # Whatever the two refuse, the general exporter takes the network.
    wanted = [item.detach().numpy() for item in ([outputs] if isinstance(outputs, Tensor) else outputs)]
    return len(wanted) == len(got) and all(_same(a, b, half=half) for a, b in zip(wanted, got, strict=True))


def _same(wanted: np.ndarray[Any, Any], got: np.ndarray[Any, Any], *, half: bool) -> bool:
    if wanted.shape != got.shape:
        return False
    values, others = wanted.astype(np.float64), got.astype(np.float64)
    finite = np.isfinite(values)
    share = 1e-2 if half else 1e-3
    atol = ABSOLUTE_TOLERANCE + share * float(np.abs(values[finite]).max(initial=0.0))
    return bool(np.allclose(values, others, rtol=0, atol=atol, equal_nan=True))
