"""Operations behind which channels cannot be followed: the dependency graph ends there, and begins anew behind them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

REGROUPED = "their channels are split into groups and mixed, as by a channel shuffle"
RECURRENT = "a GRU or plain recurrent layer reads them, whose inputs cannot be cut"
_RECURRENT = frozenset({"gru", "rnn_tanh", "rnn_relu"})
_RESHAPING = frozenset({"reshape", "unflatten", "view"})


class Boundaries(TorchFunctionMode):
    """While active, cuts the autograd graph at such operations; `crossed` holds what went into them, each with the reason.

    torch-pruning takes an operation that it does not know for one that keeps every channel in its place. That is wrong for a channel
    shuffle (ShuffleNet), whose groups would also take it minutes to follow, and inside of recurrent layers it fails.
    """

    def __init__(self, *, wide: bool = False) -> None:
        """With `wide`, every reshape that changes the second dimension counts, except the flatten before a linear layer."""
        super().__init__()
        self.crossed: list[tuple[Tensor, str]] = []
        self._wide = wide

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        """Run the operation, and forget where its result came from if it is such a boundary."""
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name in _RECURRENT:
            return self._cross(args[0], RECURRENT, result)
        if name in _RESHAPING and isinstance(result, Tensor) and self._regroups(args[0].shape, result.shape):
            return self._cross(args[0], REGROUPED, result)
        return result

    def _regroups(self, before: torch.Size, after: torch.Size) -> bool:
        if len(before) < 2 or len(after) < 3:
            return False
        if self._wide:
            return before[1] != after[1]
        # (batch, channels, height, width) becomes (batch, groups, channels / group, height, width).
        return len(before) >= 4 and after[3:] == before[2:] and after[1] > 1 and math.prod(after[1:3]) == before[1] != after[1]

    def _cross(self, given: Any, reason: str, result: Any) -> Any:
        if isinstance(given, Tensor) and given.requires_grad:
            self.crossed.append((given, reason))
        return torch.utils._pytree.tree_map_only(Tensor, Tensor.detach, result)
