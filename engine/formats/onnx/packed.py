"""Weights of an ONNX file that are stored as indices of 1, 2, 4 or 8 bits into a small table of levels, unpacked by standard operators.

    weight = Reshape(Gather(levels, Cast(BitwiseAnd(BitShift(packed, shifts), mask)))) · scale

Everything follows from constants, so that a runtime computes it once, when it loads the file, and the network runs as fast as a float one.
Needs operator set 18, which has BitwiseAnd.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 18
WIDTHS = (1, 2, 4, 8)
"""Bits of an index in a file."""


@dataclass(frozen=True)
class Indexed:
    """A weight as indices into levels."""

    indices: NDArray[np.uint8]
    """In the weight's shape."""
    levels: NDArray[np.float32]
    scale: NDArray[np.float32] | None = None
    """Factor on every index of dimension `axis`."""
    axis: int | None = None

    @property
    def bits(self) -> int:
        """Bits of an index in a file."""
        return next(width for width in WIDTHS if len(self.levels) <= 2**width)

    def values(self) -> NDArray[np.float32]:
        """The weight."""
        found: NDArray[np.float32] = self.levels[self.indices]
        if self.scale is None or self.axis is None:
            return found
        shape = [1] * found.ndim
        shape[self.axis] = -1
        scaled: NDArray[np.float32] = found * self.scale.reshape(shape)
        return scaled


@dataclass(frozen=True)
class Stored:
    """How a file holds one weight in few bits."""

    values: NDArray[np.float32]
    bits: int
    bytes: int
    """Of the indices, the levels and the scale."""


