"""Inputs to run a network on when what it computes does not matter, only that and how it runs."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from engine.network import Signature

OPEN_DIMENSION = 8
"""Length given to a dimension that the signature leaves open."""


def example_inputs(signature: Signature, batch_size: int, device: torch.device | None = None, seed: int = 0) -> tuple[Tensor, ...]:
    """One tensor per input of the signature: standard normal numbers, zeros for integer inputs (a valid index everywhere)."""
    rng = np.random.default_rng(seed)
    tensors = []
    for tensor in signature.inputs:
        shape = (batch_size, *(OPEN_DIMENSION if size is None else size for size in tensor.shape[1:]))
        dtype = np.dtype(tensor.dtype)
        array = rng.standard_normal(shape) if np.issubdtype(dtype, np.floating) else np.zeros(shape)
        tensors.append(torch.from_numpy(array.astype(dtype)).to(device))
    return tuple(tensors)
