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

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from engine.formats.onnx.executed import with_repeated
from engine.formats.onnx.file import read_model
from engine.formats.onnx.macs import node_macs, total
from engine.formats.onnx.packed import unpacked
from engine.formats.onnx.weights import Weight, is_mask, weight_tensors
from engine.networks.network import Counts

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.flop_counter import FlopCounterMode

    from engine.networks.network import Signature


def count_onnx(path: Path, shapes: Mapping[str, Sequence[int]] | None = None) -> Counts:
    """Count a file. `shapes` gives the shape of one example (without its batch) for inputs with open dimensions."""
    return count_graph(read_model(path), shapes)


def count_graph(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]] | None = None) -> Counts:
    """Count a graph that was read before; see `count_onnx`."""
    model = unpacked(model)
    return counts_of(weight_tensors(model), with_repeated(model, node_macs(model, shapes), shapes))


def counts_of(weights: Mapping[str, Weight], macs: Mapping[str, int | None]) -> Counts:
    """The sums of what was found of a graph's weights and nodes."""
    return Counts(total(item.size for item in weights.values()), total(item.nonzero for item in weights.values()), total(macs.values()))


def count_module(module: nn.Module, signature: Signature, shapes: Mapping[str, Sequence[int]] | None = None) -> Counts:
    """Count a module without masks and parametrizations; a copy runs once on the meta device, which holds and computes nothing."""
    return replace(count_weights(module), macs_count=count_operations(module, signature, shapes))


def count_operations(module: nn.Module, signature: Signature, shapes: Mapping[str, Sequence[int]] | None = None) -> int:
    """The MACs of one example; see `count_module`."""
    import torch

    from engine.networks.example_inputs import example_inputs

    inputs = example_inputs(signature, 1, torch.device("meta"), shapes=shapes)
    empty = on_meta(module)
    with torch.device("meta"), multiplications(empty) as counter:
        empty(*inputs)
    return int(counter.get_total_flops()) // 2


def count_weights(module: nn.Module) -> Counts:
    """Count the parameters of a module, and no operation."""
    import torch

    weights = [*module.parameters(), *_stray_constants(module)]
    return Counts(sum(item.numel() for item in weights), sum(int(torch.count_nonzero(item)) for item in weights), None)


def on_meta(module: nn.Module) -> nn.Module:
    """A copy of the module whose weights have shapes only; none of them is copied."""
    import torch

    empty: dict[int, Any] = {}
    for item in (*module.parameters(), *module.buffers()):
        value = item.detach().to("meta")
        empty[id(item)] = torch.nn.Parameter(value, item.requires_grad) if isinstance(item, torch.nn.Parameter) else value
    return copy.deepcopy(module, empty)


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

    found: dict[int, Tensor] = {}
    for part in module.modules():
        if isinstance(part, fx.GraphModule):
            names = dict.fromkeys(str(node.target) for node in part.graph.nodes if node.op == "get_attr")
            buffers = dict(part.named_buffers())
            found |= {id(buffers[name]): buffers[name] for name in names if name in buffers}
    return [item for item in found.values() if item.is_floating_point() and item.numel() > 1 and not is_mask(item.double().numpy())]
