"""Residual blocks of any network: branches beside a shortcut, found in its traced graph, and taken out of it."""

from __future__ import annotations

import operator
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from engine.contract.errors import EngineError
from engine.networks.layers import PRUNABLE

_ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
_TRANSPARENT = (nn.Identity, nn.modules.dropout._DropoutNd)
_TAILS = (*PRUNABLE, _BatchNorm)
"""Layers whose output a factor on weight and bias scales as a whole."""


@dataclass(frozen=True)
class Block:
    """shortcut(x) + branch(x)."""

    tail: str
    """Name of the branch's last layer, whose output is added."""
    layers: tuple[str, ...]
    """Names of the branch's convolutions and linear layers."""


def traced(module: nn.Module) -> fx.GraphModule:
    """The module as a graph of its own layers. Raises `pruning_impossible` where its forward pass depends on the data."""
    if isinstance(module, fx.GraphModule):
        return module
    try:
        return fx.symbolic_trace(module)
    except (fx.proxy.TraceError, TypeError, RuntimeError, ValueError) as error:
        raise EngineError(
            "pruning_impossible",
            f"Residual blocks cannot be found: the forward pass depends on the data ({str(error).splitlines()[0]}).",
            hint="Choose structures: [neuron].",
        ) from error


def find_blocks(module: nn.Module) -> list[Block]:
    """Every branch that is added to a shortcut, in the order of the forward pass.

    A shortcut is what the branch starts from, or a projection of it with fewer layers than the branch.
    """
    graph = traced(module)
    found = []
    for addition in graph.graph.nodes:
        branch = _branch(graph, addition)
        if branch is not None:
            found.append(branch[0])
    return found


def remove_blocks(module: nn.Module, tails: Collection[str]) -> fx.GraphModule:
    """The network with only the shortcut left of each named block; layers that nothing uses any more are gone."""
    graph = traced(module)
    for addition in list(graph.graph.nodes):
        branch = _branch(graph, addition)
        if branch is not None and branch[0].tail in tails:
            addition.replace_all_uses_with(branch[1])
            graph.graph.erase_node(addition)
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    graph.recompile()
    return graph


def _branch(graph: fx.GraphModule, addition: fx.Node) -> tuple[Block, fx.Node] | None:
    """The block that ends in this addition, and its shortcut; None where it is no residual addition."""
    if addition.op not in ("call_function", "call_method") or addition.target not in _ADDITIONS or addition.kwargs:
        return None
    operands = [operand for operand in addition.args if isinstance(operand, fx.Node)]
    if len(operands) != 2 or operands[0] is operands[1]:
        return None
    above = [_ancestors(operand) for operand in operands]
    layers = [_layers(graph, above[0] - above[1]), _layers(graph, above[1] - above[0])]
    side = 0 if len(layers[0]) > len(layers[1]) else 1
    branch, shortcut = operands[side], operands[1 - side]
    tail = _tail(graph, branch)
    if tail is None or len(layers[side]) == len(layers[1 - side]) or not above[0] & above[1]:
        return None
    return Block(tail, layers[side]), shortcut


def _ancestors(node: fx.Node) -> set[fx.Node]:
    """The node and everything that it is computed from."""
    found, waiting = {node}, [node]
    while waiting:
        for parent in waiting.pop().all_input_nodes:
            if parent not in found:
                found.add(parent)
                waiting.append(parent)
    return found


def _layers(graph: fx.GraphModule, nodes: set[fx.Node]) -> tuple[str, ...]:
    names = {str(node.target) for node in nodes if node.op == "call_module"}
    return tuple(name for name, layer in graph.named_modules() if name in names and isinstance(layer, PRUNABLE))


def _tail(graph: fx.GraphModule, node: fx.Node) -> str | None:
    """The layer that gives the branch its last values, where a factor on its parameters scales the branch and nothing else."""
    while node.op == "call_module" and len(node.users) == 1:
        name = str(node.target)
        layer = graph.get_submodule(name)
        if isinstance(layer, _TAILS):
            calls = sum(other.op == "call_module" and other.target == name for other in graph.graph.nodes)
            return name if calls == 1 and layer.weight is not None else None
        if not isinstance(layer, _TRANSPARENT):
            return None
        (node,) = node.all_input_nodes
    return None
