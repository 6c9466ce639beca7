"""Operators that put values into places or read at computed places: as onnxruntime has them, with gradients, and written again."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from engine.contract.errors import EngineError
from engine.contract.metadata import ModelMetadata
from engine.formats import load_network
from engine.formats.onnx.export import OPSET, plain
from engine.formats.onnx.writer import write
from tests.engine.formats.onnx.graphs import BATCH, I64, assert_same, ints, model, node, normal, run_reference


def kept(proto: onnx.ModelProto, folder: Path, *feeds: dict[str, np.ndarray], own: bool = True) -> None:
    """Import, compare, and compare what is written of it; `own` where this project's writer knows the operator."""
    assert_same(proto, *feeds)
    onnx.save(proto, folder / "in.onnx")
    network = load_network(folder / "in.onnx", "onnx", ModelMetadata(), folder)
    file = write.written(network.module, network.signature, OPSET)
    assert (file is not None) == own
    file = file and plain(file)
    for feed in feeds if file is not None else ():
        for want, got in zip(run_reference(proto, feed), run_reference(file, feed), strict=True):
            np.testing.assert_allclose(got, want, atol=1e-5, rtol=1e-5)
    inputs = [torch.from_numpy(array).requires_grad_(array.dtype.kind == "f") for array in feeds[0].values()]
    network.module(*inputs).pow(2).sum().backward()
    assert any(item.grad is not None and bool(item.grad.abs().sum() > 0) for item in inputs)


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
@pytest.mark.parametrize("axis", [1, -1])
def test_scatter_of_elements(reduction: str, axis: int, tmp_path: Path) -> None:
    """A gate of a mixture of experts: the best two of each position, elsewhere what stood there."""
    nodes = [
        node("TopK", ["x", "two"], ["v", "i"], axis=axis),
        node("ScatterElements", ["t", "i", "v"], ["y"], axis=axis, reduction=reduction),
    ]
    proto = model(nodes, {"x": [BATCH, 4, 5], "t": [BATCH, 4, 5]}, ["y"], {"two": ints(2)})
    kept(proto, tmp_path, *({"x": normal(size, 4, 5), "t": normal(size, 4, 5, seed=1)} for size in (3, 1)))


def test_places_that_count_from_the_end(tmp_path: Path) -> None:
    places = np.array([[[-1, 0], [2, -2], [1, -3]]], dtype=I64)
    nodes = [
        node("GatherElements", ["x", "i"], ["v"], axis=2),
        node("Neg", ["v"], ["n"]),
        node("ScatterElements", ["x", "i", "n"], ["y"], axis=2),
    ]
    kept(model(nodes, {"x": [1, 3, 4]}, ["y"], {"i": places}), tmp_path, {"x": normal(1, 3, 4)})


@pytest.mark.parametrize("reduction", ["none", "add"])
def test_scatter_by_all_coordinates(reduction: str, tmp_path: Path) -> None:
    """Messages of a graph network, summed where they arrive."""
    nodes = [
        node("Transpose", ["x"], ["r"], perm=[1, 0, 2]),
        node("Gather", ["r", "sources"], ["m"], axis=0),
        node("ScatterND", ["r", "targets", "m"], ["s"], reduction=reduction),
        node("Transpose", ["s"], ["y"], perm=[1, 0, 2]),
    ]
    constants = {"sources": ints(0, 1, 2, 3), "targets": ints(1, 2, 3, 1 if reduction == "add" else 0).reshape(4, 1)}
    kept(model(nodes, {"x": [BATCH, 5, 3]}, ["y"], constants), tmp_path, {"x": normal(4, 5, 3)}, {"x": normal(1, 5, 3)})


def test_a_reduction_without_a_trainable_form_is_named(tmp_path: Path) -> None:
    nodes = [node("Transpose", ["x"], ["r"], perm=[1, 0]), node("ScatterND", ["r", "i", "r"], ["y"], reduction="mul")]
    onnx.save(model(nodes, {"x": [BATCH, 2]}, ["y"], {"i": ints(0, 0).reshape(2, 1)}), tmp_path / "in.onnx")
    with pytest.raises(EngineError, match=r"node_y \(ScatterND\) cannot be made trainable: reduction 'mul'"):
        load_network(tmp_path / "in.onnx", "onnx", ModelMetadata(), tmp_path).module  # noqa: B018


def test_sequences_that_are_reversed(tmp_path: Path) -> None:
    proto = model(
        [node("ReverseSequence", ["x", "n"], ["y"], batch_axis=0, time_axis=1)], {"x": [BATCH, 4, 3], "n": [BATCH]}, ["y"], types={"n": "i"}
    )
    kept(proto, tmp_path, *({"x": normal(size, 4, 3), "n": np.arange(size) % 4 + 1} for size in (6, 1)))


def test_sequences_that_are_reversed_steps_first(tmp_path: Path) -> None:
    nodes = [node("Transpose", ["x"], ["s"], perm=[1, 0, 2]), node("ReverseSequence", ["s", "n"], ["y"], batch_axis=1, time_axis=0)]
    proto = model(nodes, {"x": [BATCH, 4, 2], "n": [BATCH]}, ["y"], types={"n": "i"})
    kept(proto, tmp_path, {"x": normal(3, 4, 2), "n": ints(4, 2, 1)}, {"x": normal(1, 4, 2), "n": ints(3)})


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("align", [0, 1])
def test_pictures_that_are_sampled(padding: str, mode: str, align: int, tmp_path: Path) -> None:
    attributes: dict[str, Any] = {"mode": mode, "padding_mode": padding, "align_corners": align}
    nodes = [node("Tanh", ["g"], ["t"]), node("Mul", ["t", "far"], ["s"]), node("GridSample", ["x", "s"], ["y"], **attributes)]
    proto = model(nodes, {"x": [BATCH, 2, 5, 6], "g": [BATCH, 4, 3, 2]}, ["y"], {"far": np.array(1.3, dtype=np.float32)})
    kept(proto, tmp_path, *({"x": normal(size, 2, 5, 6), "g": normal(size, 4, 3, 2, seed=3)} for size in (3, 1)))


@pytest.mark.parametrize("align", [0, 1])
@pytest.mark.parametrize("size", [(4, 5), (1, 3)])
def test_a_transformer_of_pictures(align: int, size: tuple[int, int], tmp_path: Path) -> None:
    """AffineGrid and GridSample as opset 20 has them."""
    nodes = [
        node("AffineGrid", ["theta", "size"], ["g"], align_corners=align),
        node("GridSample", ["x", "g"], ["y"], mode="linear", align_corners=align),
    ]
    proto = model(nodes, {"x": [2, 3, 6, 6], "theta": [2, 2, 3]}, ["y"], {"size": ints(2, 3, *size)}, opset=20)
    kept(proto, tmp_path, {"x": normal(2, 3, 6, 6), "theta": 0.7 * normal(2, 2, 3)})


def test_volumes_that_are_sampled(tmp_path: Path) -> None:
    nodes = [node("GridSample", ["x", "g"], ["y"], mode="linear")]
    proto = model(nodes, {"x": [2, 2, 3, 4, 5], "g": [2, 2, 3, 2, 3]}, ["y"], opset=20)
    kept(proto, tmp_path, {"x": normal(2, 2, 3, 4, 5), "g": 0.5 * normal(2, 2, 3, 2, 3)}, own=False)
