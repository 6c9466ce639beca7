"""How a module is traced by `torch.export`: which dimensions stay open, and how its inputs are passed."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from engine.networks.network import Signature, TensorSpec


def open_shapes(module: nn.Module, signature: Signature) -> tuple[Any, ...]:
    """`dynamic_shapes` of an export on inputs of the signature."""
    shapes = tuple(_open_dimensions(spec, signature.batch_axis(spec)) for spec in signature.inputs)
    return (shapes,) if _takes_any_number(module) else shapes


def first_reason(error: BaseException) -> str:
    """The reason behind the exporter's advice, which is addressed to its developers."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error).strip().splitlines()
    return text[0].rstrip(".") if text else type(error).__name__


def _takes_any_number(module: nn.Module) -> bool:
    """Whether `forward` takes its inputs as `*inputs`, which torch's exporter counts as one argument."""
    return any(parameter.kind is parameter.VAR_POSITIONAL for parameter in inspect.signature(module.forward).parameters.values())


def _open_dimensions(spec: TensorSpec, batch: int | None) -> dict[int, Any]:
    """The batch, and every other dimension that the signature leaves open, if the exporter finds that it may stay so."""
    opened: dict[int, Any] = {dim: torch.export.Dim.AUTO for dim, size in enumerate(spec.shape) if size is None}
    if batch is not None:
        opened[batch] = torch.export.Dim("batch")
    return opened
