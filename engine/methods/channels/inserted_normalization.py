"""Batch normalization put behind the convolutions of a network that has none, as layers of its own that stay."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import fx, nn

from engine.methods.channels.own_normalization import KINDS, normalizable
from engine.methods.context import Context
from engine.structure.channels import Inputs
from engine.training.batch_norm import recalibrate


def insert_normalization(module: nn.Module, inputs: Inputs, context: Context) -> list[str]:
    """Put one behind every convolution but the last layer, in place; returns the convolutions' names, none where there is no place.

    Each begins as the identity: its statistics are those of training examples, its scale and shift undo them.
    """
    layers = normalizable(module, inputs)
    names = [name for name, layer in module.named_modules() if layer in layers]
    norms: list[Any] = []
    for name in names:
        layer: Any = module.get_submodule(name)
        norm = KINDS[len(layer.kernel_size)](layer.out_channels, device=layer.weight.device)
        norms.append(norm)
        if isinstance(module, fx.GraphModule):
            _behind(module, name, norm)
        else:
            parent, _, own = name.rpartition(".")
            setattr(module.get_submodule(parent), own, nn.Sequential(OrderedDict(convolution=layer, normalization=norm)))
    if isinstance(module, fx.GraphModule):
        module.recompile()
    module.eval()
    if norms:
        recalibrate(module, context.split("train"), context.input_names, context.device)
    with torch.no_grad():
        for norm in norms:
            norm.weight.copy_((norm.running_var + norm.eps).sqrt())
            norm.bias.copy_(norm.running_mean)
    return names


def _behind(module: fx.GraphModule, name: str, norm: nn.Module) -> None:
    path = f"{name}_normalization"
    module.add_submodule(path, norm)
    for node in [node for node in module.graph.nodes if node.op == "call_module" and node.target == name]:
        with module.graph.inserting_after(node):
            added = module.graph.call_module(path)
        node.replace_all_uses_with(added)
        added.args = (node,)
