"""From an exported program to a module with real layers: normalization and dropout switch with train() and eval(), channels can be pruned."""

from __future__ import annotations

import operator
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from engine.contract.errors import EngineError
from engine.formats.pt2.arguments import Arguments
from engine.formats.pt2.layers import LAYERS, Found
from engine.formats.pt2.operators import ASSERTIONS, DROPPED, aten_name, function_of, value_of
from engine.formats.pt2.program import Item, Program, checked_path
from engine.formats.pt2.recurrent import ZEROS, recurrent
from engine.formats.pt2.single import single, widened

_OWN_PATH = re.compile(r"\w+(\.\w+)*", re.ASCII)


def module_of(program: Program) -> nn.Module:
    """The module of a program, in evaluation mode and in float32 where the program is in half precision. Raises `unsupported_operator`, `model_invalid`."""
    return _Builder(single(program)).build().eval()


class _Builder:
    """Walks the nodes once."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._graph, self._root = fx.Graph(), nn.Module()
        self._values: dict[str, Any] = {}
        self._placed: dict[str, object] = {}
        self._turned: dict[str, str] = {}
        self._deferred: dict[str, Item] = {}
        self._uses = Counter(name for node in program.nodes for name in _names(node["inputs"]))
        self._uses.update(program.outputs)

    def build(self) -> nn.Module:
        """The whole module."""
        for index, (name, spec) in enumerate(zip(self._program.inputs, self._program.signature.inputs, strict=True)):
            value = self._values[name] = self._graph.placeholder(f"input_{index}")
            stated: torch.dtype = getattr(torch, spec.dtype)
            if widened(stated) != stated:
                self._values[name] = self._graph.call_method("to", (value, widened(stated)))
        for node in self._program.nodes:
            self._add(node)
        outputs = [self._value(name) for name in self._program.outputs]
        self._graph.output(outputs[0] if len(outputs) == 1 else tuple(outputs))
        for node in reversed(list(self._graph.nodes)):
            if _is_zeros(node) and not node.users:
                self._graph.erase_node(node)
        self._graph.lint()
        return fx.GraphModule(self._root, self._graph)

    def _add(self, node: Item) -> None:
        target, inputs = node["target"], {item["name"]: item["arg"] for item in node["inputs"]}
        name = aten_name(target)
        if name in ASSERTIONS or self._counts_batches(name, node):
            return
        function = function_of(target)
        call = self._layer(name, inputs, node) if name is not None else None
        if call is not None:
            self._values[_results(node["outputs"])[0]] = call
            return
        _refuse_training(name, inputs)
        if self._recurs(name, inputs, node) or self._turns(name, node, inputs):
            return
        self._call(node, function)

    def _recurs(self, name: str | None, inputs: Item, node: Item) -> bool:
        """Whether a node is a recurrent layer with weights of its own. States of zeros are left to the layer, whose units may be cut then."""
        found = recurrent(name, inputs, self._program)
        if found is None:
            return False
        layer, path = found
        if self._placed.get(path) is None and self._free(path):
            self._attach(path, layer)
            self._placed[path] = path
        elif self._placed.get(path) != path:
            return False
        hx = inputs["hx"]
        states = [self._value(item["name"]) for item in hx.get("as_tensors") or [hx["as_tensor"]]]
        own = () if all(_is_zeros(state) for state in states) else (states[0] if len(states) == 1 else tuple(states),)
        call = self._graph.call_module(path, (self._value(inputs["input"]["as_tensor"]["name"]), *own))
        results = _results(node["outputs"])
        last = self._graph.call_function(operator.getitem, (call, 1))
        self._values[results[0]] = self._graph.call_function(operator.getitem, (call, 0))
        parts = [last] if len(results) == 2 else [self._graph.call_function(operator.getitem, (last, place)) for place in (0, 1)]
        self._values.update(zip(results[1:], parts, strict=True))
        return True

    def _call(self, node: Item, function: Callable[..., Any]) -> None:
        """Run the operator as a function."""
        positional = tuple(self._argument(item) for item in node["inputs"] if item["kind"] == 1)
        named = {item["name"]: self._argument(item) for item in node["inputs"] if item["kind"] != 1 and item["name"] not in DROPPED}
        self._take(node["outputs"], self._graph.call_function(function, positional, named))

    def _argument(self, item: Item) -> Any:
        """An argument; values lie on the device of the first input, wherever the original had them."""
        if item["name"] == "device":
            return self._graph.call_function(getattr, (self._values[self._program.inputs[0]], "device"))
        return None if item["name"] in DROPPED else value_of(item["arg"], self._value)

    def _take(self, outputs: list[Item], call: Any) -> None:
        if len(outputs) > 1 or (outputs and "as_tensors" in outputs[0]):
            parts = (
                outputs[0]["as_tensors"] if "as_tensors" in outputs[0] else [item["as_tensor"] for item in outputs if "as_tensor" in item]
            )
            for place, item in enumerate(parts):
                self._values[item["name"]] = self._graph.call_function(operator.getitem, (call, place))
            return
        for item in outputs:
            ((kind, content),) = item.items()
            if kind == "as_tensor":
                self._values[content["name"]] = call
            elif kind in ("as_sym_int", "as_sym_float", "as_sym_bool"):
                self._values[content["as_name"]] = call
            elif kind != "as_none":
                raise EngineError("unsupported_operator", f"An operator of the program gives what is not read ({kind[:40]}).")

    def _value(self, name: str) -> Any:
        """The node of a value; parameters and buffers that no layer holds are attributes of the module."""
        if name in self._deferred:
            node = self._deferred.pop(name)
            self._call(node, function_of(node["target"]))
        if name not in self._values:
            path = self._program.lifted[name]
            self._hold(path, self._program.state[path])
            self._values[name] = self._graph.get_attr(path)
        return self._values[name]

    def _layer(self, name: str, inputs: Item, node: Item) -> Any:
        """A call of a layer, where the operator is one on weights of its own."""
        plain = name.removesuffix("_")
        make = LAYERS.get(plain)
        first: Item = next(iter(inputs.values()), {})
        source = first.get("as_tensor", {}).get("name")
        if make is None or source is None or (plain != name and self._uses[source] > 1):
            return None
        found = make(Arguments(inputs, self._program, self._turned))
        if found is None or any(self._uses[other] for other in _results(node["outputs"])[1:]):
            return None
        path = self._path(found, node, plain)
        return self._graph.call_module(path, tuple(self._value(item) for item in found.reads))

    def _path(self, found: Found, node: Item, name: str) -> str:
        """Where the layer stands: where the original had it, or beside its weights; one that stands there already is used again."""
        original, caller = _stacked(node.get("metadata") or {}, type(found.layer))
        if found.weight is not None:
            alias = self._program.state.get(f"{original}.weight") is self._program.state[found.weight]
            path = original if original and alias else _beside(found.weight)
        else:
            path = original or f"{caller}.{name}".removeprefix(".")
        for candidate in (path, *(f"{place}_{number}" for place in (path, name) for number in range(2, 2 + len(self._program.nodes)))):
            if candidate in self._placed:
                if found.weight and self._placed[candidate] == found.key:
                    return candidate
            elif candidate and self._free(candidate):
                self._placed[candidate] = found.key
                self._attach(candidate, found.layer)
                return candidate
        raise EngineError("model_invalid", f"The layers of the program have names that exclude each other ({path[:80]!r}).")

    def _free(self, path: str) -> bool:
        module: Any = self._root
        for part in path.split("."):
            if not isinstance(module, nn.Module) or not hasattr(module, part):
                return type(module) is nn.Module
            module = getattr(module, part)
        return False

    def _attach(self, path: str, layer: nn.Module) -> None:
        parent, _, leaf = path.rpartition(".")
        self._container(parent).add_module(leaf, layer)

    def _container(self, path: str) -> nn.Module:
        module = self._root
        for part in filter(None, path.split(".")):
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        return module

    def _hold(self, path: str, tensor: Tensor) -> None:
        parent, _, leaf = checked_path(path).rpartition(".")
        module = self._container(parent)
        if getattr(module, leaf, None) is tensor:
            return
        if isinstance(tensor, nn.Parameter):
            module.register_parameter(leaf, tensor)
        else:
            module.register_buffer(leaf, tensor)

    def _turns(self, name: str | None, node: Item, inputs: Item) -> bool:
        """Whether a node only transposes a weight, which a linear layer may have as it is: it is run when something else asks for it."""
        source = inputs.get("self", {}).get("as_tensor", {}).get("name")
        if source not in self._program.lifted or not (name == "t" or (name == "permute" and inputs["dims"].get("as_ints") == [1, 0])):
            return False
        self._turned[_results(node["outputs"])[0]] = source
        self._deferred[_results(node["outputs"])[0]] = node
        return True

    def _counts_batches(self, name: str | None, node: Item) -> bool:
        """Whether a node only adds one to what a normalization counts; a layer does that itself."""
        first = node["inputs"][0]["arg"].get("as_tensor", {}).get("name") if node["inputs"] else None
        if first not in self._program.lifted or name is None or not name.endswith("_"):
            return False
        if name == "add_" and not any(self._uses[item["as_tensor"]["name"]] for item in node["outputs"]):
            return True
        raise EngineError(
            "unsupported_operator", "The program changes its own state while it runs.", hint="Export the model in evaluation mode."
        )


def _is_zeros(node: fx.Node) -> bool:
    return node.op == "call_function" and getattr(node.target, "__name__", "").partition(".")[0] in ZEROS


def _results(outputs: list[Item]) -> list[str]:
    """Names of the tensors that a node gives."""
    return [item["as_tensor"]["name"] for item in outputs if "as_tensor" in item]


def _beside(weight: str) -> str:
    """The path of the layer that a weight belongs to, by the weight's own."""
    layer, _, name = weight.rpartition(".")
    return layer if name in ("weight", "running_mean") else weight.removesuffix("_weight")


