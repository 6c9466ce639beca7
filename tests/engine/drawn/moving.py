"""Drawn operators that move, cut, join, pool, resize and reduce."""

from __future__ import annotations

import numpy as np

from tests.engine.drawn.sketch import Sketch, Unfit


def pool(s: Sketch, x: str) -> None:
    """Max and average pools with uneven padding, ceiling, dilations; global ones."""
    rng, (_, _, *sizes) = s.rng, s.shape(x)
    kind = rng.choice(["MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"])
    if kind.startswith("Global"):
        s.flows(*s.node(kind, [x]))
        return
    kernel = [rng.choice([1, 2, 3]) for _ in sizes]
    attributes: dict[str, object] = {"kernel_shape": kernel}
    if any(size < reach for size, reach in zip(sizes, kernel, strict=True)):
        raise Unfit("a window larger than the image")
    if rng.random() < 0.7:
        attributes["strides"] = [rng.choice([1, 2]) for _ in sizes]
    if rng.random() < 0.4:
        attributes["pads"] = [rng.choice([0, size // 2, size - 1]) for size in kernel * 2]
    elif rng.random() < 0.3:
        attributes["auto_pad"] = rng.choice(["SAME_UPPER", "SAME_LOWER"])
    if rng.random() < 0.4:
        attributes["ceil_mode"] = 1
    if kind == "AveragePool" and rng.random() < 0.5:
        attributes["count_include_pad"] = 1
    if rng.random() < 0.25 and (kind == "MaxPool" or s.opset >= 19) and "auto_pad" not in attributes:
        attributes["dilations"] = [rng.choice([1, 2]) for _ in sizes]
    s.flows(*s.node(kind, [x], **attributes))


def transpose(s: Sketch, x: str) -> None:
    """Any order of all dimensions but the first."""
    rest = list(range(1, len(s.shape(x))))
    s.rng.shuffle(rest)
    s.flows(*s.node("Transpose", [x], perm=[0, *rest]))


def reshape(s: Sketch, x: str) -> None:
    """Merges, splits and both at once, by sizes, zeros and an open one."""
    rng, (_, *rest) = s.rng, s.shape(x)
    total = int(np.prod(rest))
    divisors = [d for d in range(1, total + 1) if total % d == 0]
    first = rng.choice(divisors)
    second = rng.choice([d for d in divisors if (total // first) % d == 0])
    targets = [[total], [first, total // first], [first, second, total // first // second], [1, total], [total, 1], [*rest, 1]]
    target = [rng.choice([0, -1]), *rng.choice(targets)]
    if target[0] == 0 and rng.random() < 0.5:
        target[rng.randrange(1, len(target))] = -1
    elif rng.random() < 0.2:
        target = [0] * len(rest) + [-1] if len(rest) > 1 else target
    s.flows(*s.node("Reshape", [x, s.ints(*target)]))


def flatten(s: Sketch, x: str) -> None:
    """Flatten to a matrix."""
    s.flows(*s.node("Flatten", [x], **s.rng.choice([{}, {"axis": 1}, {"axis": 1 - len(s.shape(x))}])))


def stretch(s: Sketch, x: str) -> None:
    """Dimensions of size one come, go, and are repeated."""
    rng, shape = s.rng, s.shape(x)
    kind = rng.choice(["Unsqueeze", "Squeeze", "Expand", "Tile"])
    if kind == "Unsqueeze" and len(shape) < 5:
        s.flows(*with_axes(s, kind, x, [rng.randrange(1, len(shape) + 1)]))
    elif kind == "Squeeze" and 1 in shape[1:]:
        s.flows(*with_axes(s, kind, x, [rng.choice([i for i, size in enumerate(shape) if size == 1])]))
    elif kind == "Expand":
        s.flows(*s.node(kind, [x, s.ints(*[1] * rng.choice([0, 1]), *[2 if size == 1 and i else 1 for i, size in enumerate(shape)])]))
    elif kind == "Tile":
        s.flows(*s.node(kind, [x, s.ints(1, *[rng.choice([1, 1, 2]) for _ in shape[1:]])]))
    else:
        raise Unfit(kind)


def cut(s: Sketch, x: str) -> None:
    """Slice with steps, from the end and backwards; Split in equal and unequal parts; Gather of one place, several, and none known."""
    rng, shape = s.rng, s.shape(x)
    axis = rng.randrange(1, len(shape))
    size = shape[axis]
    kind = rng.choice(["Slice", "Slice", "Split", "Gather", "one"])
    named = axis if rng.random() < 0.5 else axis - len(shape)
    if kind == "Slice":
        start, end, step = rng.choice(
            [
                (0, size, 1),
                (1, 2**31, 1),
                (-2, 2**62, 1),
                (0, -1, 1),
                (0, size, 2),
                (-1, -(2**31), -1),
                (size, 0, -1),
                (-1, -size - 1, -1),
                (size - 1, 0, -2),
            ]
        )
        if s.opset >= 10:
            s.flows(*s.node("Slice", [x, s.ints(start), s.ints(end), s.ints(named), s.ints(step)]))
        elif step == 1:
            s.flows(*s.node("Slice", [x], starts=[start], ends=[end], axes=[axis]))
    elif kind == "Split" and size > 1:
        sizes = rng.choice([[1, size - 1], [size - 1, 1], [size // 2] * 2 if size % 2 == 0 else [size // 2, size - size // 2]])
        given = (
            s.node("Split", [x, s.ints(*sizes)], len(sizes), axis=named)
            if s.opset >= 13
            else s.node("Split", [x], len(sizes), axis=named, split=sizes)
        )
        s.flows(*given)
    elif kind == "Gather":
        places = [rng.randrange(-size, size) for _ in range(rng.choice([1, 2, 3]))]
        s.flows(*s.node("Gather", [x, s.ints(*places)], axis=named))
    else:
        s.flows(*s.node("Gather", [x, s.constant(np.array(rng.randrange(-size, size)), "i")], axis=named))


def join(s: Sketch, x: str) -> None:
    """Concat with another value, with itself, or with a constant row that is spread over the batch."""
    rng, shape = s.rng, s.shape(x)
    axis = rng.randrange(1, len(shape))
    others = [
        name
        for name in s.pool
        if len(s.shape(name)) == len(shape)
        and all(a == b for i, (a, b) in enumerate(zip(s.shape(name), shape, strict=True)) if i != axis)
        and s.arrays[name].dtype == s.arrays[x].dtype
    ]
    s.flows(
        *s.node("Concat", rng.choice([[x, rng.choice(others)], [rng.choice(others), x, x]]), axis=rng.choice([axis, axis - len(shape)]))
    )


def pad(s: Sketch, x: str) -> None:
    """Pad in every mode, uneven and negative."""
    rng, shape = s.rng, s.shape(x)
    mode = rng.choice(["constant", "constant", "reflect", "edge"])
    amounts = [[0, *[rng.choice([0, 0, 1, 2 if mode == "constant" else 1]) for _ in shape[1:]]] for _ in range(2)]
    if mode == "constant" and rng.random() < 0.2:
        amounts[0][-1] = -1
    if s.opset < 11:
        s.flows(*s.node("Pad", [x], pads=[*amounts[0], *amounts[1]], mode=mode, value=rng.choice([0.0, 1.5])))
        return
    fill = [s.number(rng.choice([0.0, 1.5]))] if mode == "constant" and rng.random() < 0.5 else []
    s.flows(*s.node("Pad", [x, s.ints(*amounts[0], *amounts[1]), *fill], mode=mode))


def resize(s: Sketch, x: str) -> None:
    """Resize by factors or to sizes, where images are."""
    rng, sizes = s.rng, s.shape(x)[2:]
    mode, coordinates = rng.choice(
        [("nearest", "asymmetric"), ("linear", "half_pixel"), ("linear", "align_corners"), ("nearest", "half_pixel")]
    )
    attributes: dict[str, object] = {"mode": mode, "coordinate_transformation_mode": coordinates}
    if mode == "nearest":
        attributes["nearest_mode"] = rng.choice(["floor", "round_prefer_floor"])
    factors = [rng.choice([1.0, 2.0, 1.5, 3.0]) for _ in sizes]
    if s.opset < 11:
        scales = [1.0, 1.0, *factors]
        if s.opset < 9:
            s.flows(*s.node("Upsample", [x], mode="nearest", scales=scales))
        else:
            s.flows(
                *s.node("Upsample" if s.opset == 9 else "Resize", [x, s.constant(np.array(scales, np.float32), "factors")], mode="nearest")
            )
        return
    s.flows(*s.node("Resize", [x, "", s.constant(np.array([1, 1, *factors], np.float32), "factors")], **attributes))


def shuffle(s: Sketch, x: str) -> None:
    """DepthToSpace in both orders, SpaceToDepth."""
    if s.rng.random() < 0.5:
        s.flows(*s.node("SpaceToDepth", [x], blocksize=2))
    else:
        s.flows(*s.node("DepthToSpace", [x], blocksize=2, mode=s.rng.choice(["DCR", "CRD"])))


def reduce(s: Sketch, x: str) -> None:
    """A reduction over some dimensions, kept or not."""
    rng, shape = s.rng, s.shape(x)
    kind = rng.choice(
        [
            "ReduceMean",
            "ReduceMean",
            "ReduceSum",
            "ReduceMax",
            "ReduceMin",
            "ReduceL2",
            "ReduceL1",
            "ReduceLogSumExp",
            "ReduceSumSquare",
            "ReduceProd",
        ]
    )
    axes = rng.sample(range(1, len(shape)), rng.randrange(1, len(shape)))
    axes = [axis - len(shape) if rng.random() < 0.4 else axis for axis in axes]
    s.flows(*with_axes(s, kind, x, axes, keepdims=rng.choice([0, 1]) if len(axes) < len(shape) - 1 or rng.random() < 0.5 else 1))


def choose(s: Sketch, x: str) -> None:
    """The place of an extreme, the largest few, running sums, one-hot."""
    rng, shape = s.rng, s.shape(x)
    axis = rng.randrange(1, len(shape))
    kind = rng.choice(["ArgMax", "TopK", "CumSum", "Trilu", "Einsum"])
    s.is_rough |= kind in ("ArgMax", "TopK")
    if kind == "ArgMax":
        (places,) = s.node(rng.choice(["ArgMax", "ArgMin"]), [x], axis=axis, keepdims=rng.choice([0, 1]))
        s.flows(*s.node("Cast", [places], to=1))
    elif kind == "TopK":
        if s.opset < 10:
            s.flows(s.node("TopK", [x], 2, axis=axis, k=rng.randrange(1, shape[axis] + 1))[0])
            return
        if s.opset < 11:
            s.flows(s.node("TopK", [x, s.ints(rng.randrange(1, shape[axis] + 1))], 2, axis=axis)[0])
            return
        values, places = s.node("TopK", [x, s.ints(rng.randrange(1, shape[axis] + 1))], 2, axis=axis, largest=rng.choice([0, 1]))
        s.flows(values)
    elif kind == "CumSum":
        s.flows(*s.node("CumSum", [x, s.constant(np.array(axis), "axis")], exclusive=rng.choice([0, 1]), reverse=rng.choice([0, 1])))
    elif kind == "Trilu" and len(shape) > 2 and s.opset >= 14:
        s.flows(*s.node("Trilu", [x, s.constant(np.array(rng.choice([-1, 0, 1])), "k")], upper=rng.choice([0, 1])))
    elif kind == "Einsum" and len(shape) == 3:
        weight = s.weight(shape[2], 3)
        s.flows(*s.node("Einsum", [x, weight], equation=rng.choice(["btf,fo->bto", "btf,fo->bot", "...f,fo->...o"])))
    else:
        raise Unfit(kind)


def with_axes(s: Sketch, kind: str, x: str, axes: list[int], **attributes: object) -> list[str]:
    """An operator whose axes are an attribute in older opsets and an input in newer ones."""
    since = 13 if kind in ("Squeeze", "Unsqueeze", "ReduceSum") else 18
    if s.opset >= since:
        return s.node(kind, [x, s.ints(*axes)], **attributes)
    return s.node(kind, [x], axes=axes, **attributes)
