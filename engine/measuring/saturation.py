"""What 8-bit products give on a processor without VNNI, on any processor.

Such a processor multiplies unsigned by signed bytes and adds two neighbouring products in 16 bits (`vpmaddubsw`), where anything above
32767 is cut. A network whose accuracy depends on that has one accuracy here and another one there. Two weights of a sign that
add up to no more than 128 cannot be cut; where all are such, both kinds of processor agree by construction. Where not, the graph is
written with what is cut taken off in floating point: a file that runs without the runtime's optimizations gives the saturated result.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from engine.formats.onnx.contents import all_nodes
from engine.formats.onnx.naming import FreshNames
from engine.formats.onnx.weights import int_attribute

SAFE_SUM = 128
"""Two weights that add up to this stay below 32767 with any two unsigned bytes."""
_LOW, _HIGH = -32768.0, 32767.0
_INTEGER = {"MatMulInteger": 1, "ConvInteger": 1}
_QDQ = {"Conv": 1, "Gemm": 1, "MatMul": 1}
Bytes = NDArray[np.int8]


@dataclass(frozen=True)
class Product:
    """One 8-bit product of a graph whose weights may saturate."""

    node: onnx.NodeProto
    channels: int
    """Second dimension of the weight: input channels of a group, of a convolution."""
    rows: Bytes
    """One row for each output, inputs in the order in which the kernel adds them."""
    data: str
    """The bytes that it multiplies with."""
    point: str
    """Their zero point; empty where it is zero."""
    scales: tuple[str, ...]
    """The scales of both sides, where the product is widened; none where it stays an integer."""


@dataclass(frozen=True)
class Saturation:
    """What a file's weights allow."""

    products: tuple[Product, ...]
    """Those that may saturate and can be written as if they did."""
    unknown: tuple[str, ...]
    """Names of nodes that may saturate, whose inside is not to be seen."""

    @property
    def possible(self) -> bool:
        """Whether any product may saturate."""
        return bool(self.products or self.unknown)


def inspect(path: Path) -> Saturation | None:
    """Which products of a file may saturate; None where no product of it is made of 8-bit numbers."""
    model = onnx.load(path)
    constants = {item.name: item for item in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    outer = {id(node) for node in model.graph.node}
    found: list[Product] = []
    unknown: list[str] = []
    seen = False
    for node in all_nodes(model):
        if node.op_type == "DynamicQuantizeLSTM":
            seen = True
            if any(_largest_pair(_lstm_rows(constants[name])) > SAFE_SUM for name in node.input[1:3] if name in constants):
                unknown.append(node.name)
            continue
        product = _product(node, constants, makers)
        if product is None:
            continue
        seen = True
        if _widens_first(product) or _largest_pair(product.rows) <= SAFE_SUM:
            continue
        if id(node) in outer:
            found.append(product)
        else:
            unknown.append(node.name)
    return Saturation(tuple(found), tuple(unknown)) if seen else None


def write_saturated(path: Path, target: Path) -> None:
    """Write the file as it computes without VNNI, for a session without optimizations."""
    found = inspect(path)
    model = onnx.load(path)
    writer = _Writer(model)
    products = {product.node.name: product for product in found.products} if found is not None else {}
    for node in list(model.graph.node):
        if node.name in products:
            writer.saturate(node, products[node.name])
        else:
            writer.nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(writer.nodes)
    onnx.save(model, target)


def _product(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto], makers: dict[str, onnx.NodeProto]) -> Product | None:
    kind = node.op_type
    if kind in _INTEGER and node.input[1] in constants and constants[node.input[1]].data_type == TensorProto.INT8:
        weight = numpy_helper.to_array(constants[node.input[1]])
        return Product(node, weight.shape[1], _rows(node, weight), node.input[0], node.input[2] if len(node.input) > 2 else "", ())
    if kind not in _QDQ:
        return None
    data, widened = (makers.get(name) for name in node.input[:2])
    if data is None or widened is None or data.op_type != "DequantizeLinear" or widened.op_type != "DequantizeLinear":
        return None
    stored = constants.get(widened.input[0])
    if stored is None or stored.data_type != TensorProto.INT8 or len(data.input) < 2 or len(stored.dims) < 2:
        return None
    point = data.input[2] if len(data.input) > 2 else ""
    rows = _rows(node, numpy_helper.to_array(stored))
    return Product(node, stored.dims[1], rows, data.input[0], point, (data.input[1], widened.input[1]))


