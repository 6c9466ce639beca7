"""What is written down while a network is followed: operations that ran, slices that layers read, nodes that hold sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

Families = tuple[Tensor, ...]
"""Numbers of a value's elements, each tensor in the value's shape; an element vanishes with any of its numbers. `simplified`, and each
changes along some dimension: what does not cannot be cut."""


@dataclass(frozen=True)
class Slices:
    """One dimension of a layer's weights, with the number of the channel that each slice vanishes with."""

    layer: Any
    """The module, or a parameter or buffer that stands by itself (`owner` then is the recurrent layer that it belongs to, if any)."""
    outgoing: bool
    numbers: Tensor
    dimension: int = 0
    owner: nn.Module | None = None


@dataclass(frozen=True)
class Call:
    """One operation that ran."""

    name: str
    function: Callable[..., Any]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    result: Any

    def argument(self, place: int, name: str, default: Any = None) -> Any:
        """An argument that may be given by place or by name."""
        return self.args[place] if len(self.args) > place else self.kwargs.get(name, default)

    @property
    def first(self) -> Tensor:
        """The first operand, which may be given by name."""
        return self.args[0] if self.args else next(iter(self.kwargs.values()))  # type: ignore[no-any-return]  # operands are of any type, the first is a tensor


@dataclass(frozen=True)
class Resized:
    """A node of a traced network whose arguments may hold sizes or places: the numbers of what it reads and of what it makes."""

    node: fx.Node
    name: str
    source: Families
    shape: torch.Size
    results: tuple[tuple[torch.Size, Families], ...]
