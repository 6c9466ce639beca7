"""How LSTM, GRU and RNN are written: torch's exporter unrolls them over the steps of its example where the number of steps is open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from engine.formats.onnx.flat import NodeAttributes
from engine.formats.onnx.writer.graph import Unwritten, Value, Writer

_ORDER: Mapping[type[nn.Module], tuple[str, tuple[int, ...]]] = {
    nn.LSTM: ("LSTM", (0, 3, 1, 2)),
    nn.GRU: ("GRU", (1, 0, 2)),
    nn.RNN: ("RNN", (0,)),
}
"""Operator, and where ONNX's gates stand in torch: LSTM i f g o → i o f c; GRU r z n → z r h."""
LAYERS = frozenset(_ORDER)


def recurrent(writer: Writer, layer: Any, args: Sequence[Any]) -> list[Any]:
    """The names of what the layer gives: all states of its last layer, then the last ones of every layer (of an LSTM a list of two)."""
    kind, order = _ORDER[type(layer)]
    x, given = args[0], args[1] if len(args) > 1 else None
    starts = [] if given is None else list(given) if isinstance(given, tuple | list) else [given]
    if not all(isinstance(item, Value) and item.rank == 3 for item in (x, *starts)) or layer.proj_size or len(args) > 2:
        raise Unwritten
    directions = 2 if layer.bidirectional else 1
    states = writer.emit("Transpose", x.name, perm=[1, 0, 2]) if layer.batch_first else x.name
    last: list[list[str]] = []
    for index in range(layer.num_layers):
        weights = _weights(writer, layer, index, order)
        begin = [_part(writer, item.name, index * directions, directions, layer.num_layers) for item in starts]
        inputs = [states, *weights, *(["", *begin] if begin else [])]
        every, *ends = writer.emit(kind, *_trimmed(inputs), outputs=3 if kind == "LSTM" else 2, **_attributes(layer, kind, directions))
        last.append(ends)
        if directions == 1:
            states = writer.emit("Squeeze", every, writer.integers(1))
        else:
            states = writer.emit("Reshape", writer.emit("Transpose", every, perm=[0, 2, 1, 3]), writer.integers(0, 0, -1))
    states = writer.emit("Transpose", states, perm=[1, 0, 2]) if layer.batch_first else states
    joined = [parts[0] if len(parts) == 1 else writer.emit("Concat", *parts, axis=0) for parts in map(list, zip(*last, strict=True))]
    return [states, joined if kind == "LSTM" else joined[0]]


def _attributes(layer: Any, kind: str, directions: int) -> NodeAttributes:
    found: NodeAttributes = {"hidden_size": int(layer.hidden_size), "direction": "bidirectional" if directions == 2 else "forward"}
    if kind == "GRU":
        found["linear_before_reset"] = 1
    if kind == "RNN":
        found["activations"] = [layer.nonlinearity.capitalize()] * directions
    return found


def _weights(writer: Writer, layer: Any, index: int, order: Sequence[int]) -> list[str]:
    """Names of weights, recurrent weights and biases, each with the directions first; of the biases an empty one where there are none."""
    ends = ("", "_reverse")[: 1 + layer.bidirectional]

    def stored(name: str, values: Sequence[Tensor]) -> str:
        return writer.weight(getattr(layer, name), changed=torch.stack(list(values)))

    names = []
    for part in ("weight_ih", "weight_hh"):
        names.append(stored(f"{part}_l{index}", [_gates(getattr(layer, f"{part}_l{index}{end}"), order) for end in ends]))
    if not layer.bias:
        return [*names, ""]
    parts = ("bias_ih", "bias_hh")
    both = [torch.cat([_gates(getattr(layer, f"{part}_l{index}{end}"), order) for part in parts]) for end in ends]
    return [*names, stored(f"bias_ih_l{index}", both)]


def _gates(tensor: Tensor, order: Sequence[int]) -> Tensor:
    parts = tensor.detach().chunk(len(order))
    return torch.cat([parts[place] for place in order])


def _part(writer: Writer, name: str, start: int, count: int, layers: int) -> str:
    """The rows of a state that belong to one of several layers."""
    if layers == 1:
        return name
    return str(writer.emit("Slice", name, writer.integers(start), writer.integers(start + count), writer.integers(0)))


def _trimmed(names: list[str]) -> list[str]:
    while not names[-1]:
        names = names[:-1]
    return names
