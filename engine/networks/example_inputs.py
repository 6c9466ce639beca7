"""Inputs to run a network on when what it computes does not matter, only that and how it runs."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import torch
from torch import Tensor, nn

from engine.contract.errors import EngineError
from engine.networks.network import OPEN_SIZES, Shapes, Signature

DOES_NOT_FIT = (RuntimeError, ValueError, IndexError)
"""What a module raises on inputs of a size that it does not take; a table of places that is too short for them raises the last."""


def example_inputs(
    signature: Signature,
    batch_size: int,
    device: torch.device | None = None,
    *,
    seed: int = 0,
    open_size: int = OPEN_SIZES[0],
    shapes: Shapes | None = None,
) -> tuple[Tensor, ...]:
    """One tensor per input of the signature: standard normal numbers, zeros for integer inputs (a valid index everywhere), and the value
    that the signature states.

    Dimensions that the signature leaves open have the size that `shapes` gives them (without the batch), else `open_size`.
    """
    rng = np.random.default_rng(seed)
    tensors = []
    for tensor in signature.inputs:
        given, batch = (shapes or {}).get(tensor.name, ()), signature.batch_axis(tensor)
        shape = [
            batch_size if dim == batch else size or (given[dim - 1] if dim <= len(given) else open_size)
            for dim, size in enumerate(tensor.shape)
        ]
        dtype: torch.dtype = getattr(torch, tensor.dtype)
        if tensor.value is not None:
            values = torch.full(shape, tensor.value)
        else:
            values = torch.from_numpy(rng.standard_normal(shape)) if dtype.is_floating_point else torch.zeros(shape)
        tensors.append(values.to(device, dtype))
    return tuple(tensors)


def fitting_inputs(module: nn.Module, signature: Signature, batch_size: int, *, seed: int = 0) -> tuple[Tensor, ...]:
    """`example_inputs` on the CPU of a size for which the module runs; where there is none, of the first: what is done with them says why."""
    if any(size is None for spec in signature.inputs for dim, size in enumerate(spec.shape) if dim != signature.batch_axis(spec)):
        for size in OPEN_SIZES:
            inputs = example_inputs(signature, batch_size, open_size=size, seed=seed)
            with suppress(*DOES_NOT_FIT), torch.no_grad():
                module.forward(*inputs)  # Not a call: a traced network that is called prints what it fails with.
                return inputs
    return example_inputs(signature, batch_size, seed=seed)


@torch.no_grad()
def running_inputs(module: nn.Module, signature: Signature, batch_size: int, device: torch.device) -> tuple[Tensor, ...]:
    """`example_inputs` of a size for which the module runs. Raises `shape_mismatch` where there is none."""
    last: Exception | None = None
    for size in OPEN_SIZES:
        inputs = example_inputs(signature, batch_size, device, open_size=size)
        try:
            module.forward(*inputs)  # Not a call: a traced network that is called prints what it fails with.
        except DOES_NOT_FIT as error:
            last = error
        else:
            return inputs
    raise EngineError(
        "shape_mismatch",
        f"The network runs on no made-up input of the shapes that it declares ({str(last).splitlines()[0]}).",
        hint="Upload a small dataset of real examples and name it in the spec; labels are not needed.",
    )
