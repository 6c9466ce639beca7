"""Recurrent layers: their inputs, and their hidden units, which are the same in all directions and in all layers on top of another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from engine.structure.following.follower import CROSSED, Follower
from engine.structure.following.ties import varying

STATE = "the initial state of a recurrent layer has a fixed size"


def recurrent(follower: Follower, layer: nn.Module, args: Sequence[Any], result: Any) -> None:
    """LSTM, GRU and plain recurrent layers. A hidden unit has a row for every gate, and a column for the next step."""
    assert isinstance(layer, nn.RNNBase)
    value, state = args[0], args[1] if len(args) > 1 else None
    directions = 2 if layer.bidirectional else 1
    for numbers in follower.families(value):
        if varying(numbers) == {value.dim() - 1}:
            inputs = follower.aligned(numbers, -1)
            for suffix in ("", "_reverse")[:directions]:
                follower.reads(getattr(layer, f"weight_ih_l0{suffix}"), inputs, outgoing=False, dimension=1, owner=layer)
        else:
            follower.ties.fix(numbers, CROSSED)
    units = _units(follower, layer, directions)
    if layer.proj_size:
        return  # The projection gives other channels, none of which is cut.
    for item in state if isinstance(state, tuple) else () if state is None else (state,):
        families = [numbers for numbers in follower.families(item) if item.dim() - 1 in varying(numbers)]
        for numbers in families:
            follower.ties.tie(numbers, units.expand(item.shape), STATE)
        if not families:
            follower.ties.fix(units, STATE)
    outputs, last = result
    follower.give(outputs, [units.repeat(directions).expand(outputs.shape)])
    for item in last if isinstance(last, tuple) else (last,):
        follower.give(item, [units.expand(item.shape)])


def _units(follower: Follower, layer: nn.RNNBase, directions: int) -> Tensor:
    known = next((item for item in follower.slices if item.layer is layer), None)
    if known is not None:
        return known.numbers
    units = follower.ties.new(layer.hidden_size)
    follower.reads(layer, units, outgoing=True)
    if layer.proj_size:
        follower.ties.fix(units, "a recurrent layer with a projection computes them")
    for depth in range(layer.num_layers):
        for suffix in ("", "_reverse")[:directions]:
            for name, parameter in layer.named_parameters(recurse=False):
                kind, _, place = name.partition("_l")
                if place == f"{depth}{suffix}" and kind != "weight_hr":
                    inner = kind == "weight_hh" or (kind == "weight_ih" and depth > 0)
                    columns = units.repeat(directions if kind == "weight_ih" else 1) if inner and not layer.proj_size else None
                    _rows_and_columns(follower, layer, parameter, units, columns)
    return units


def _rows_and_columns(follower: Follower, layer: nn.RNNBase, parameter: nn.Parameter, units: Tensor, columns: Tensor | None) -> None:
    follower.reads(parameter, units.repeat(parameter.shape[0] // layer.hidden_size), outgoing=True, owner=layer)
    if columns is not None:
        follower.reads(parameter, columns, outgoing=False, dimension=1, owner=layer)
