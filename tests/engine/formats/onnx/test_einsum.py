"""Einsum of an input and a weight: a layer that is trained, pruned and quantized like any other."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from engine.jobs.run import run_job
from tests.engine.formats.onnx.graphs import BATCH, assert_same, model, node, normal, run_reference
from tests.engine.small import write_job

Shapes = list[tuple[int, ...]]

PRODUCTS: dict[str, Shapes] = {
    "abc,cd->abd": [(4, 3), (3, 5)],
    "abc,cde->abde": [(4, 6), (6, 2, 5)],
    "abcd,cde->abe": [(4, 2, 6), (2, 6, 5)],
    "acbd,cde->abe": [(2, 4, 6), (2, 6, 5)],
    "abc,dc->abd": [(4, 6), (5, 6)],
    "abc,dec->adeb": [(4, 6), (2, 5, 6)],
    "abc,ecd->dabe": [(4, 6), (2, 6, 5)],
    "abc,bd->acd": [(4, 6), (4, 5)],
    "ab,bc->ca": [(4,), (4, 5)],
    "ab, b c -> a c": [(4,), (4, 5)],
}
PER_PLACE: dict[str, Shapes] = {
    "abc,bcd->abd": [(4, 3), (4, 3, 5)],
    "abcd,bde->abce": [(4, 3, 6), (4, 6, 5)],
    "abcd,ced->abce": [(4, 3, 6), (3, 5, 6)],
    "abcd,bdef->abcfe": [(4, 3, 6), (4, 6, 5, 2)],
    "abc,acd->abd": [(4, 3), (1, 3, 5)],
}
OTHERS: dict[str, Shapes] = {
    "abc,c->abc": [(4, 3), (3,)],
    "abc,cd->ad": [(4, 3), (3, 5)],
    "abc,c->ab": [(4, 3), (3,)],
    "abc,cd->abd": [(4, 3), (1, 5)],
    "...c,cd->...d": [(4, 3), (3, 5)],
    "abc,cd": [(4, 3), (3, 5)],
    "ab,cd->abcd": [(4,), (3, 5)],
}
OF_INPUTS: dict[str, Shapes] = {
    "aecd,abcd->acbe": [(6, 4, 8), (5, 4, 8)],
    "acbe,aecd->abcd": [(4, 5, 6), (6, 4, 8)],
    "abc,adc->abd": [(4, 6), (5, 6)],
    "abc,adc->adb": [(4, 6), (5, 6)],
    "abcd,acde->abe": [(4, 3, 6), (3, 6, 5)],
    "abc,abc->ab": [(4, 6), (4, 6)],
    "abc,ade->abcde": [(4, 6), (2, 3)],
}


def graph(equation: str, shape: tuple[int, ...], weight: tuple[int, ...], *, turned: bool = False) -> onnx.ModelProto:
    inputs = ["w", "x"] if turned else ["x", "w"]
    if turned:
        terms, arrow, result = equation.partition("->")
        equation = ",".join(reversed(terms.split(","))) + arrow + result
    nodes = [node("Einsum", inputs, ["e"], equation=equation), node("Relu", ["e"], ["y"])]
    batch = 1 if equation == "abc,acd->abd" else BATCH
    return model(nodes, {"x": [batch, *shape]}, ["y"], {"w": normal(*weight)})


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("equation", PRODUCTS)
def test_a_product_is_a_linear_layer(equation: str, turned: bool) -> None:
    shape, weight = PRODUCTS[equation]
    module = assert_same(graph(equation, shape, weight, turned=turned), {"x": normal(3, *shape)}, {"x": normal(1, *shape)})
    assert [type(layer) for layer in module.modules() if isinstance(layer, nn.Linear)] == [nn.Linear]


@pytest.mark.parametrize("equation", PER_PLACE)
def test_a_weight_for_each_place_is_a_product_for_each(equation: str) -> None:
    """Experts, or heads, of which each has a matrix of its own."""
    shape, weight = PER_PLACE[equation]
    proto = graph(equation, shape, weight)
    module = assert_same(proto, *({"x": normal(size, *shape)} for size in ((1,) if weight[0] == 1 else (3, 1))))
    assert torch.einsum not in {node.target for node in module.graph.nodes}


@pytest.mark.parametrize("equation", OTHERS)
def test_anything_else_computes_what_it_did(equation: str) -> None:
    shape, weight = OTHERS[equation]
    module = assert_same(graph(equation, shape, weight), {"x": normal(3, *shape)}, {"x": normal(1, *shape)})
    assert torch.einsum in {node.target for node in module.graph.nodes}


@pytest.mark.parametrize("equation", OF_INPUTS)
def test_of_two_inputs(equation: str) -> None:
    left, right = OF_INPUTS[equation]
    nodes = [node("Einsum", ["x", "z"], ["e"], equation=equation), node("Relu", ["e"], ["y"])]
    proto = model(nodes, {"x": [BATCH, *left], "z": [BATCH, *right]}, ["y"])
    assert_same(proto, *({"x": normal(size, *left), "z": normal(size, *right, seed=1)} for size in (3, 1)))


def einsum(left: str, right: str, result: str, equation: str) -> onnx.NodeProto:
    return node("Einsum", [left, right], [result], equation=equation)


def transformer(path: Path) -> Path:
    """One block as Keras writes it: a projection to heads, products of two inputs, a projection back, two Dense layers."""
    nodes = [
        *(einsum("x", f"w{name}", f"{name}_", "abc,cde->abde") for name in "qkv"),
        *(node("Add", [f"{name}_", f"b{name}"], [name]) for name in "qkv"),
        einsum("k", "q", "s", "aecd,abcd->acbe"),
        node("Softmax", ["s"], ["p"], axis=-1),
        einsum("p", "v", "o", "acbe,aecd->abcd"),
        einsum("o", "wo", "a", "abcd,cde->abe"),
        node("Add", ["x", "a"], ["r"]),
        einsum("r", "w1", "h_", "abc,cd->abd"),
        node("Add", ["h_", "b1"], ["h"]),
        node("Relu", ["h"], ["g"]),
        einsum("g", "w2", "m", "abc,cd->abd"),
        node("ReduceMean", ["m"], ["y"], axes=[1], keepdims=0),
    ]
    shapes = {"wq": (16, 4, 8), "wk": (16, 4, 8), "wv": (16, 4, 8), "wo": (4, 8, 16), "w1": (16, 64), "w2": (64, 16)}
    biases = {"bq": (4, 8), "bk": (4, 8), "bv": (4, 8), "b1": (64,)}
    weights = {name: normal(*shape, seed=place) / np.float32(np.sqrt(16)) for place, (name, shape) in enumerate((shapes | biases).items())}
    onnx.save(model(nodes, {"x": [BATCH, 6, 16]}, ["y"], weights, opset=17), path)
    return path


@pytest.mark.parametrize(
    ("step", "least"),
    [
        ({"method": "static_quantization"}, 30),
        ({"method": "dynamic_quantization"}, 30),
        ({"method": "weight_only_quantization", "weights": "int8"}, 30),
        ({"method": "weight_only_quantization", "weights": "int4"}, 10),
    ],
)
def test_a_transformer_of_einsums_is_quantized(step: dict[str, str], least: float, tmp_path: Path) -> None:
    found, report = compressed(tmp_path, step)
    feed = {"x": normal(40, 6, 16, seed=9)}
    before, after = run_reference(onnx.load(transformer(tmp_path / "again.onnx")), feed)[0], run_reference(onnx.load(found), feed)[0]
    assert 10 * np.log10(np.square(before).sum() / np.square(before - after).sum()) > least
    wide = [
        item.name for item in onnx.load(found).graph.initializer if item.data_type == onnx.TensorProto.FLOAT and np.prod(item.dims) > 64
    ]
    assert [name for name in wide if "scale" not in name] == []
    assert report["result"]["macs_count"] == report["baseline"]["macs_count"]


def test_a_transformer_of_einsums_is_pruned(tmp_path: Path) -> None:
    _, report = compressed(tmp_path, {"method": "structured_pruning", "pruning_ratio": 0.5, "round_to": 1})
    assert report["result"]["params_count"] < 0.6 * report["baseline"]["params_count"]


def test_a_transformer_of_einsums_becomes_slimmable_in_heads_and_hidden_units(tmp_path: Path) -> None:
    """Its biases are parameters of their own, one number a channel: no stream that blocks add to."""
    _, report = compressed(tmp_path, {"method": "slimmable", "widths": [0.5, 1.0], "iterations": 2, "batch_size": 16})
    macs = {item["setting"]["name"]: item["figures"]["macs_count"] for item in report["settings"]}
    assert macs["width 0.5"] < 0.6 * macs["width 1"]


def compressed(folder: Path, step: dict[str, object]) -> tuple[Path, dict[str, dict[str, float]]]:
    data = folder / "data.npz"
    labels = np.arange(64) % 16
    np.savez(data, x_train=normal(64, 6, 16, seed=1), x_test=normal(64, 6, 16, seed=2), y_train=labels, y_test=labels)
    spec = {"steps": [step], "evaluation": {"latency": {"repeats": 5}}}
    directory = write_job(folder / "job", spec, model=transformer(folder / "in.onnx"), dataset=data)
    assert run_job(directory, lambda event: None) == 0
    return directory / "out" / "model.onnx", json.loads((directory / "out" / "report.json").read_text())
