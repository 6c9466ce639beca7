"""Which multiple of channels the runtime computes without waste, measured for each kind of layer on the machine that publishes.

Kernels of a CPU work on blocks of 4 to 16 channels: a convolution with 37 of them may well take longer than one with 40.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from engine.networks.layers import CONVOLUTIONS
from engine.structure.channels import ChannelGroup, is_single

WIDTHS = {1: 37, 2: 38, 4: 36, 8: 40, 16: 48}
"""For each multiple a number of channels that is one, and no larger one's."""
SAVING = 0.25
"""Share of the operations that a smaller width saves which has to show in the time, for that width to be worth while."""
REPEATS = 15
_INNER = 4

Multiples = Mapping[str, int]
"""Kind of layer → multiple."""


@functools.cache
def multiples(threads: int) -> Multiples:
    """The smallest multiple without waste for `convolution`, `depthwise` and `linear` layers; measured once, in about a second."""
    return {kind: smallest(_measured(make, threads)) for kind, make in _KINDS.items()}


def smallest(seconds: Mapping[int, float]) -> int:
    """The smallest multiple whose width is worth while beside every wider one of a larger multiple."""

    def pays(multiple: int, other: int) -> bool:
        saved = 1 - (WIDTHS[multiple] / WIDTHS[other]) ** 2
        return saved <= 0 or seconds[multiple] <= (1 - SAVING * saved) * seconds[other]

    return next(multiple for multiple in sorted(seconds) if all(pays(multiple, other) for other in seconds if other > multiple))


def aligned(groups: Sequence[ChannelGroup], shares: Mapping[str, float], found: Multiples) -> dict[str, int]:
    """For each group the multiple that it keeps: that of its layers, but no more than go, and half of those that stay.

    `shares` is what is to be removed of each group. A layer of few channels loses what the target asks for: it costs little anyway.
    """
    chosen = {}
    for group in groups:
        wanted = max(found[_kind(part.layer)] for part in group.parts if part.producing or part.consuming) if group.parts else 1
        gone = group.channels_count * shares[group.name]
        while wanted > 1 and wanted > min((group.channels_count - gone) / 2, gone):
            wanted //= 2
        chosen[group.name] = wanted
    return chosen


def _kind(layer: object) -> str:
    if isinstance(layer, nn.Module) and is_single(layer):
        return "depthwise"
    return "convolution" if isinstance(layer, CONVOLUTIONS) else "linear"


def _measured(make: Callable[[int], tuple[onnx.NodeProto, np.ndarray[Any, Any], list[int]]], threads: int) -> dict[int, float]:
    """Seconds for every width, the least of some runs in turns."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    runs = []
    for multiple, width in WIDTHS.items():
        node, weight, shape = make(width)
        session = ort.InferenceSession(_model(node, weight, shape), options, providers=["CPUExecutionProvider"])
        runs.append((multiple, session, {"x": np.ones(shape, np.float32)}))
    least = dict.fromkeys(WIDTHS, np.inf)
    for _ in range(REPEATS):
        for multiple, session, feed in runs:
            began = time.perf_counter()
            for _ in range(_INNER):
                session.run(None, feed)
            least[multiple] = min(least[multiple], time.perf_counter() - began)
    return {multiple: float(value) for multiple, value in least.items()}


def _model(node: onnx.NodeProto, weight: np.ndarray[Any, Any], shape: list[int]) -> bytes:
    # Two of the layer on top of one another: what is changed at the ends, such as the layout, counts half.
    second = onnx.NodeProto()
    second.CopyFrom(node)
    second.input[0], second.output[0] = "h", "y"
    node.output[0] = "h"
    graph = helper.make_graph(
        [node, second],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    serialized: bytes = model.SerializeToString()
    return serialized


def _convolution(width: int) -> tuple[onnx.NodeProto, np.ndarray[Any, Any], list[int]]:
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1], kernel_shape=[3, 3])
    return node, np.ones((width, width, 3, 3), np.float32), [1, width, 14, 14]


def _depthwise(width: int) -> tuple[onnx.NodeProto, np.ndarray[Any, Any], list[int]]:
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1], kernel_shape=[3, 3], group=width)
    return node, np.ones((width, 1, 3, 3), np.float32), [1, width, 28, 28]


def _linear(width: int) -> tuple[onnx.NodeProto, np.ndarray[Any, Any], list[int]]:
    return helper.make_node("MatMul", ["x", "w"], ["y"]), np.ones((width, width), np.float32), [196, width]


_KINDS = {"convolution": _convolution, "depthwise": _depthwise, "linear": _linear}
