"""Recurrent operators of an exported program that become layers of torch again, with the very weights that the program stores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from engine.formats.pt2.program import Item, Program

_KINDS: dict[str, tuple[Callable[..., nn.RNNBase], int, dict[str, Any]]] = {
    "lstm": (nn.LSTM, 4, {}),
    "gru": (nn.GRU, 3, {}),
    "rnn_tanh": (nn.RNN, 1, {"nonlinearity": "tanh"}),
    "rnn_relu": (nn.RNN, 1, {"nonlinearity": "relu"}),
}
"""Layer, and gates of a hidden unit, by the name of the operator."""
ZEROS = frozenset({"zeros", "new_zeros", "zeros_like"})
"""Operators whose result is what a recurrent layer starts from by itself."""


def recurrent(name: str | None, inputs: Item, program: Program) -> tuple[nn.RNNBase, str] | None:
    """The layer of an operator and the path that its weights have, or None where it is none, or its weights are no layer's own.

    Sequences of several lengths in one tensor (`batch_sizes`) are none.
    """
    kind = _KINDS.get(name or "")
    if kind is None or "params" not in inputs or "batch_sizes" in inputs:
        return None
    paths = [program.lifted.get(item["name"]) for item in inputs["params"].get("as_tensors", ())]
    given = [program.state.get(path or "") for path in paths]
    if not given or not all(isinstance(item, nn.Parameter) and item.ndim in (1, 2) for item in given):
        return None
    make, gates, options = kind
    first, columns = given[0], given[1]
    assert first is not None
    assert columns is not None
    hidden = first.shape[0] // gates
    if make is nn.LSTM and columns.shape[1] != hidden:
        options = {"proj_size": columns.shape[1]}
    flags = {key: inputs[key]["as_bool"] for key in ("bidirectional", "batch_first")}
    with torch.device("meta"):
        layer = make(
            first.shape[1],
            hidden,
            num_layers=inputs["num_layers"]["as_int"],
            bias=inputs["has_biases"]["as_bool"],
            dropout=inputs["dropout"]["as_float"],
            **flags,
            **options,
        )
    names = [word for words in layer._all_weights for word in words]
    owner = (paths[0] or "").rpartition(".")[0]
    if paths != [f"{owner}.{word}".removeprefix(".") for word in names]:
        return None
    if any(item is None or item.shape != getattr(layer, word).shape for word, item in zip(names, given, strict=True)):
        return None
    for word, item in zip(names, given, strict=True):
        setattr(layer, word, item)
    return layer, owner
