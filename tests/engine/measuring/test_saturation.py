"""Products as processors without VNNI compute them, beside a sum in 16 bits written out in numpy."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engine.measuring import saturation
from tests.engine.methods.quantization.checking import outputs

RNG = np.random.default_rng(0)


def vpmaddubsw(data: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(rows, inputs) unsigned times (inputs, outputs) signed bytes: neighbouring products are added with saturation to 16 bits."""
    if data.shape[1] % 2:
        data, weight = np.pad(data, ((0, 0), (0, 1))), np.pad(weight, ((0, 1), (0, 0)))
    wide, right = data.astype(np.int64), weight.astype(np.int64)
    pairs = wide[:, 0::2, None] * right[None, 0::2] + wide[:, 1::2, None] * right[None, 1::2]
    return np.clip(pairs, -32768, 32767).sum(1)


def saved(path: Path, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], shape: list[Any], rank: int, opset: int) -> Path:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"] + [None] * (rank - 1))
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(value, name) for name, value in constants.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9), path)
    return path


def rounding(zero: int, scale: float) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "sx", "zx"], ["q"], "q"),
        helper.make_node("DequantizeLinear", ["q", "sx", "zx"], ["d"], "d"),
        helper.make_node("DequantizeLinear", ["w", "sw", "zw"], ["v"], "v"),
    ]
    return nodes, {"sx": np.float32(scale), "zx": np.uint8(zero), "sw": np.float32(0.02), "zw": np.int8(0)}