def _stacked(metadata: Item, kind: type[nn.Module]) -> tuple[str, str]:
    """The path of the layer in the original module, if a layer of this kind called the operator; and of the module that called it."""
    entries = [entry.split(",") for entry in str(metadata.get("nn_module_stack", "")).split(";")]
    path, name = (entries[-1][1], entries[-1][2].rpartition(".")[2]) if entries and len(entries[-1]) == 3 else ("", "")
    if not _OWN_PATH.fullmatch(path) or "__" in path:
        return "", ""
    original = getattr(nn, name, None)
    return (path, path) if isinstance(original, type) and issubclass(original, kind) else ("", path)


_FLAGS = {"batch_norm": "training", "dropout": "train", "dropout_": "train", "feature_dropout": "train", "lstm": "train", "gru": "train"}


def _refuse_training(name: str | None, inputs: Item) -> None:
    """Raise `unsupported_operator` for what would go on as in training, also when the network is evaluated."""
    flag = _FLAGS.get(name or "")
    if flag is None or not inputs.get(flag, {}).get("as_bool"):
        return
    if name not in ("lstm", "gru") or inputs.get("dropout", {}).get("as_float"):
        raise EngineError(
            "unsupported_operator",
            f"The program was exported in training mode, and its {name} would go on so when it is evaluated.",
            hint="Export the model in evaluation mode: torch.export.export(model.eval(), …).",
        )


def _names(inputs: list[Item]) -> list[str]:
    """Names of the values that a node reads."""
    found: list[str] = []

    def seen(name: str) -> None:
        found.append(name)

    for item in inputs:
        if item["name"] not in (*DROPPED, "device") and "as_graph" not in item["arg"] and not {"as_device", "as_layout"} & set(item["arg"]):
            value_of(item["arg"], seen)
    return found
