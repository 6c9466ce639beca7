"""A step may give the network a further input: each file is fed by its own signature, the dataset's inputs and what the method states."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from onnx import helper

from tests.engine.small import save
from tests.service.plugged import write_plugin

PLUGIN = {
    "methods/toys/__init__.py": "",
    "methods/toys/spec.py": '''
"""The toy's parameters."""
from typing import ClassVar, Literal

from engine.contract.method import MethodParams, Requires


class WidthInput(MethodParams):
    """How many hidden units count is an input of the network."""

    title: ClassVar[str] = "Width as an input"
    requires: ClassVar[Requires] = Requires(trainable=True)
    examples: ClassVar = ({"method": "width_input"},)

    method: Literal["width_input"] = "width_input"
    stated: bool = True
    """Whether the method says what the input is where the dataset has none of that name."""
''',
    "methods/toys/width_input.py": '''
"""Hidden units past the width give nothing."""
from dataclasses import replace

import torch
from torch import nn

from engine.networks.network import TensorSpec


class Sliced(nn.Module):
    def __init__(self, first, second):
        super().__init__()
        self.first, self.second = first, second
        self.register_buffer("place", torch.arange(first.out_features) / first.out_features)

    def forward(self, x, width):
        return self.second(torch.relu(self.first(x)) * (self.place < width).to(x.dtype))


def apply(network, params, context):
    """The same weights, and a further input."""
    first, second = (layer for layer in network.module.modules() if isinstance(layer, nn.Linear))
    width = TensorSpec("width", (None, 1), "float32", value=0.75 if params.stated else None)
    signature = replace(network.signature, inputs=(*network.signature.inputs, width))
    return network.with_module(Sliced(first, second), signature=signature)
''',
}
UNITS, CLASSES = 16, 3
RNG = np.random.default_rng(0)
WEIGHTS = {
    "w0": RNG.standard_normal((UNITS, 8)).astype(np.float32),
    "b0": RNG.standard_normal(UNITS).astype(np.float32),
    "w1": RNG.standard_normal((CLASSES, UNITS)).astype(np.float32),
    "b1": RNG.standard_normal(CLASSES).astype(np.float32),
}


def outputs(inputs: np.ndarray, units: int) -> np.ndarray:
    hidden = np.maximum(inputs @ WEIGHTS["w0"][:units].T + WEIGHTS["b0"][:units], 0)
    found: np.ndarray = hidden @ WEIGHTS["w1"][:, :units].T + WEIGHTS["b1"]
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("added")
    write_plugin(folder / "plugin", PLUGIN)
    nodes = [
        helper.make_node("Gemm", ["x", "w0", "b0"], ["h"], "first", transB=1),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("Gemm", ["r", "w1", "b1"], ["y"], "second", transB=1),
    ]
    save(folder / "m.onnx", nodes, WEIGHTS, {"x": ["n", 8]}, {"y": ["n", CLASSES]})
    inputs = np.random.default_rng(1).standard_normal((200, 8)).astype(np.float32)
    np.savez(folder / "d.npz", x_test=inputs, y_test=outputs(inputs, UNITS).argmax(axis=1))
    return folder


def run(folder: Path, out: Path, *more: str, **step: object) -> subprocess.CompletedProcess[str]:
    spec = {"steps": [{"method": "width_input", **step}], "evaluation": {"latency": {"repeats": 5}}}
    if more:
        spec["dataset"] = "ds_1"
    out.mkdir()
    (out / "spec.json").write_text(json.dumps(spec))
    command = [
        sys.executable,
        "-m",
        "engine",
        "run",
        str(out / "spec.json"),
        "--model",
        str(folder / "m.onnx"),
        "--out",
        str(out / "o"),
        *more,
    ]
    environment = {**os.environ, "MODELPRESS_PLUGINS": str(folder / "plugin")}
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=120)


def test_each_file_is_scored_and_timed_by_its_own_inputs(folder: Path, tmp_path: Path) -> None:
    done = run(folder, tmp_path / "with data", "--data", str(folder / "d.npz"))
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "with data" / "o" / "report.json").read_text())
    inputs = np.load(folder / "d.npz")["x_test"]
    agree = float((outputs(inputs, 3 * UNITS // 4).argmax(axis=1) == outputs(inputs, UNITS).argmax(axis=1)).mean())
    assert 0.4 < agree < 1
    assert report["settings"][0]["figures"]["metrics"]["test.top1"] == pytest.approx(agree)
    session = ort.InferenceSession(tmp_path / "with data" / "o" / "model.onnx")
    assert [item.name for item in session.get_inputs()] == ["x", "width"]
    for width in (0.25, 1.0):
        (found,) = session.run(None, {"x": inputs, "width": np.full((len(inputs), 1), width, np.float32)})
        np.testing.assert_allclose(found, outputs(inputs, int(width * UNITS)), atol=1e-4)


def test_without_a_dataset_the_further_input_is_not_drawn(folder: Path, tmp_path: Path) -> None:
    done = run(folder, tmp_path / "random")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "random" / "o" / "report.json").read_text())
    agreement = next(value for name, value in report["settings"][0]["figures"]["metrics"].items() if "agreement" in name)
    assert 0.3 < agreement < 1


def test_an_input_that_nothing_is_said_about_is_an_error_of_the_method(folder: Path, tmp_path: Path) -> None:
    done = run(folder, tmp_path / "unstated", stated=False)
    assert done.returncode == 1
    assert "added the input 'width'" in done.stderr