def _rows(node: onnx.NodeProto, weight: Bytes) -> Bytes:
    """The weight as (outputs, inputs): channels last inside of a convolution, whose kernels see images so."""
    if node.op_type in ("Conv", "ConvInteger"):
        return np.ascontiguousarray(np.moveaxis(weight, 1, -1).reshape(len(weight), -1))
    if node.op_type == "Gemm" and int_attribute(node, "transB"):
        return weight
    return np.ascontiguousarray(np.moveaxis(weight, -2, -1).reshape(-1, weight.shape[-2]))


def _lstm_rows(tensor: onnx.TensorProto) -> Bytes:
    weight = numpy_helper.to_array(tensor)
    return np.ascontiguousarray(weight.transpose(0, 2, 1).reshape(-1, weight.shape[1]))


def _widens_first(product: Product) -> bool:
    """Whether a kernel multiplies in 32 bits: depthwise convolutions have one of their own."""
    return "Conv" in product.node.op_type and int_attribute(product.node, "group", 1) > 1 and product.channels == 1


def _pairs(rows: Bytes) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    wide = rows.astype(np.int32)
    if wide.shape[1] % 2:
        wide = np.concatenate([wide, np.zeros((len(wide), 1), np.int32)], axis=1)
    return wide[:, 0::2], wide[:, 1::2]


def _dangerous(rows: Bytes) -> NDArray[np.bool_]:
    left, right = _pairs(rows)
    return np.asarray((np.maximum(left, 0) + np.maximum(right, 0) > SAFE_SUM) | (np.minimum(left, 0) + np.minimum(right, 0) < -SAFE_SUM))


def _largest_pair(rows: Bytes) -> int:
    left, right = _pairs(rows)
    up = np.maximum(left, 0) + np.maximum(right, 0)
    down = np.maximum(-left, 0) + np.maximum(-right, 0)
    return int(max(up.max(initial=0), down.max(initial=0)))


