"""Drawn operators that hold weights."""

from __future__ import annotations

import numpy as np
from onnx import helper

from tests.engine.drawn.sketch import Sketch, Unfit


def convolution(s: Sketch, x: str) -> None:
    """Conv of one to three dimensions: groups, strides, dilations, uneven or automatic padding, with and without a bias."""
    rng, (_, channels, *sizes) = s.rng, s.shape(x)
    group = rng.choice([d for d in range(1, channels + 1) if channels % d == 0])
    if s.keeps_zero:
        group = rng.choice([1, 1, channels])
    out = channels if s.keeps_zero and group > 1 else group * rng.choice([1, 2, 3, 4])
    kernel = [rng.choice([1, 2, 3]) for _ in sizes]
    weight = s.weight(out, channels // group, *kernel)
    attributes: dict[str, object] = {"group": group}
    if rng.random() < 0.5:
        attributes["strides"] = [rng.choice([1, 2]) for _ in sizes]
    if rng.random() < 0.3:
        attributes["dilations"] = [rng.choice([1, 2]) for _ in sizes]
    if rng.random() < 0.2:
        attributes["auto_pad"] = rng.choice(["SAME_UPPER", "SAME_LOWER", "VALID"])
        attributes.pop("dilations", None)
    elif rng.random() < 0.7:
        attributes["pads"] = [rng.choice([0, 1, 1, 2]) for _ in range(2 * len(sizes))]
    if rng.random() < 0.5:
        attributes["kernel_shape"] = kernel
    s.flows(*s.node("Conv", [x, weight, *_bias(s, out)], **attributes))


def transposed_convolution(s: Sketch, x: str) -> None:
    """ConvTranspose: grouped and depthwise, with output padding or an output size."""
    rng, (_, channels, *sizes) = s.rng, s.shape(x)
    group = rng.choice([d for d in range(1, channels + 1) if channels % d == 0])
    group = 1 if s.keeps_zero else group
    each = rng.choice([1, 2]) if not s.keeps_zero else rng.choice([2, 4])
    weight = s.constant(s.normal(channels, each, *[rng.choice([2, 3]) for _ in sizes], scale=0.5))
    attributes: dict[str, object] = {"group": group, "strides": [rng.choice([1, 2]) for _ in sizes]}
    if rng.random() < 0.3:
        attributes["pads"] = [rng.choice([0, 1]) for _ in range(2 * len(sizes))]
    if rng.random() < 0.3:
        attributes["output_padding"] = [rng.choice([0, step - 1]) for step in attributes["strides"]]  # type: ignore[attr-defined]
    if rng.random() < 0.2:
        attributes = {"group": group, "strides": [2] * len(sizes), "auto_pad": rng.choice(["SAME_UPPER", "SAME_LOWER"])}
    s.flows(*s.node("ConvTranspose", [x, weight, *_bias(s, each * group)], **attributes))


def gemm(s: Sketch, x: str) -> None:
    """Gemm with every form of its bias, scaled and transposed."""
    rng, (_, width) = s.rng, s.shape(x)
    out, transposed = rng.choice([1, 2, 3, 5, 8]), rng.random() < 0.5
    weight = s.weight(*((out, width) if transposed else (width, out)))
    forms = [(out,), (1, out), (1,), (), (1, 1)]
    bias = [s.constant(s.normal(*rng.choice(forms), scale=0.3), "b")] if rng.random() < 0.8 or s.opset < 11 else []
    attributes: dict[str, object] = {"transB": int(transposed)} if transposed or rng.random() < 0.5 else {}
    if rng.random() < 0.3:
        attributes |= {"alpha": rng.choice([0.5, 2.0]), "beta": rng.choice([0.5, 1.0, 0.0, -1.0])}
    s.flows(*s.node("Gemm", [x, weight, *bias], **attributes))


def product(s: Sketch, x: str) -> None:
    """MatMul with a weight of one to four dimensions, a bias added on either side, or not at all."""
    rng, shape = s.rng, s.shape(x)
    out = rng.choice([1, 2, 4, 6])
    forms: list[tuple[int, ...]] = [(shape[-1], out)] * 4 + [(shape[-1],)]
    if len(shape) > 2:
        forms += [(1, shape[-1], out)] + ([(shape[-3], shape[-1], out), (1, 1, shape[-1], out)] if len(shape) == 4 else [])
    form = rng.choice(forms)
    (y,) = s.node("MatMul", [x, s.constant(s.normal(*form, scale=1 / np.sqrt(shape[-1])))])
    if rng.random() < 0.6 and not s.keeps_zero:
        bias = s.constant(s.normal(*rng.choice([s.shape(y)[-1:], (1,), (1, *s.shape(y)[1:])]), scale=0.3), "b")
        (y,) = s.node("Add", rng.choice([[y, bias], [bias, y]]))
    s.flows(y)


def product_from_the_left(s: Sketch, x: str) -> None:
    """A weight that multiplies from the left."""
    shape = s.shape(x)
    weight = s.weight(s.rng.choice([1, 2, 5]), shape[-2])
    s.flows(*s.node("MatMul", [weight, x]))


def batch_norm(s: Sketch, x: str) -> None:
    """BatchNormalization with trained statistics."""
    channels = s.shape(x)[1]
    tensors = [s.normal(channels), s.normal(channels), s.normal(channels), np.abs(s.normal(channels)) + 0.3]
    names = [s.constant(array, hint) for array, hint in zip(tensors, ("scale", "bias", "mean", "var"), strict=True)]
    s.flows(*s.node("BatchNormalization", [x, *names], **({"epsilon": 1e-3} if s.rng.random() < 0.3 else {})))


def normalization(s: Sketch, x: str) -> None:
    """Layer, instance, group or RMS normalization, or one across channels."""
    rng, shape = s.rng, s.shape(x)
    kinds = ["LpNormalization", "MeanVarianceNormalization"]
    kinds += ["InstanceNormalization", "LRN", "GroupNormalization"] if len(shape) > 3 or (len(shape) == 3 and rng.random() < 0.5) else []
    kinds += ["LayerNormalization"] * 3 if s.opset >= 17 else []
    kinds += ["RMSNormalization"] if s.opset >= 23 else []
    kind = rng.choice(kinds)
    if kind in ("LayerNormalization", "RMSNormalization"):
        axis = rng.choice([-1, len(shape) - 1, *range(1, len(shape))])
        dims = shape[axis:]
        bias = [s.constant(s.normal(*dims), "b")] if kind == "LayerNormalization" and rng.random() < 0.7 else []
        s.flows(*s.node(kind, [x, s.constant(s.normal(*dims), "scale"), *bias], axis=axis))
    elif kind == "InstanceNormalization":
        s.flows(*s.node(kind, [x, s.constant(s.normal(shape[1]), "scale"), s.constant(s.normal(shape[1]), "b")], epsilon=1e-3))
    elif kind == "GroupNormalization":
        groups = rng.choice([d for d in range(1, shape[1] + 1) if shape[1] % d == 0])
        width = groups if s.opset < 21 else shape[1]
        if s.opset < 18 or (width != shape[1] and s.opset < 21 and rng.random() < 0.5):
            raise Unfit("no GroupNormalization")
        names = [s.constant(s.normal(width), hint) for hint in ("scale", "b")]
        s.flows(*s.node(kind, [x, *names], num_groups=groups))
    elif kind == "LRN":
        s.flows(*s.node(kind, [x], size=rng.choice([1, 3, 5]), alpha=0.1))
    elif kind == "LpNormalization":
        s.flows(*s.node(kind, [x], axis=rng.choice([-1, len(shape) - 1]), p=rng.choice([1, 2])))
    elif len(shape) == 4:
        s.flows(*s.node(kind, [x], axes=rng.choice([[2, 3], [1, 2, 3]])))
    else:
        raise Unfit(kind)


def recurrent(s: Sketch, x: str) -> None:
    """LSTM, GRU and RNN over (examples, time, features): directions, biases, initial states, the whole sequence or the last state."""
    rng, features = s.rng, s.shape(x)[2]
    kind = rng.choice(["LSTM", "GRU", "RNN"])
    gates, hidden = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind], rng.choice([1, 2, 3, 4])
    direction = rng.choice(["forward", "reverse", "bidirectional"])
    directions = 2 if direction == "bidirectional" else 1
    weights = [s.constant(s.normal(directions, gates * hidden, size, scale=0.5)) for size in (features, hidden)]
    bias = s.constant(s.normal(directions, 2 * gates * hidden, scale=0.3), "b") if rng.random() < 0.8 else ""
    attributes: dict[str, object] = {"hidden_size": hidden, "direction": direction}
    if kind == "GRU":
        attributes["linear_before_reset"] = rng.choice([0, 1])
    if kind == "RNN" and rng.random() < 0.5:
        attributes["activations"] = [rng.choice(["Tanh", "Relu"])] * directions
    states: list[str] = []
    if rng.random() < 0.3:
        for _ in range(2 if kind == "LSTM" else 1):
            start = s.constant(s.normal(directions, 1, hidden), "h0")
            shape = s.node("Shape", [x])[0]
            size = s.node("Gather", [shape, s.ints(0)])[0]
            sizes = s.node("Concat", [s.ints(directions), size, s.ints(hidden)], axis=0)[0]
            states += s.node("Expand", [start, sizes])
    source = s.node("Transpose", [x], perm=[1, 0, 2])[0]
    inputs = [source, *weights, bias, "", *states]
    while inputs and not inputs[-1]:
        inputs.pop()
    every, last = s.node(kind, inputs, 2, **attributes)
    if rng.random() < 0.5:
        joined = s.node("Transpose", [every], perm=[2, 0, 1, 3])[0]
        s.flows(*s.node("Reshape", [joined, s.ints(0, 0, directions * hidden)]))
    else:
        s.flows(*s.node("Transpose", [last], perm=[1, 0, 2]))


