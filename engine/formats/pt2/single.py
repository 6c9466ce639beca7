"""A program in half precision as one that computes in float32: half weights are no state to train in, and importing ONNX widens them too."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from engine.formats.pt2.program import Program

HALF = (torch.float16, torch.bfloat16)


def widened(dtype: torch.dtype) -> torch.dtype:
    """The type that values of this type are computed in."""
    return torch.float32 if dtype in HALF else dtype


def single(program: Program) -> Program:
    """The program with half parameters and buffers as float32; tied ones stay one object. Its signature keeps its types."""
    found: dict[int, Tensor] = {}
    state = {path: found.setdefault(id(tensor), _single(tensor)) for path, tensor in program.state.items()}
    return dataclasses.replace(program, state=state)


def stored_type(state: Mapping[str, Tensor]) -> str:
    """`float16` where most of the floating-point values are stored so, else `float32`."""
    sizes: Counter[torch.dtype] = Counter()
    for tensor in {id(tensor): tensor for tensor in state.values()}.values():
        sizes[tensor.dtype] += tensor.numel()
    return "float16" if sizes[torch.float16] > sizes[torch.float32] + sizes[torch.float64] else "float32"


def _single(tensor: Tensor) -> Tensor:
    if tensor.dtype not in HALF:
        return tensor
    values = tensor.detach().float()
    return nn.Parameter(values, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else values
