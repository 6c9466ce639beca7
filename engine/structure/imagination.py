"""Copies of a network that cost next to nothing: with the same tensors, or with shapes alone."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


def shared_copy(module: nn.Module) -> nn.Module:
    """A copy with layers and a graph of its own, whose tensors are the module's."""
    tensors = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})


LOOKS_AT_VALUES = (RuntimeError, NotImplementedError, ValueError, TypeError, IndexError)
"""What a network raises that looks at values, such as places of a table, where the meta device has none."""


def imagined(module: nn.Module) -> nn.Module:
    """A copy on the meta device, which computes shapes alone."""
    return shared_copy(module).to("meta")


def holds_places(module: nn.Module) -> bool:
    """Whether a network has constants that may be places to look up: on the meta device they are not there, and nothing says so."""
    kinds = ((name, item.dtype) for name, item in module.named_buffers())
    return any(not (kind.is_floating_point or name.endswith("num_batches_tracked")) for name, kind in kinds)


@contextmanager
def evaluated(module: nn.Module) -> Iterator[None]:
    """While active, every layer is in evaluation mode."""
    modes = {layer: layer.training for layer in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for layer, mode in modes.items():
            layer.training = mode