def embedding(s: Sketch, x: str) -> None:
    """A table that indices look rows up in."""
    s.flows(*s.node("Gather", [s.constant(s.normal(7, s.rng.choice([2, 3, 6])), "table"), x]))


def attention(s: Sketch, x: str) -> None:
    """Self-attention spelled out, with heads, a scale and a mask."""
    rng, (_, steps, width) = s.rng, s.shape(x)
    heads = rng.choice([d for d in range(1, width + 1) if width % d == 0])
    parts = []
    for _ in range(3):
        y = s.node("MatMul", [x, s.weight(width, width)])[0]
        y = s.node("Reshape", [y, s.ints(0, 0, heads, width // heads)])[0]
        parts.append(s.node("Transpose", [y], perm=[0, 2, 1, 3])[0])
    keys = s.node("Transpose", [parts[1]], perm=[0, 1, 3, 2])[0]
    scores = s.node("Mul", [s.node("MatMul", [parts[0], keys])[0], s.number((width // heads) ** -0.5)])[0]
    if rng.random() < 0.6:
        blocked = rng.choice([-np.inf, -1e9, -1e4, float(np.finfo(np.float32).min)])
        mask = np.where(np.tri(steps, dtype=bool), 0.0, blocked).astype(np.float32)
        scores = _masked(s, scores, s.constant(mask, "mask"))
    weights = s.node("Softmax", [scores], axis=-1 if s.opset >= 13 else 3)[0]
    mixed = s.node("Transpose", [s.node("MatMul", [weights, parts[2]])[0]], perm=[0, 2, 1, 3])[0]
    s.flows(*s.node("Reshape", [mixed, s.ints(0, 0, width)]))


def _masked(s: Sketch, scores: str, mask: str) -> str:
    """Masked scores, which are beyond what a sketch allows of other values."""
    name = s.name("masked")
    with np.errstate(over="ignore"):
        s.arrays[name] = s.arrays[scores] + s.constants[mask]
    s.nodes.append(helper.make_node("Add", [scores, mask], [name], name=""))
    return name


def _bias(s: Sketch, width: int) -> list[str]:
    return [s.constant(s.normal(width, scale=0.3), "b")] if s.rng.random() < 0.6 else []