class _Writer:
    """Writes products and takes off what is cut."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model, self._names = model, FreshNames(model.graph)
        self._types = {item.name: item.data_type for item in model.graph.initializer}
        self.nodes: list[onnx.NodeProto] = []

    def saturate(self, node: onnx.NodeProto, product: Product) -> None:
        """The node, and behind it the same tensor less what a 16-bit sum cuts off."""
        result = node.output[0]
        exact = self._names.claim(f"{result}_exact")
        node.output[0] = exact
        self.nodes.append(node)
        wide = self._add("Cast", [product.data], to=TensorProto.FLOAT)
        if self._types.get(product.point) == TensorProto.INT8:  # kernels shift signed bytes by 128
            wide = self._add("Add", [wide, self._constant(np.float32(128))])
        excess = self._of_convolution(node, product, wide) if "Conv" in node.op_type else self._of_matrix(node, product, wide)
        if not product.scales:
            total = self._add("Sub", [self._add("Cast", [exact], to=TensorProto.FLOAT), excess])
            self.nodes.append(helper.make_node("Cast", [total], [result], self._names.claim(f"{result}_saturated"), to=TensorProto.INT32))
            return
        step = self._add("Mul", list(product.scales))
        if "Conv" in node.op_type:
            shape = self._constant(np.array([-1, *(1,) * self._spatial(node)], np.int64))
            step = self._add("Reshape", [step, shape])
        scaled = self._add("Mul", [excess, step])
        self.nodes.append(helper.make_node("Sub", [exact, scaled], [result], self._names.claim(f"{result}_saturated")))

    def _of_matrix(self, node: onnx.NodeProto, product: Product, wide: str) -> str:
        danger = _dangerous(product.rows)
        most = int(danger.sum(1).max())
        outputs = len(product.rows)
        left, right = _pairs(product.rows)
        places, first, second = np.zeros((outputs, most), np.int64), np.zeros((outputs, most)), np.zeros((outputs, most))
        for row in range(outputs):
            found = np.flatnonzero(danger[row])
            places[row, : len(found)], first[row, : len(found)], second[row, : len(found)] = found, left[row, found], right[row, found]
        inputs = product.rows.shape[1]
        parts = []
        for offset, weights in ((0, first), (1, second)):
            taken = self._add("Gather", [wide, self._constant(np.minimum(2 * places + offset, inputs - 1))], axis=-1)
            parts.append(self._add("Mul", [taken, self._constant(weights.astype(np.float32))]))
        return self._sum(self._cut(self._add("Add", parts)))

    def _of_convolution(self, node: onnx.NodeProto, product: Product, wide: str) -> str:
        groups = int_attribute(node, "group", 1)
        weight = numpy_helper.to_array(next(item for item in self._model.graph.initializer if item.name == self._weight_name(node)))
        danger = _dangerous(product.rows).reshape(groups, -1, -(-product.rows.shape[1] // 2))
        most = max(1, int(danger.sum((1, 2)).max()))
        outputs = danger.shape[1]
        last = np.moveaxis(weight, 1, -1)
        kernels = np.zeros((groups * most, *last.shape[1:]), np.float32).reshape(groups * most, -1)
        sums = np.zeros((groups * outputs, most), np.float32)
        for group in range(groups):
            for place, (row, pair) in enumerate(zip(*np.nonzero(danger[group]), strict=True)):
                spot = slice(2 * pair, 2 * pair + 2)
                kernels[group * most + place, spot] = product.rows[group * outputs + row, spot]
                sums[group * outputs + row, place] = 1
        ones = (1,) * self._spatial(node)
        attributes = [item for item in node.attribute if item.name not in ("kernel_shape",)]
        if product.point:
            shift = self._add("Cast", [product.point], to=TensorProto.FLOAT)
            if self._types.get(product.point) == TensorProto.INT8:
                shift = self._add("Add", [shift, self._constant(np.float32(128))])
        else:
            shift = self._constant(np.float32(0))
        centred = self._add("Sub", [wide, shift])
        shaped = np.moveaxis(kernels.reshape(groups * most, *last.shape[1:]), -1, 1)
        values = self._add("Conv", [centred, self._constant(shaped)])
        self.nodes[-1].attribute.extend(attributes)
        both = self._constant(kernels.sum(1).astype(np.float32).reshape(-1, *ones))
        cut = self._cut(self._add("Add", [values, self._add("Mul", [shift, both])]))
        return self._add("Conv", [cut, self._constant(sums.reshape(groups * outputs, most, *ones))], group=groups)

    def _cut(self, values: str) -> str:
        """What is above or below the bounds of 16 bits."""
        held = self._add("Clip", [values, self._constant(np.float32(_LOW)), self._constant(np.float32(_HIGH))])
        return self._add("Sub", [values, held])

    def _sum(self, values: str) -> str:
        if next(item.version for item in self._model.opset_import if item.domain in ("", "ai.onnx")) < 13:
            return self._add("ReduceSum", [values], axes=[-1], keepdims=0)
        return self._add("ReduceSum", [values, self._constant(np.array([-1], np.int64))], keepdims=0)

    def _weight_name(self, node: onnx.NodeProto) -> str:
        makers = {name: item for item in self._model.graph.node for name in item.output}
        makers |= {name: item for item in self.nodes for name in item.output}
        return str(node.input[1] if node.op_type == "ConvInteger" else makers[node.input[1]].input[0])

    def _spatial(self, node: onnx.NodeProto) -> int:
        name = self._weight_name(node)
        return len(next(item for item in self._model.graph.initializer if item.name == name).dims) - 2

    def _add(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        output = self._names.claim(f"saturation_{kind}")
        self.nodes.append(helper.make_node(kind, inputs, [output], f"{output}_node", **attributes))
        return output

    def _constant(self, array: NDArray[Any] | np.float32) -> str:
        name = self._names.claim("saturation_constant")
        self._model.graph.initializer.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name
