"""Cross-layer equalization and bias correction, on networks whose channels differ widely."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from engine.methods.quantization import equalization, graph
from engine.methods.quantization.spec import StaticQuantization
from engine.methods.quantization.static_quantization import apply
from tests.engine.methods.quantization.checking import decibels, outputs
from tests.engine.methods.quantization.test_weight_only_quantization import Examples
from tests.engine.small import save

RNG = np.random.default_rng(0)
FEED = {"x": RNG.standard_normal((12, 3, 8, 8)).astype(np.float32)}
SPREAD = np.exp(np.linspace(-3, 3, 8)).astype(np.float32)


def weight(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """Convolution, depthwise convolution and convolution, whose channels differ a hundredfold."""
    first, last = weight(8, 3, 3, 3) * SPREAD[:, None, None, None], weight(4, 8, 1, 1) / SPREAD[None, :, None, None]
    constants = {"a": first, "a.b": weight(8, 1)[:, 0] * SPREAD, "d": weight(8, 1, 3, 3), "d.b": weight(8, 1)[:, 0] * SPREAD, "l": last}
    nodes = [
        helper.make_node("Conv", ["x", "a", "a.b"], ["h1"], "a", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["h1"], ["r1"], "r1"),
        helper.make_node("MaxPool", ["r1"], ["m1"], "m1", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["m1", "d", "d.b"], ["h2"], "d", group=8, pads=[1, 1, 1, 1]),
        helper.make_node("LeakyRelu", ["h2"], ["r2"], "r2", alpha=0.1),
        helper.make_node("Conv", ["r2", "l"], ["y"], "l"),
    ]
    return save(tmp_path / "chain.onnx", nodes, constants, {"x": ["batch", 3, 8, 8]}, {"y": ["batch", 4, 4, 4]})


def test_an_equalized_network_computes_the_same_and_channels_are_alike(chain: Path, tmp_path: Path) -> None:
    prepared = graph.prepare(chain, tmp_path, ignore=(), minimum_opset=13)
    assert equalization.equalize(prepared.path, set()) == 2
    assert decibels(outputs(chain, FEED), outputs(prepared.path, FEED)) > 110
    values = {item.name: numpy_helper.to_array(item) for item in onnx.load(prepared.path).graph.initializer}
    given, between, read = (np.abs(values["a"]).max((1, 2, 3)), np.abs(values["d"]).max((1, 2, 3)), np.abs(values["l"]).max((0, 2, 3)))
    assert np.abs(np.log(given / between)).max() < 0.05
    assert np.abs(np.log(between / read)).max() < 0.05


def test_layers_that_others_read_and_ignored_ones_stay(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["h"], "a"),
        helper.make_node("Clip", ["h", "zero", "six"], ["c"], "clip"),
        helper.make_node("Conv", ["c", "b"], ["y"], "b"),
        helper.make_node("Conv", ["y", "e"], ["z"], "e"),
    ]
    constants = {"a": weight(8, 3, 1, 1), "b": weight(4, 8, 1, 1), "e": weight(4, 4, 1, 1), "zero": np.float32(0), "six": np.float32(6)}
    path = save(tmp_path / "n.onnx", nodes, constants, {"x": ["batch", 3, 8, 8]}, {"y": ["batch", 4, 8, 8], "z": ["batch", 4, 8, 8]})
    prepared = graph.prepare(path, tmp_path, ignore=(), minimum_opset=13)
    assert equalization.equalize(prepared.path, set()) == 0


def run(bench: Callable[..., Any], path: Path, **params: Any) -> Path:
    world = bench(path, splits={"train": Examples(FEED)})
    return apply(world.network, StaticQuantization(**params), world.context).file(path)


def test_equalization_saves_one_scale_for_all_channels(bench: Callable[..., Any], chain: Path) -> None:
    before = outputs(chain, FEED)
    plain, equal = (decibels(before, outputs(run(bench, chain, granularity="tensor", equalization=on), FEED)) for on in (False, True))
    assert equal > plain + 6


@pytest.mark.parametrize("bias", [False, True])
def test_bias_correction_takes_the_shift_of_the_mean_out(bench: Callable[..., Any], tmp_path: Path, bias: bool) -> None:
    # One scale for all outputs and one outlier: the other weights are rounded coarsely, and inputs that are all positive add that up.
    large = np.abs(weight(6, 3, 3, 3)) * 0.01
    large[0, 0, 0, 0] = 2.0
    constants = {"w": large, **({"b": weight(6, 1)[:, 0]} if bias else {})}
    node = helper.make_node("Conv", ["x", *constants], ["y"], "conv")
    path = save(tmp_path / "n.onnx", [node], constants, {"x": ["batch", 3, 8, 8]}, {"y": ["batch", 6, 6, 6]})
    feed = {"x": np.abs(FEED["x"])}

    def shift(corrected: bool) -> float:
        world = bench(path, splits={"train": Examples(feed)})
        params = StaticQuantization(granularity="tensor", bias_correction=corrected)
        file = apply(world.network, params, world.context).file(path)
        return float(np.abs((outputs(file, feed)["y"] - outputs(path, feed)["y"]).mean((0, 2, 3))).max())

    assert shift(corrected=True) < 0.35 * shift(corrected=False)
