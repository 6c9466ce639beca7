"""How large a network is: parameters, those that are not zero, and multiply-accumulate operations (MACs).

One definition for baseline and result, whatever became of the graph in between:

* A *parameter* is an element of a weight: a constant that a layer multiplies or adds, quantized or not. Scales, zero points, running
  statistics, shapes and axes are none. A tensor that is used twice counts once; only rows of one repeated number count for every
  layer that reads them, because exporters store equal ones (fresh scales and biases of normalizations) a single time.
* It is *zero* where what it stands for is zero: a quantized weight at its zero point.
* A *MAC* is one multiplication of a convolution, a matrix product, an Einsum or a recurrent layer, for one example. Element-wise
  operators, pools and normalizations count nothing, as in the literature.

Files are counted on their graph, without torch; modules by running them once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from engine.formats.onnx.file import read_model
from engine.formats.onnx.macs import node_macs
from engine.formats.onnx.weights import weight_tensors

if TYPE_CHECKING:
    from torch import nn

    from engine.networks.network import Signature


@dataclass(frozen=True)
class Counts:
    """Figures of one network."""

    params_count: int
    nonzero_params_count: int
    macs_count: int


def count_onnx(path: Path, shapes: Mapping[str, Sequence[int]] | None = None) -> Counts:
    """Count a file. `shapes` gives the shape of one example (without its batch) for inputs with open dimensions."""
    return count_graph(read_model(path), shapes)


def count_graph(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]] | None = None) -> Counts:
    """Count a graph that was read before; see `count_onnx`."""
    weights = weight_tensors(model)
    return Counts(
        sum(item.size for item in weights.values()),
        sum(item.nonzero for item in weights.values()),
        sum(node_macs(model, shapes).values()),
    )


def count_module(module: nn.Module, signature: Signature, shapes: Mapping[str, Sequence[int]] | None = None) -> Counts:
    """Count a copy of a module, with masks and parametrizations folded in; it runs once on the meta device, which computes nothing."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from engine.formats.onnx.export import example_inputs, folded

    plain = folded(module)
    parameters = list(plain.parameters())
    params, nonzero = sum(item.numel() for item in parameters), sum(int(torch.count_nonzero(item)) for item in parameters)
    inputs = [item.to("meta") for item in example_inputs(signature, batch=1, shapes=shapes)]
    with torch.no_grad(), torch.device("meta"), FlopCounterMode(display=False) as counter:
        plain.to("meta")(*inputs)
    return Counts(params, nonzero, int(counter.get_total_flops()) // 2)
