"""Recurrent networks whose cells are the bodies of loops, as tf2onnx writes those of Keras, and as a Scan."""

from __future__ import annotations

import numpy as np
import onnx

from tests.engine.formats.onnx.bodies import body, loop
from tests.engine.formats.onnx.graphs import BATCH, I64, Array, ints, model, node, normal, scalar

STEPS, HIDDEN, CHANNELS = 6, 16, 6
_GATES = [
    node("MatMul", ["x_t", "kernel"], ["xk"]),
    node("Add", ["xk", "bias"], ["xb"]),
    node("MatMul", ["h", "recurrent_kernel"], ["hk"]),
    node("Add", ["hk", "recurrent_bias"], ["hb"]),
    node("Split", ["xb", "parts"], ["xz", "xr", "xh"], axis=1),
    node("Split", ["hb", "parts"], ["hz", "hr", "hh"], axis=1),
    node("Add", ["xz", "hz"], ["z_in"]),
    node("Sigmoid", ["z_in"], ["z"]),
    node("Add", ["xr", "hr"], ["r_in"]),
    node("Sigmoid", ["r_in"], ["r"]),
    node("Mul", ["r", "hh"], ["rh"]),
    node("Add", ["xh", "rh"], ["c_in"]),
    node("Tanh", ["c_in"], ["c"]),
    node("Sub", ["one", "z"], ["rest"]),
    node("Mul", ["rest", "c"], ["new"]),
    node("Mul", ["z", "h"], ["old"]),
    node("Add", ["new", "old"], ["h_out"]),
    node("Identity", ["h_out"], ["step"]),
]


def gru(*, scanned: bool = False, steps: int = STEPS) -> onnx.ModelProto:
    """A layer, a GRU, a layer on its last state; the first bias is zero, as it is before training."""
    first = [
        node("MatMul", ["x", "embedding"], ["e"]),
        node("Relu", ["e"], ["active"]),
        node("Transpose", ["active"], ["steps"], perm=[1, 0, 2]),
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "zero"], ["batch"]),
        node("Concat", ["batch", "width"], ["state_shape"], axis=0),
        node("ConstantOfShape", ["state_shape"], ["h0"]),
    ]
    if scanned:
        cell = body(_GATES, ["h", "x_t"], ["h_out", "step"])
        for item in (*cell.input, *cell.output):
            for _ in range(2):
                item.type.tensor_type.shape.dim.add()
        repeated = node("Scan", ["h0", "steps"], ["last", "all"], body=cell, num_scan_inputs=1)
    else:
        reading = [node("Gather", ["steps", "i"], ["x_t"], axis=0), *_GATES]
        repeated = loop(["count", "yes", "h0"], ["last", "all"], reading, ["h"], ["h_out", "step"])
    nodes = [*first, repeated, node("MatMul", ["last", "head"], ["scores"]), node("Add", ["scores", "head_bias"], ["y"])]
    weights = {
        "embedding": normal(4, 12),
        "kernel": 0.4 * normal(12, 3 * HIDDEN),
        "recurrent_kernel": 0.3 * normal(HIDDEN, 3 * HIDDEN),
        "bias": np.zeros(3 * HIDDEN, np.float32),
        "recurrent_bias": 0.1 * normal(3 * HIDDEN),
        "head": normal(HIDDEN, 3),
        "head_bias": normal(3),
    }
    numbers = {"parts": ints(*[HIDDEN] * 3), "one": scalar(1), "zero": ints(0), "width": ints(HIDDEN)}
    bounds: dict[str, Array] = {} if scanned else {"count": np.array(steps, I64), "yes": np.array(True)}
    return model(nodes, {"x": [BATCH, steps, 4]}, ["y"], weights | numbers | bounds, opset=17)


def convolutional_lstm(steps: int = 4) -> onnx.ModelProto:
    """Two states that are images."""
    cell = [
        node("Gather", ["frames", "i"], ["x_t"], axis=0),
        node("Conv", ["x_t", "kernel", "bias"], ["cx"], pads=[1, 1, 1, 1]),
        node("Conv", ["h", "recurrent_kernel"], ["ch"], pads=[1, 1, 1, 1]),
        node("Add", ["cx", "ch"], ["gates"]),
        node("Split", ["gates", "parts"], ["gi", "gf", "gc", "go_out"], axis=1),
        *(node("HardSigmoid", [name], [f"{name}_open"], alpha=0.2) for name in ("gi", "gf", "go_out")),
        node("Tanh", ["gc"], ["new"]),
        node("Mul", ["gf_open", "c"], ["kept"]),
        node("Mul", ["gi_open", "new"], ["taken"]),
        node("Add", ["kept", "taken"], ["c_out"]),
        node("Tanh", ["c_out"], ["bent"]),
        node("Mul", ["go_out_open", "bent"], ["h_out"]),
    ]
    nodes = [
        node("Transpose", ["x"], ["frames"], perm=[1, 0, 2, 3, 4]),
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "zero"], ["batch"]),
        node("Concat", ["batch", "size"], ["state_shape"], axis=0),
        node("ConstantOfShape", ["state_shape"], ["h0"]),
        loop(["count", "", "h0", "h0"], ["last", "memory"], cell, ["h", "c"], ["h_out", "c_out"]),
        node("GlobalAveragePool", ["last"], ["pooled"]),
        node("Flatten", ["pooled"], ["flat"]),
        node("Gemm", ["flat", "head", "head_bias"], ["y"]),
    ]
    weights = {
        "kernel": 0.3 * normal(4 * CHANNELS, 2, 3, 3),
        "bias": np.repeat(np.array([0, 1, 0, 0], np.float32), CHANNELS),
        "recurrent_kernel": 0.2 * normal(4 * CHANNELS, CHANNELS, 3, 3),
        "head": normal(CHANNELS, 3),
        "head_bias": normal(3),
    }
    numbers = {"parts": ints(*[CHANNELS] * 4), "zero": ints(0), "size": ints(CHANNELS, 8, 8), "count": np.array(steps, I64)}
    return model(nodes, {"x": [BATCH, steps, 2, 8, 8]}, ["y"], weights | numbers, opset=17)


NETWORKS = {"GRU": gru, "GRU as Scan": lambda: gru(scanned=True), "convolutional LSTM": convolutional_lstm}