@pytest.mark.parametrize("inputs", [16, 7])
@pytest.mark.parametrize("kind", ["MatMul", "Gemm"])
def test_a_matrix_product_saturates_as_written_out(tmp_path: Path, inputs: int, kind: str) -> None:
    weight = RNG.integers(-127, 128, (inputs, 5)).astype(np.int8)
    nodes, constants = rounding(3, 0.1)
    nodes.append(helper.make_node(kind, ["d", "v"], ["y"], "product"))
    path = saved(tmp_path / "m.onnx", nodes, {**constants, "w": weight}, ["n", inputs], 2, 13)
    found = saturation.inspect(path)
    assert found is not None
    assert [product.node.name for product in found.products] == ["product"]
    x = RNG.uniform(0, 25, (9, inputs)).astype(np.float32)
    saturation.write_saturated(path, tmp_path / "s.onnx")
    stored = np.clip(np.rint(x / np.float32(0.1)) + 3, 0, 255).astype(np.uint8)
    integers = vpmaddubsw(stored, weight) - 3 * weight.astype(np.int64).sum(0)
    expected = integers * (np.float32(0.1) * np.float32(0.02))
    plain = outputs(path, {"x": x}, optimized=False)["y"]
    assert np.abs(expected - plain).max() > 1
    assert np.abs(outputs(tmp_path / "s.onnx", {"x": x}, optimized=False)["y"] - expected).max() < 1e-3


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("zero", [0, 9])
def test_a_convolution_saturates_as_written_out(tmp_path: Path, groups: int, zero: int) -> None:
    weight = RNG.integers(-127, 128, (4, 6 // groups, 3, 3)).astype(np.int8)
    nodes, constants = rounding(zero, 0.1)
    nodes.append(helper.make_node("Conv", ["d", "v"], ["y"], "conv", group=groups, pads=[1, 1, 1, 1], strides=[2, 2]))
    path = saved(tmp_path / "c.onnx", nodes, {**constants, "w": weight}, ["n", 6, 7, 7], 4, 13)
    x = RNG.uniform(0, 25, (2, 6, 7, 7)).astype(np.float32)
    stored = np.pad(np.clip(np.rint(x / np.float32(0.1)) + zero, 0, 255), ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=zero)
    windows = np.lib.stride_tricks.sliding_window_view(stored, (3, 3), axis=(2, 3))[:, :, ::2, ::2]
    expected = np.zeros((2, 4, 4, 4))
    for group in range(groups):
        channels, filters = slice(group * 6 // groups, (group + 1) * 6 // groups), slice(group * 4 // groups, (group + 1) * 4 // groups)
        columns = windows[:, channels].transpose(0, 2, 3, 4, 5, 1).reshape(2 * 16, -1)
        rows = weight[filters].transpose(0, 2, 3, 1).reshape(4 // groups, -1)
        integers = vpmaddubsw(columns, rows.T) - zero * rows.astype(np.int64).sum(1)
        expected[:, filters] = (integers * (np.float32(0.1) * np.float32(0.02))).reshape(2, 4, 4, -1).transpose(0, 3, 1, 2)
    saturation.write_saturated(path, tmp_path / "s.onnx")
    assert np.abs(expected - outputs(path, {"x": x}, optimized=False)["y"]).max() > 1
    assert np.abs(outputs(tmp_path / "s.onnx", {"x": x}, optimized=False)["y"] - expected).max() < 1e-2


@pytest.mark.parametrize("opset", [11, 13])
def test_an_integer_product_saturates_as_written_out(tmp_path: Path, opset: int) -> None:
    weight = RNG.integers(-127, 128, (10, 5)).astype(np.int8)
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], "dq"),
        helper.make_node("MatMulInteger", ["q", "w", "z"], ["i"], "product"),
        helper.make_node("Cast", ["i"], ["y"], "cast", to=TensorProto.FLOAT),
    ]
    path = saved(tmp_path / "i.onnx", nodes, {"w": weight}, ["n", 10], 2, opset)
    x = RNG.uniform(0, 25, (6, 10)).astype(np.float32)
    saturation.write_saturated(path, tmp_path / "s.onnx")
    stored = np.rint(x / np.float32(x.max() / 255)).astype(np.uint8)
    found = outputs(tmp_path / "s.onnx", {"x": x}, optimized=False)["y"]
    assert np.abs(found - vpmaddubsw(stored, weight)).max() <= 0.01
    assert np.abs(found - outputs(path, {"x": x}, optimized=False)["y"]).max() > 1000


def test_small_weights_and_depthwise_convolutions_never_saturate(tmp_path: Path) -> None:
    nodes, constants = rounding(0, 0.1)
    safe = np.full((8, 4), 64, np.int8)
    path = saved(
        tmp_path / "a.onnx", [*nodes, helper.make_node("MatMul", ["d", "v"], ["y"], "p")], {**constants, "w": safe}, ["n", 8], 2, 13
    )
    found = saturation.inspect(path)
    assert found is not None
    assert not found.possible
    safe[1] = 65
    path = saved(
        tmp_path / "b.onnx", [*nodes, helper.make_node("MatMul", ["d", "v"], ["y"], "p")], {**constants, "w": safe}, ["n", 8], 2, 13
    )
    found = saturation.inspect(path)
    assert found is not None
    assert found.possible
    conv = helper.make_node("Conv", ["d", "v"], ["y"], "p", group=4)
    path = saved(tmp_path / "d.onnx", [*nodes, conv], {**constants, "w": np.full((4, 1, 3, 3), 127, np.int8)}, ["n", 4, 5, 5], 4, 13)
    found = saturation.inspect(path)
    assert found is not None
    assert not found.possible


def test_a_float_network_has_no_such_products(tmp_path: Path) -> None:
    product = helper.make_node("MatMul", ["x", "w"], ["y"], "product")
    assert saturation.inspect(saved(tmp_path / "f.onnx", [product], {"w": np.ones((8, 4), np.float32)}, ["n", 8], 2, 13)) is None


def test_products_behind_one_that_cannot_saturate_are_found_too(tmp_path: Path) -> None:
    nodes, constants = rounding(3, 0.1)
    nodes += [
        helper.make_node("MatMul", ["d", "x2"], ["h"], "plain"),
        helper.make_node("MatMul", ["d", "small"], ["s"], "safe"),
        helper.make_node("DequantizeLinear", ["w2", "sw", "zw"], ["small"], "d2"),
        helper.make_node("MatMul", ["d", "v"], ["y"], "product"),
    ]
    nodes[4], nodes[5] = nodes[5], nodes[4]
    weights = {"w": np.full((16, 5), 127, np.int8), "w2": np.ones((16, 5), np.int8), "x2": np.ones((16, 5), np.float32)}
    found = saturation.inspect(saved(tmp_path / "m.onnx", nodes, {**constants, **weights}, ["n", 16], 2, 13))
    assert found is not None
    assert [product.node.name for product in found.products] == ["product"]
