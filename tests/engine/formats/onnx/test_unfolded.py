"""Normalizations whose exporter folded no constants, as the hint of this project recommends, or wrote sums of products, as Keras does."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from engine.contract.metadata import ModelMetadata
from engine.formats import load_network
from engine.formats.onnx.weights import weight_tensors
from tests.engine.formats.onnx.exporting import export
from tests.engine.formats.onnx.graphs import BATCH, assert_same, model, node, normal, scalar
from tests.engine.formats.onnx.networks import Case


class Normalized(nn.Module):
    """Group normalization of pictures whose scale and offset are not those that all have at the start."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.GroupNorm(4, 8)
        self.other = nn.GroupNorm(2, 8)
        self.head = nn.Linear(8, 3)
        nn.init.normal_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.other(torch.relu(self.norm(self.conv(x)))).mean((2, 3)))


@pytest.mark.parametrize("keep_norms", [False, True])
def test_group_normalization_stays_a_layer(keep_norms: bool, tmp_path: Path) -> None:
    case = Case(Normalized, ((3, 8, 8),))
    module = case.network()
    path = export(module, case, tmp_path / "in.onnx", exporter="legacy", keep_norms=keep_norms)
    found = load_network(path, "onnx", ModelMetadata(), tmp_path).module
    assert sorted(layer.num_groups for layer in found.modules() if isinstance(layer, nn.GroupNorm)) == [2, 4]
    (x,) = case.inputs(5)
    torch.testing.assert_close(found(x), module(x), atol=1e-5, rtol=1e-5)


def sums(*, pooled: bool, negated: bool, shared: bool = False, axis: int = -1) -> onnx.ModelProto:
    """Layer normalization as x · s + (bias - mean · s); `shared` says that the mean is an output as well."""
    kind, axes = ("GlobalAveragePool", {}) if pooled else ("ReduceMean", {"axes": [axis]})
    shift = [node("Neg", ["m"], ["n"]), node("Mul", ["n", "s"], ["ms"]), node("Add", ["ms", "b"], ["o"])]
    if not negated:
        shift = [node("Mul", ["m", "s"], ["ms"]), node("Sub", ["b", "ms"], ["o"])]
    nodes = [
        node(kind, ["x"], ["m"], **axes),
        node("Sub", ["x", "m"], ["c"]),
        node("Mul", ["c", "c"], ["q"]),
        node(kind, ["q"], ["v"], **axes),
        node("Add", ["v", "e"], ["ve"]),
        node("Sqrt", ["ve"], ["r"]),
        node("Reciprocal", ["r"], ["i"]),
        node("Mul", ["i", "w"], ["s"]),
        node("Mul", ["x", "s"], ["xs"]),
        *shift,
        node("Add", ["xs", "o"], ["y"]),
    ]
    constants = {"e": scalar(1e-3), "w": normal(1, 1, 6), "b": normal(1, 1, 6, seed=1)}
    return model(nodes, {"x": [BATCH, 4, 6]}, ["y", "m"] if shared else ["y"], constants, opset=17)


@pytest.mark.parametrize(("pooled", "axis"), [(True, -1), (False, -1), (False, 2)])
@pytest.mark.parametrize("negated", [False, True])
def test_layer_normalization_of_sums_is_a_layer(pooled: bool, axis: int, negated: bool) -> None:
    module = assert_same(sums(pooled=pooled, negated=negated, axis=axis), {"x": normal(3, 4, 6)}, {"x": normal(1, 4, 6)})
    assert [type(layer) for layer in module.children()] == [nn.LayerNorm]


def test_sums_over_another_axis_stay() -> None:
    module = assert_same(sums(pooled=False, negated=True, axis=1), {"x": normal(3, 4, 6)})
    assert not any(isinstance(layer, nn.LayerNorm) for layer in module.modules())


def test_sums_whose_mean_is_read_elsewhere_stay() -> None:
    module = assert_same(sums(pooled=False, negated=True, shared=True), {"x": normal(3, 4, 6)})
    assert not any(isinstance(layer, nn.LayerNorm) for layer in module.modules())


@pytest.mark.parametrize(("inner", "taken"), [(0.0, True), (0.5, False)])
def test_group_normalization_of_one_channel_a_group_is_a_layer(inner: float, taken: bool) -> None:
    """As exporters write it, without reshapes; an offset of the normalization's own says that it is another one."""
    nodes = [
        node("InstanceNormalization", ["x", "ones", "zeros"], ["n"], epsilon=1e-3),
        node("Mul", ["n", "w"], ["s"]),
        node("Add", ["b", "s"], ["y"]),
    ]
    constants = {"ones": np.ones(5, np.float32), "zeros": np.full(5, inner, np.float32), "w": normal(5, 1), "b": normal(5, 1, seed=1)}
    proto = model(nodes, {"x": [BATCH, 5, 6]}, ["y"], constants, opset=17)
    module = assert_same(proto, {"x": normal(3, 5, 6)})
    assert [type(layer) for layer in module.children()] == [nn.GroupNorm if taken else nn.InstanceNorm1d]
    if taken:
        assert sum(item.numel() for item in module.parameters()) == 10 == sum(item.size or 0 for item in weight_tensors(proto).values())
