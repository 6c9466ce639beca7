"""A perceptron behind a normalization whose features differ a thousandfold, as those of transformers do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from engine.methods.quantization import graph, smoothing
from engine.methods.quantization.spec import StaticQuantization
from engine.methods.quantization.static_quantization import apply
from tests.engine.methods.quantization.checking import decibels, outputs, pair_sum
from tests.engine.methods.quantization.test_weight_only_quantization import Examples
from tests.engine.small import save

WIDTH = 32


def network(path: Path, opset: int, *, also_read: bool) -> Path:
    """Normalization → two products; its result is an output too where `also_read`."""
    rng = np.random.default_rng(0)
    spread = np.exp(rng.standard_normal(WIDTH) * 2).astype(np.float32)
    weights = {
        "norm.weight": spread,
        "norm.bias": (0.1 * rng.standard_normal(WIDTH)).astype(np.float32),
        "left.weight": (rng.standard_normal((WIDTH, 16)) / spread[:, None]).astype(np.float32),
        "right.weight": (rng.standard_normal((8, WIDTH)) / spread).astype(np.float32),
        "right.bias": rng.standard_normal(8).astype(np.float32),
    }
    nodes = [
        helper.make_node("LayerNormalization", ["x", "norm.weight", "norm.bias"], ["n"], "norm"),
        helper.make_node("MatMul", ["n", "left.weight"], ["l"], "left"),
        helper.make_node("Gemm", ["n", "right.weight", "right.bias"], ["r"], "right", transB=1),
        *([helper.make_node("Neg", ["n"], ["m"], "negative")] if also_read else []),
    ]
    ends = {"l": ["batch", 16], "r": ["batch", 8], **({"m": ["batch", WIDTH]} if also_read else {})}
    return save(path, nodes, weights, {"x": ["batch", WIDTH]}, ends, opset=opset)


@pytest.fixture
def feed() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).standard_normal((12, WIDTH)).astype(np.float32)}


@pytest.mark.parametrize("opset", [17, 21])
@pytest.mark.parametrize("also_read", [False, True])
def test_a_smoothed_network_computes_the_same(tmp_path: Path, feed: dict[str, np.ndarray], opset: int, also_read: bool) -> None:
    path = network(tmp_path / "n.onnx", opset, also_read=also_read)
    prepared = graph.prepare(path, tmp_path, ignore=(), minimum_opset=13)

    def feeds(size: int) -> Any:
        yield feed

    found = smoothing.smooth(prepared.path, set(), feeds, levels=127, threads=1)
    assert list(found) == ["n"]
    assert found["n"] < 0.5
    assert decibels(outputs(path, feed), outputs(prepared.path, feed)) > 110
    kinds = [node.op_type for node in onnx.load(prepared.path).graph.node]
    # Where only the products read it, the normalization takes the factors; else a multiplication does.
    assert kinds.count("Mul") == (1 if also_read else 0)


@pytest.mark.parametrize("also_read", [False, True])
def test_smoothing_keeps_what_rounding_destroys(
    bench: Callable[..., Any], tmp_path: Path, feed: dict[str, np.ndarray], also_read: bool
) -> None:
    path = network(tmp_path / "n.onnx", 17, also_read=also_read)

    def loss(**params: Any) -> float:
        world = bench(path, splits={"train": Examples(feed)})
        file = apply(world.network, StaticQuantization(**params), world.context).file(tmp_path / "none")
        assert world.context.reported["int8_operators_count"] >= 2
        return decibels(outputs(path, feed), outputs(file, feed))

    assert loss(smoothing=True) > loss() + 6


def test_nothing_is_smoothed_where_features_are_alike_or_a_layer_is_ignored(tmp_path: Path, feed: dict[str, np.ndarray]) -> None:
    path = network(tmp_path / "n.onnx", 17, also_read=False)
    prepared = graph.prepare(path, tmp_path, ignore=("left", "right"), minimum_opset=13)
    before = prepared.path.read_bytes()

    def feeds(size: int) -> Any:
        yield feed

    assert smoothing.smooth(prepared.path, set(prepared.excluded), feeds, levels=127, threads=1) == {}
    assert prepared.path.read_bytes() == before


@pytest.mark.parametrize("rounding", ["gptq", "adaround"])
@pytest.mark.parametrize("target", ["portable", "vnni"])
def test_refined_weights_are_in_the_file_and_lose_less(bench: Callable[..., Any], cnn_onnx: Path, rounding: str, target: str) -> None:
    def made(**params: Any) -> tuple[dict[str, np.ndarray], float]:
        world = bench()
        params |= {"target_cpu": target, "calibration": {"samples": 60}}
        file = apply(world.network, StaticQuantization(**params), world.context).file(Path("none"))
        feed = {"x": world.data.splits["test"].batch(np.arange(60))[0]["x"]}
        values = {item.name: numpy_helper.to_array(item) for item in onnx.load(file).graph.initializer}
        return values, decibels(outputs(cnn_onnx, feed), outputs(file, feed, optimized=False))

    (nearest, before), (refined, after) = made(), made(rounding=rounding)
    weights = [name for name, value in nearest.items() if value.dtype == np.int8 and value.ndim > 1]
    assert any((nearest[name] != refined[name]).any() for name in weights)
    assert all(np.abs(nearest[name].astype(int) - refined[name]).max() <= 30 for name in weights)
    # Rounding activations costs as much, whatever the weights are.
    assert after > before - 1.5
    if target == "portable":
        assert max(pair_sum(refined[name]) for name in weights) <= 128
