"""Constants that the network adds to its channels, such as a table of positions: they lose with a channel what belongs to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from engine.networks.layers import CONVOLUTIONS

Place = tuple[nn.Module, str]
"""The module that holds a buffer, and its name there."""


def constant_channels(module: nn.Module) -> list[Place]:
    """Saved buffers outside of torch's own layers whose last dimension longer than one is as wide as some layer.

    That is the dimension that torch-pruning cuts a bare parameter in; where it is another one, the trial of `removable` shows it.
    """
    widths = {width for layer in module.modules() if (width := _width(layer)) is not None}
    return [
        (owner, name)
        for owner in module.modules()
        if type(owner) is nn.Module or not type(owner).__module__.startswith("torch.nn.")
        for name, buffer in owner.named_buffers(recurse=False)
        if name not in owner._non_persistent_buffers_set
        and buffer.is_floating_point()
        and _last(buffer) in widths
        and bool(torch.isfinite(buffer).all())
    ]


@contextmanager
def as_parameters(places: Sequence[Place]) -> Iterator[None]:
    """Make parameters of the buffers, which the dependency graph follows; they are buffers again afterwards."""
    for owner, name in places:
        value = owner._buffers.pop(name)
        assert value is not None
        owner.register_parameter(name, nn.Parameter(value))
    try:
        yield
    finally:
        as_buffers(places)


def as_buffers(places: Sequence[Place]) -> None:
    """Make buffers of those that are parameters at present: cutting leaves parameters."""
    for owner, name in places:
        parameter = owner._parameters.pop(name, None)
        if parameter is not None:
            parameter.requires_grad_(False)
            owner.register_buffer(name, parameter.data)


def _last(buffer: torch.Tensor) -> int | None:
    return next((size for size in reversed(buffer.shape) if size > 1), None)


def _width(layer: nn.Module) -> int | None:
    if isinstance(layer, nn.Linear):
        return layer.out_features
    if isinstance(layer, nn.Embedding):
        return layer.embedding_dim
    return layer.out_channels if isinstance(layer, CONVOLUTIONS) else None
