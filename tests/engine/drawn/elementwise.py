"""Drawn activations, arithmetic, comparisons and branches."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.engine.drawn.sketch import Sketch, Unfit

_SMOOTH = (
    "Relu",
    "Relu",
    "Relu",
    "Sigmoid",
    "Tanh",
    "LeakyRelu",
    "Elu",
    "Selu",
    "Celu",
    "HardSigmoid",
    "Softplus",
    "Softsign",
    "Abs",
    "Neg",
    "Erf",
    "Sin",
    "Cos",
    "Atan",
    "Identity",
)
_ROUGH = ("Round", "Floor", "Ceil", "Sign", "ThresholdedRelu", "Shrink")
_SINCE = {"HardSwish": 14, "Mish": 18, "Gelu": 20}


def activation(s: Sketch, x: str) -> None:
    """A function of one value."""
    rng = s.rng
    kind = rng.choice([*_SMOOTH, *_ROUGH, *_SINCE, "Softmax", "Clip", "PRelu", "gelu", "silu", "Dropout"])
    if _SINCE.get(kind, 0) > s.opset:
        raise Unfit(kind)
    s.is_rough |= kind in _ROUGH
    if kind in ("LeakyRelu", "Elu", "Celu", "ThresholdedRelu", "HardSigmoid") and rng.random() < 0.5:
        s.flows(*s.node(kind, [x], alpha=rng.choice([0.1, 0.7])))
    elif kind == "Softmax":
        s.flows(*s.node(rng.choice(["Softmax", "LogSoftmax"]), [x], axis=rng.randrange(1, len(s.shape(x)))))
    elif kind == "Clip":
        low, high = rng.choice([(0.0, 6.0), (0.25, 1.0), (-1.0, 1.0), (None, 0.5), (-0.5, None), (0.0, None)])
        if s.opset < 11:
            s.flows(*s.node("Clip", [x], **{key: bound for key, bound in (("min", low), ("max", high)) if bound is not None}))
            return
        bounds = [s.number(bound) if bound is not None else "" for bound in (low, high)]
        s.flows(*s.node("Clip", [x, *bounds[: 2 if high is not None else 1]]))
    elif kind == "PRelu":
        channels = s.shape(x)[1]
        rank = len(s.shape(x))
        form = rng.choice([(1,), (channels, *[1] * (rank - 2)), s.shape(x)[1:]])
        s.flows(*s.node(kind, [x, s.constant(np.abs(s.normal(*form)), "slope")]))
    elif kind == "gelu":
        inner = s.node("Add", [s.node("Erf", [s.node("Div", [x, s.number(2**0.5)])[0]])[0], s.number(1.0)])[0]
        s.flows(*s.node("Mul", [s.node("Mul", [x, inner])[0], s.number(0.5)]))
    elif kind == "silu":
        s.flows(*s.node("Mul", [x, s.node("Sigmoid", [x])[0]]))
    elif kind == "Dropout":
        s.flows(*s.node(kind, [x, s.number(0.3)] if s.opset >= 12 else [x]))
    else:
        s.flows(*s.node(kind, [x]))


def keeping_zero(s: Sketch, x: str) -> None:
    """An activation that is zero at zero."""
    s.flows(*s.node(s.rng.choice(["Relu", "Relu", "Tanh", "LeakyRelu", "Elu", "Abs", "Erf", "Softsign", "Neg"]), [x]))


def added(s: Sketch, x: str) -> None:
    """Two values of one shape, added."""
    same = [name for name in s.pool if s.shape(name) == s.shape(x) and s.arrays[name].dtype == np.float32]
    s.flows(*s.node("Add", [x, s.rng.choice(same)]))


def arithmetic(s: Sketch, x: str) -> None:
    """Two values of one shape, or a value and a constant that is broadcast, in either order."""
    rng, shape = s.rng, s.shape(x)
    kind = rng.choice(["Add", "Add", "Sub", "Mul", "Max", "Min", "Div", "Sum", "Mean", "Pow"])
    same = [name for name in s.pool if s.shape(name) == shape and s.arrays[name].dtype == np.float32]
    if kind == "Pow":
        s.flows(*s.node("Pow", [x, s.number(rng.choice([1.0, 2.0, 3.0]))]))
    elif kind == "Div":
        s.flows(*s.node("Div", [x, s.constant(np.abs(s.normal(*_broadcast(s, shape))) + 0.5, "d")]))
    elif same and rng.random() < 0.6:
        s.flows(*s.node(kind, [x, rng.choice(same)]))
    else:
        other = s.constant(s.normal(*_broadcast(s, shape)), "k")
        s.flows(*s.node(kind, rng.choice([[x, other], [other, x]])))


def scaled_by_channel(s: Sketch, x: str) -> None:
    """Squeeze and excitation: a factor for each channel from its mean."""
    shape = s.shape(x)
    mean = s.node("GlobalAveragePool", [x])[0]
    channels, narrow = shape[1], s.rng.choice([1, 2])
    ones = [1] * (len(shape) - 2)
    first = s.node("Relu", s.node("Conv", [mean, s.weight(narrow, channels, *ones)]))[0]
    gate = s.node("Sigmoid", s.node("Conv", [first, s.weight(channels, narrow, *ones), s.constant(s.normal(channels), "b")]))[0]
    s.flows(*s.node("Mul", s.rng.choice([[x, gate], [gate, x]])))


def selected(s: Sketch, x: str) -> None:
    """Where, by a comparison with a number."""
    s.is_rough = True
    condition = s.node(s.rng.choice(["Greater", "Less"]), [x, s.number(0.1)])[0]
    s.flows(*s.node("Where", [condition, x, s.number(s.rng.choice([0.0, -1.0]))]))


def branch(s: Sketch, x: str) -> None:
    """An If, its condition constant or dependent on the data, whose branches hold weights of one name and read outer ones."""
    rng, width = s.rng, s.shape(x)[-1]
    outer = s.weight(width, 2)
    by_data = rng.random() < 0.5
    if by_data:
        s.is_fixed = s.is_rough = True
        total = s.node("ReduceSum", [x], keepdims=0)[0]
        condition = s.node("Greater", [total, s.number(-1e6)])[0]
    else:
        condition = s.constant(np.array(rng.random() < 0.5), "cond")
    graphs = {}
    for name in ("then_branch", "else_branch"):
        local = f"local{len(s.nodes)}"
        weight = rng.choice([local, outer])
        nodes = [
            helper.make_node("MatMul", [x, weight], [f"{name}_m"]),
            helper.make_node(rng.choice(["Relu", "Tanh"]), [f"{name}_m"], [f"{name}_y"]),
        ]
        stored = [numpy_helper.from_array(s.normal(width, 2, scale=0.5), local)] if weight == local else []
        graphs[name] = helper.make_graph(nodes, name, [], [_untyped(f"{name}_y")], stored)
    s.flows(*s.node("If", [condition], **graphs))


def _untyped(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)


def _broadcast(s: Sketch, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape that broadcasts to one, without the examples: fewer dimensions, some of size one."""
    kept = shape[s.rng.randrange(1, len(shape) + 1) :]
    sizes = tuple(size if s.rng.random() < 0.7 else 1 for size in kept)
    return (1, *sizes) if len(sizes) == len(shape) - 1 and s.rng.random() < 0.3 else sizes
