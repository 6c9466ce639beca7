"""Sums, means and the like, over positions or over channels."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from engine.structure.following.follower import CROSSED, Follower, Rule
from engine.structure.following.records import Call
from engine.structure.following.ties import varying


def reduced(follower: Follower, call: Call) -> None:
    """A sum of channels loses a term that was zero, and a mean is a sum; whatever else is taken over channels keeps them.

    Where channels lie crosswise to others, as those of a head in all heads, those that are reduced together go together.
    """
    value = call.first
    result = call.result if isinstance(call.result, Tensor) else call.result[0]
    dims = _dims(call, value.dim())
    found = []
    for numbers in follower.families(value):
        over = varying(numbers) & dims
        if over == varying(numbers):
            _sum(follower, call, numbers)
            continue
        first = numbers[tuple(slice(0, 1) if dimension in over else slice(None) for dimension in range(value.dim()))]
        if over:
            follower.ties.tie(numbers, first.expand(numbers.shape), CROSSED)
        kept = first[tuple(slice(0, 1) if dimension in dims else slice(None) for dimension in range(value.dim()))]
        found.append((kept if result.dim() == value.dim() else kept.reshape(result.shape)).expand(result.shape))
    for item in (result,) if isinstance(call.result, Tensor) else call.result:
        follower.give(item, found)


def _dims(call: Call, rank: int) -> set[int]:
    given: Any = call.argument(2 if call.name in ("norm", "vector_norm", "linalg_vector_norm") else 1, "dim", call.kwargs.get("axis"))
    if given is None or (isinstance(given, list | tuple) and not given):
        return set(range(rank))
    return {int(dim) % rank for dim in ([given] if isinstance(given, int) else given)}


def _sum(follower: Follower, call: Call, numbers: Tensor) -> None:
    if call.name in _INEXACT:
        follower.ties.fix(numbers, f"{_INEXACT[call.name]} is taken over them")
    elif call.name == "mean" and follower.node is not None:
        follower.averaged.append((follower.node, call.first.shape, (numbers,)))


def along(follower: Follower, call: Call) -> None:
    """Softmax, sorting and running sums: channels that they are taken over stay."""
    dimension = call.argument(1, "dim", call.kwargs.get("axis", -1))
    if call.name == "topk":
        dimension = call.argument(2, "dim", -1)
    dimension = int(dimension if dimension is not None else -1) % max(1, call.first.dim())
    families = follower.families(call.first)

    def decide() -> None:
        """Those of a head may lie along it, which then goes as a whole."""
        for numbers in families:
            if dimension in varying(follower.known(numbers)):
                follower.ties.fix(numbers, f"{call.name.replace('_', ' ')} is taken over them")

    follower.wait(decide)
    for item in (call.result,) if isinstance(call.result, Tensor) else call.result:
        if item.shape == call.first.shape:
            follower.give(item, families)
        else:
            kept = [numbers for numbers in families if dimension not in varying(numbers)]
            follower.give(item, [numbers.narrow(dimension, 0, 1).expand(item.shape) for numbers in kept])


_INEXACT = {
    "argmax": "a maximum's place",
    "argmin": "a minimum's place",
    "logsumexp": "a logarithm of a sum",
    "median": "a median",
    "prod": "a product",
    "quantile": "a quantile",
    "std": "a deviation",
    "std_mean": "a deviation",
    "var": "a variance",
    "var_mean": "a variance",
}
RULES: dict[str, Rule] = {
    **dict.fromkeys(
        [*_INEXACT, *["all", "amax", "amin", "any", "max", "mean", "min", "norm", "vector_norm", "linalg_vector_norm", "sum", "nansum"]],
        reduced,
    ),
    **dict.fromkeys(
        ["softmax", "log_softmax", "softmin", "cumsum", "cumprod", "sort", "argsort", "topk", "logcumsumexp", "gumbel_softmax"], along
    ),
}
