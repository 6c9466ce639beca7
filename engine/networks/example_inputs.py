"""Inputs to run a network on when what it computes does not matter, only that and how it runs."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from engine.contract.errors import EngineError
from engine.networks.network import Signature

_OPEN_SIZES = (64, 32, 128, 224, 256, 512, 16, 8)
"""Tried one after the other for dimensions that the signature leaves open, until the network runs."""


def example_inputs(
    signature: Signature, batch_size: int, device: torch.device | None = None, *, seed: int = 0, open_size: int = _OPEN_SIZES[0]
) -> tuple[Tensor, ...]:
    """One tensor per input of the signature: standard normal numbers, zeros for integer inputs (a valid index everywhere)."""
    rng = np.random.default_rng(seed)
    tensors = []
    for tensor in signature.inputs:
        shape = (batch_size, *(open_size if size is None else size for size in tensor.shape[1:]))
        dtype = np.dtype(tensor.dtype)
        array = rng.standard_normal(shape) if np.issubdtype(dtype, np.floating) else np.zeros(shape)
        tensors.append(torch.from_numpy(array.astype(dtype)).to(device))
    return tuple(tensors)


@torch.no_grad()
def running_inputs(module: nn.Module, signature: Signature, batch_size: int, device: torch.device) -> tuple[Tensor, ...]:
    """`example_inputs` of a size for which the module runs. Raises `shape_mismatch` where there is none."""
    last: Exception | None = None
    for size in _OPEN_SIZES:
        inputs = example_inputs(signature, batch_size, device, open_size=size)
        try:
            module.forward(*inputs)  # Not a call: a traced network that is called prints what it fails with.
        except (RuntimeError, ValueError) as error:
            last = error
        else:
            return inputs
    raise EngineError(
        "shape_mismatch",
        f"The network runs on no made-up input of the shapes that it declares ({str(last).splitlines()[0]}).",
        hint="Upload a small dataset of real examples and name it in the spec; labels are not needed.",
    )
