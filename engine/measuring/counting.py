"""How large a network is: parameters, those that are not zero, and multiply-accumulate operations (MACs).

One definition for baseline and result, whatever became of the graph in between:

* A *parameter* is an element of a weight: a constant that a layer multiplies or adds, quantized or not, in the graph or inside of its
  If and Loop. Scales, zero points, running statistics, shapes, axes, masks and single numbers are none. A tensor that is used twice counts once; only rows of one repeated number count for every
  layer that reads them, because exporters store equal ones (fresh scales and biases of normalizations) a single time.
* It is *zero* where what it stands for is zero: a quantized weight at its zero point.
* A *MAC* is one multiplication of a convolution, a matrix product, an Einsum or a recurrent layer, for one example. Element-wise
  operators, pools and normalizations count nothing, as in the literature.
* What cannot be counted is None, never a smaller number.

Files are counted on their graph, without torch; modules by running them once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from engine.formats.onnx.file import read_model
from engine.formats.onnx.macs import node_macs, total
from engine.formats.onnx.weights import Weight, is_mask, weight_tensors

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.flop_counter import FlopCounterMode

    from engine.networks.network import Signature


@dataclass(frozen=True)
class Counts:
    """Figures of one network."""

    params_count: int | None
    nonzero_params_count: int | None
    macs_count: int | None


def count_onnx(path: Path, shapes: Mapping[str, Sequence[int]] | None = None) -> Counts:
    """Count a file. `shapes` gives the shape of one example (without its batch) for inputs with open dimensions."""
    return count_graph(read_model(path), shapes)


def count_graph(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]] | None = None) -> Counts:
    """Count a graph that was read before; see `count_onnx`."""
    return counts_of(weight_tensors(model), node_macs(model, shapes))


def counts_of(weights: Mapping[str, Weight], macs: Mapping[str, int | None]) -> Counts:
    """The sums of what was found of a graph's weights and nodes."""
    return Counts(total(item.size for item in weights.values()), total(item.nonzero for item in weights.values()), total(macs.values()))


def count_module(module: nn.Module, signature: Signature, shapes: Mapping[str, Sequence[int]] | None = None) -> Counts:
    """Count a copy of a module, with masks and parametrizations folded in; it runs once on the meta device, which computes nothing."""
    import torch

    from engine.formats.onnx.export import example_inputs, folded

    plain = folded(module)
    weights = [*plain.parameters(), *_stray_constants(plain)]
    params, nonzero = sum(item.numel() for item in weights), sum(int(torch.count_nonzero(item)) for item in weights)
    inputs = [item.to("meta") for item in example_inputs(signature, batch=1, shapes=shapes)]
    with torch.device("meta"), multiplications(plain) as counter:
        plain.to("meta")(*inputs)
    return Counts(params, nonzero, int(counter.get_total_flops()) // 2)


@contextmanager
def multiplications(module: nn.Module) -> Iterator[FlopCounterMode]:
    """Counts what runs inside of the block: twice its MACs, as floating-point operations."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    aten = torch.ops.aten
    vectors = {aten.mv: lambda a, *_, **__: 2 * math.prod(a), aten.dot: lambda a, *_, **__: 2 * math.prod(a)}
    # The counter hooks every tensor that wants a gradient, and fails on views of parameters, which have none without a graph.
    learning = [item for item in module.parameters() if item.requires_grad]
    for item in learning:
        item.requires_grad_(False)
    try:
        with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=vectors) as counter:
            yield counter
    finally:
        for item in learning:
            item.requires_grad_(True)


def _stray_constants(module: nn.Module) -> list[Tensor]:
    """Constants of an imported graph that belong to no layer and are not trained, as far as they count in its file."""
    from torch import fx

    if not isinstance(module, fx.GraphModule):
        return []
    names = dict.fromkeys(str(node.target) for node in module.graph.nodes if node.op == "get_attr")
    buffers = dict(module.named_buffers())
    found = [buffers[name] for name in names if name in buffers]
    return [item for item in found if item.is_floating_point() and item.numel() > 1 and not is_mask(item.double().numpy())]