def pack_bits(indices: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Numbers of 1, 2, 4 or 8 bits in row-major order, the first in the highest bits of a byte, the last byte filled with zeros."""
    flat, each = indices.reshape(-1), 8 // bits
    filled = np.zeros((-(-len(flat) // each), each), np.uint8)
    filled.reshape(-1)[: len(flat)] = flat
    packed: NDArray[np.uint8] = np.bitwise_or.reduce(filled << np.arange(8 - bits, -1, -bits, dtype=np.uint8), axis=1)
    return packed.astype(np.uint8)


def pack(model: onnx.ModelProto, weights: Mapping[str, Indexed]) -> onnx.ModelProto:
    """Store the named initializers in few bits, in place; whoever reads them reads what is computed from the bits.

    Raises ValueError where the operator set is older than 18.
    """
    version = max((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), default=0)
    if weights and version < OPSET:
        raise ValueError(f"packed weights need operator set {OPSET}, the model has {version}")
    graph = model.graph
    kept = [item for item in graph.initializer if item.name not in weights]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    nodes: list[onnx.NodeProto] = []
    shared: dict[str, onnx.TensorProto] = {}
    for name, weight in weights.items():
        nodes += _unpacking(name, weight, graph, shared)
    graph.initializer.extend(shared.values())
    nodes += graph.node
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def _unpacking(name: str, weight: Indexed, graph: onnx.GraphProto, shared: dict[str, onnx.TensorProto]) -> list[onnx.NodeProto]:
    nodes: list[onnx.NodeProto] = []
    bits, count = weight.bits, weight.indices.size

    def add(kind: str, inputs: list[str], part: str, **attributes: Any) -> str:
        output = f"{name}.{part}" if part else name
        nodes.append(helper.make_node(kind, inputs, [output], f"{name}.{kind}_{len(nodes)}", **attributes))
        return output

    def constant(part: str, array: NDArray[Any]) -> str:
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), f"{name}.{part}"))
        return f"{name}.{part}"

    def common(wanted: str, array: NDArray[Any]) -> str:
        shared.setdefault(wanted, numpy_helper.from_array(array, wanted))
        return wanted

    packed = pack_bits(weight.indices, bits)
    if bits < 8:
        shifts = common(f"unpack.shifts{bits}", np.arange(8 - bits, -1, -bits, dtype=np.uint8)[None])
        last = add("BitShift", [constant("indices", packed[:, None]), shifts], "shifted", direction="RIGHT")
        last = add("BitwiseAnd", [last, common(f"unpack.mask{bits}", np.array(2**bits - 1, np.uint8))], "masked")
    else:
        last = constant("indices", packed)
    last = add("Cast", [last], "cast", to=TensorProto.INT32)
    last = add("Gather", [constant("levels", weight.levels), last], "looked_up", axis=0)
    if 8 * len(packed) != count * bits:
        last = add("Reshape", [last, common("unpack.flat", np.array([-1], np.int64))], "flat")
        last = add("Slice", [last, common("unpack.start", np.array([0], np.int64)), constant("count", np.array([count], np.int64))], "cut")
    shape = constant("shape", np.array(weight.indices.shape, np.int64))
    scaled = weight.scale is not None and weight.axis is not None
    last = add("Reshape", [last, shape], "unscaled" if scaled else "")
    if scaled:
        assert weight.scale is not None
        assert weight.axis is not None
        factors = [1] * weight.indices.ndim
        factors[weight.axis] = -1
        add("Mul", [last, constant("scale", weight.scale.reshape(factors))], "")
    return nodes


def stored(graph: onnx.GraphProto) -> dict[str, Stored]:
    """The weights that a graph holds in this form, by the name of the tensor that is read."""
    constants = {item.name: item for item in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    found = {}
    for node in graph.node:
        if node.op_type == "Gather" and node.input[0] in constants and node.input[0].endswith(".levels"):
            name = node.input[0].removesuffix(".levels")
            weight = _read(name, constants, producers)
            if weight is not None:
                found[name] = weight
    return found


def unpacked(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with such weights as plain initializers; the model itself where there are none."""
    weights = stored(model.graph)
    if not weights:
        return model
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    nodes = [node for node in copied.graph.node if not any(node.output[0] == name or _part_of(node.output[0], name) for name in weights)]
    kept = [item for item in copied.graph.initializer if not any(_part_of(item.name, name) for name in weights)]
    kept = [item for item in kept if not item.name.startswith("unpack.")]
    del copied.graph.node[:], copied.graph.initializer[:]
    copied.graph.node.extend(nodes)
    copied.graph.initializer.extend([*kept, *(numpy_helper.from_array(item.values, name) for name, item in weights.items())])
    return copied


_PARTS = frozenset(["shifted", "masked", "cast", "looked_up", "flat", "cut", "unscaled", "indices", "levels", "scale", "shape", "count"])


def _part_of(name: str, weight: str) -> bool:
    return name.startswith(f"{weight}.") and name.removeprefix(f"{weight}.") in _PARTS


def _read(name: str, constants: Mapping[str, onnx.TensorProto], producers: Mapping[str, onnx.NodeProto]) -> Stored | None:
    """The weight behind a table of levels, where its nodes and constants are the very ones that `pack` writes."""
    parts = {part: numpy_helper.to_array(constants[f"{name}.{part}"]) for part in _PARTS if f"{name}.{part}" in constants}
    if not {"indices", "levels", "shape"} <= set(parts) or parts["indices"].dtype != np.uint8 or parts["levels"].dtype != np.float32:
        return None
    shape, packed = tuple(int(size) for size in parts["shape"].reshape(-1)), parts["indices"].reshape(-1)
    levels, scale = parts["levels"], parts.get("scale")
    bits = next((width for width in WIDTHS if levels.ndim == 1 and len(levels) <= 2**width), 0)
    count = math.prod(shape)
    if not bits or min(shape, default=1) < 0 or len(packed) != -(-count * bits // 8):
        return None
    numbers = ((packed[:, None] >> np.arange(8 - bits, -1, -bits, dtype=np.uint8)) & np.uint8(2**bits - 1)).reshape(-1)[:count]
    if numbers.max(initial=0) >= len(levels):
        return None
    axis = None
    if scale is not None:
        wide = [dim for dim, size in enumerate(scale.shape) if size != 1]
        axis = wide[0] if wide else 0
        if scale.dtype != np.float32 or len(wide) > 1 or scale.ndim != len(shape) or not shape or scale.size not in (1, shape[axis]):
            return None
    weight = Indexed(numbers.reshape(shape), levels, scale, axis)
    made, shared = onnx.GraphProto(), dict[str, onnx.TensorProto]()
    for node in _unpacking(name, weight, made, shared):
        found = producers.get(node.output[0])
        if found is None or (found.op_type, found.input, found.attribute) != (node.op_type, node.input, node.attribute):
            return None
    for item in (*made.initializer, *shared.values()):
        if item.name not in constants or not _equal(constants[item.name], item):
            return None
    return Stored(weight.values(), bits, packed.nbytes + levels.nbytes + (0 if scale is None else scale.nbytes))


def _equal(left: onnx.TensorProto, right: onnx.TensorProto) -> bool:
    one, other = numpy_helper.to_array(left), numpy_helper.to_array(right)
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
