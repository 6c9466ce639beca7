"""Where layers, parameters and buffers stand in a module that is built."""

from __future__ import annotations

import torch
from torch import nn


def attach(root: nn.Module, path: str, item: nn.Module | torch.Tensor) -> None:
    """Set a layer, parameter or buffer at a dotted path, with plain modules as the containers between."""
    *parents, last = path.split(".")
    holder = root
    for name in parents:
        if name not in holder._modules:
            holder.add_module(name, nn.Module())
        holder = holder.get_submodule(name)
    if isinstance(item, nn.Module):
        holder.add_module(last, item)
    elif isinstance(item, nn.Parameter):
        holder.register_parameter(last, item)
    else:
        holder.register_buffer(last, item)
