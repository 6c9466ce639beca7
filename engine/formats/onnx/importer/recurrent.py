"""LSTM, GRU and RNN as torch's layers, whose gates stand in another order."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx, nn

from engine.formats.onnx.importer.builder import Builder
from engine.formats.onnx.importer.reader import Op
from engine.formats.onnx.importer.values import Constant, Flow, Value

_LAYERS: dict[str, type[Any]] = {"GRU": nn.GRU, "LSTM": nn.LSTM, "RNN": nn.RNN}
_ORDER = {"GRU": (1, 0, 2), "LSTM": (0, 2, 3, 1), "RNN": (0,)}
"""Where torch's gates stand in ONNX: LSTM i o f c → i f g o; GRU z r h → r z n."""
_MOVING = frozenset(["contiguous", "expand", "permute", "reshape", "squeeze", "transpose", "unsqueeze"])
_ACTIVATIONS = {"GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"], "RNN": ["Tanh"]}


def recurrent(op: Op, build: Builder) -> list[Value]:
    """One recurrent layer over (time, batch, features): all states (time, directions, batch, hidden) and the last ones."""
    weight, recurrence, bias = op.constant(1), op.constant(2), op.constant(3)
    direction = op.attribute("direction", "forward")
    _check(op, direction)
    if weight is None or recurrence is None or (op.get(3) is not None and bias is None):
        op.fail("its weights are computed")
    directions, hidden = weight.tensor.shape[0], recurrence.tensor.shape[2]
    settings: dict[str, bool | str] = {"bias": bias is not None, "bidirectional": directions == 2}
    if op.type == "RNN":
        settings["nonlinearity"] = _rnn_activation(op, directions)
    with torch.device("meta"):
        twin = _LAYERS[op.type](weight.tensor.shape[2], hidden, **settings)
    layer = _LAYERS[op.type](1, 1, **settings)
    layer.input_size, layer.hidden_size = twin.input_size, twin.hidden_size
    for index, suffix in enumerate(("", "_reverse")[:directions]):
        _set(layer, f"weight_ih_l0{suffix}", _reordered(weight.tensor[index], op.type))
        _set(layer, f"weight_hh_l0{suffix}", _reordered(recurrence.tensor[index], op.type))
        if bias is not None:
            both = bias.tensor[index].chunk(2)
            _set(layer, f"bias_ih_l0{suffix}", _reordered(both[0], op.type))
            _set(layer, f"bias_hh_l0{suffix}", _reordered(both[1], op.type))
    layer.flatten_parameters()
    source = op.value(0)
    source = build.call(torch.flip, source, [0]) if direction == "reverse" else source
    state = _initial_state(op, build)
    names = [name for name in op.node.input[1:4] if name]
    result = build.layer(layer, op.path(names), source, *([state] if state else []), twin=twin)
    outputs, last = build.unpack(result, 2)
    states = build.call("transpose", build.call("unflatten", outputs, 2, [directions, -1]), 1, 2)
    states = build.call(torch.flip, states, [0]) if direction == "reverse" else states
    return [states, *(build.unpack(last, 2) if op.type == "LSTM" else [last])]


def _check(op: Op, direction: str) -> None:
    op.only(layout=0, input_forget=0)
    directions = 2 if direction == "bidirectional" else 1
    given = [str(item.decode() if isinstance(item, bytes) else item) for item in op.attribute("activations") or []]
    if op.type != "RNN" and given and given != _ACTIVATIONS[op.type] * directions:
        op.fail(f"activations {given}")
    if op.attribute("clip") is not None or op.get(7) is not None:
        op.fail("clipping and peepholes")
    if op.type == "GRU" and not op.attribute("linear_before_reset", 0):
        op.fail("linear_before_reset=0")
    lengths = op.get(4)
    if lengths is not None:
        steps, known = _steps(op), op.constant(4)
        if known is None or steps is None or not bool((known.tensor == steps).all()):
            op.fail("sequence lengths that differ")


def _steps(op: Op) -> int | None:
    """The number of time steps, if it is fixed."""
    value = op.value(0)
    sizes = {probe.shape[0] for probe in getattr(value, "probes", ())}
    return int(sizes.pop()) if len(sizes) == 1 else None


def _rnn_activation(op: Op, directions: int) -> str:
    given = [str(item.decode() if isinstance(item, bytes) else item) for item in op.attribute("activations") or ["Tanh"] * directions]
    if len(set(given)) != 1 or given[0] not in ("Tanh", "Relu"):
        op.fail(f"activations {given}")
    return given[0].lower()


def _initial_state(op: Op, build: Builder) -> Any:
    """The initial state as the layer takes it; None where it is zero."""
    count = 2 if op.type == "LSTM" else 1
    given = [op.get(5 + index) for index in range(count)]
    if all(item is None or _is_zero(item, build) for item in given):
        return None
    if any(item is None for item in given):
        op.fail("only one of two initial states is given")
    # A state spread over the batch has no strides of its own, which torch.export refuses as what a GRU's loop carries.
    states = [build.call("contiguous", _over_batch(op, build, item)) for item in given if item is not None]
    return tuple(states) if count == 2 else states[0]


def _is_zero(value: Value, build: Builder) -> bool:
    """Whether a state is zero in all places, as exporters make one for the running batch."""
    if isinstance(value, Constant):
        return not bool(value.tensor.any())
    node: Any = value.node if isinstance(value, Flow) else None
    while isinstance(node, fx.Node) and node.op == "call_method" and node.target in _MOVING:
        node = node.args[0]
    if not isinstance(node, fx.Node):
        return False
    if node.op == "get_attr":
        return not bool(operator.attrgetter(str(node.target))(build.root).any())
    return node.op == "call_function" and node.target is torch.full and bool(node.args[1] == 0)


def _over_batch(op: Op, build: Builder, state: Value) -> Value:
    """A constant state of the exported batch, spread over the running one."""
    if build.batch is None or not isinstance(state, Constant):
        return state
    if not bool((state.tensor == state.tensor[:, :1]).all()):
        op.fail("its initial state differs between the examples of the batch that the file fixes")
    return build.call("expand", Constant(state.tensor[:, :1].contiguous(), state.source), [-1, build.batch, -1])


def _reordered(tensor: torch.Tensor, kind: str) -> torch.Tensor:
    order = _ORDER[kind]
    gates = tensor.chunk(len(order))
    return torch.cat([gates[index] for index in order])


def _set(layer: nn.Module, name: str, tensor: torch.Tensor) -> None:
    setattr(layer, name, nn.Parameter(tensor.detach().clone().contiguous()))


OPERATORS = dict.fromkeys(_LAYERS, recurrent)
