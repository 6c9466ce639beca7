"""A bound on torch-pruning's walks through the dependency graph.

A walk ends where it comes to no new channels. That is never where it shifts them a little further at every round, as it does for the
halves that a rotary embedding swaps and for windows that are shifted and merged: it takes their positions for channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_MOST_VISITS = 32
"""Of one operation in one walk; networks that are followed to an end need up to a dozen."""


class EndlessWalkError(Exception):
    """A walk came to the same operation again and again."""


class Dependencies(list[Any]):
    """An operation's dependencies, which count how often they are looked at."""

    visits = 0

    def __iter__(self) -> Iterator[Any]:
        """As a list's. Raises EndlessWalkError."""
        self.visits += 1
        if self.visits > _MOST_VISITS + 4 * len(self):  # the rest is for drawing up how concatenations and splits shift channels
            raise EndlessWalkError
        return super().__iter__()


def follow(graph: Any, layer: Any, function: Any, channels: list[int]) -> Any:
    """`graph.get_pruning_group(layer, function, channels)`. Raises EndlessWalkError, and whatever torch-pruning fails with."""
    for node in graph.module2node.values():
        node.dependencies = Dependencies(node.dependencies[:])
    return graph.get_pruning_group(layer, function, channels)
