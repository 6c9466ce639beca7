"""Networks with several settings: each is quantized by itself."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from engine.contract.errors import EngineError
from engine.contract.figures import Setting
from engine.contract.method import catalogue
from engine.formats.onnx.networks import GraphNetwork
from engine.formats.onnx.several import SeveralGraphs
from engine.networks.network import Signature, TensorSpec
from tests.engine.methods.quantization.checking import decibels, outputs
from tests.engine.methods.quantization.test_weight_only_quantization import Examples
from tests.engine.small import save

WIDTHS = {"0.5": 16, "1.0": 32}


def two_widths(folder: Path) -> tuple[SeveralGraphs, dict[str, Path]]:
    members, paths = [], {}
    signature = Signature((TensorSpec("x", (None, 16)),), (TensorSpec("y", (None, 4)),))
    for name, width in WIDTHS.items():
        rng = np.random.default_rng(width)
        weights = {"a": rng.standard_normal((16, width)).astype(np.float32), "b": rng.standard_normal((width, 4)).astype(np.float32)}
        nodes = [
            helper.make_node("MatMul", ["x", "a"], ["h"], "first"),
            helper.make_node("Relu", ["h"], ["r"], "relu"),
            helper.make_node("MatMul", ["r", "b"], ["y"], "second"),
        ]
        paths[name] = save(folder / f"{width}.onnx", nodes, weights, {"x": ["batch", 16]}, {"y": ["batch", 4]})
        setting = Setting(name=name)
        members.append((setting, GraphNetwork(signature, paths[name], settings=(setting,))))
    return SeveralGraphs(members), paths


@pytest.mark.parametrize("method", ["static_quantization", "dynamic_quantization", "int8_quantization", "weight_only_quantization"])
def test_every_setting_is_quantized(bench: Callable[..., Any], tmp_path: Path, method: str) -> None:
    network, paths = two_widths(tmp_path)
    feed = {"x": np.random.default_rng(0).standard_normal((12, 16)).astype(np.float32)}
    world = bench(paths["1.0"], splits={"train": Examples(feed)})
    cls = catalogue()[method]
    context = replace(world.context, network=network)
    result = cls.implementation()(network, cls(), context)
    assert [setting.name for setting in result.settings] == list(WIDTHS)
    for setting in result.settings:
        target = tmp_path / f"out{setting.name}.onnx"
        result.at(setting).write_onnx(target)
        assert decibels(outputs(paths[setting.name], feed), outputs(target, feed)) > 25
    assert set(context.reported["settings"]) == set(WIDTHS)
    sizes = [context.reported["settings"][name]["file_bytes"]["before"] for name in WIDTHS] if method != "int8_quantization" else [1, 2]
    assert sizes[0] < sizes[1]
    assert context.reported.items() >= context.reported["settings"]["0.5"].items()


def test_a_whole_answers_as_its_first_setting_and_cannot_be_trained(tmp_path: Path) -> None:
    network, paths = two_widths(tmp_path)
    first = network.at(network.settings[0])
    assert network.file(tmp_path / "f") == first.file(tmp_path / "f") == paths["0.5"]
    assert network.count() == first.count() != network.at(network.settings[1]).count()
    assert [name for name, _ in network.tensors()] == ["a", "b", "1.0/a", "1.0/b"]
    assert network.plain().settings == network.settings
    for refused in (lambda: network.module, lambda: network.with_onnx(paths["0.5"])):
        with pytest.raises(EngineError) as caught:
            refused()
        assert caught.value.code == "not_trainable"
