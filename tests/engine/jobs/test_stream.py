"""A network that hears a stream: the length of a piece stays open and has a least size, a state has its layers first, a number has no shape."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from engine.contract import events
from engine.contract.file_format import ending_of, names, writable_names
from engine.contract.metadata import ModelMetadata
from engine.formats.loading import load_network, write_network
from engine.formats.onnx import runtime
from engine.jobs.inspection import inspect_model
from engine.jobs.run import run_job
from engine.networks.network import Network
from tests.engine.jobs.test_strangers import QUICK
from tests.engine.small import write_job

AXES = {"sound": {0: "batch", 1: "length"}, "state": {1: "batch"}, "out": {0: "batch"}, "after": {1: "batch"}}


class Listening(nn.Module):
    """Runs on no fewer than 100 samples."""

    def __init__(self) -> None:
        super().__init__()
        self.hear, self.mix = nn.Conv1d(1, 12, 100, stride=20), nn.Conv1d(12, 6, 1)
        self.rnn, self.head = nn.GRU(6, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, sound: torch.Tensor, state: torch.Tensor, rate: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen, after = self.rnn(self.mix(torch.relu(self.hear(sound[:, None]))).transpose(1, 2), state)
        return self.head(seen[:, -1]) + rate, after


def inputs(batch: int, length: int) -> tuple[torch.Tensor, ...]:
    return torch.randn(batch, length), torch.randn(1, batch, 8), torch.tensor(2)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("stream") / "stream.onnx"
    names: dict[str, Any] = {"input_names": ["sound", "state", "rate"], "output_names": ["out", "after"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Listening().eval(), inputs(2, 200), str(path), dynamo=False, dynamic_axes=AXES, **names)
    return path


def computed(network: Network, given: tuple[torch.Tensor, ...]) -> list[np.ndarray[Any, Any]]:
    with torch.no_grad():
        return [item.numpy() for item in network.module.eval()(*given)]


def test_is_inspected_layer_by_layer(file: Path, tmp_path: Path) -> None:
    found = inspect_model(file, "onnx", ModelMetadata(), tmp_path)
    assert [item.shape for item in found.signature.inputs] == [(None, None), (1, None, 8), ()]
    assert [layer.name for layer in found.layers if layer.prunable] == ["hear", "mix"]


@pytest.mark.parametrize("format", sorted(set(writable_names()) & set(names("model"))))
def test_each_format_keeps_the_length_and_the_batch_open(format: str, file: Path, tmp_path: Path) -> None:
    network = load_network(file, "onnx", ModelMetadata(), tmp_path)
    plain = network.with_module(network.module).plain()
    path, *_ = write_network(plain, format, tmp_path / f"again{ending_of(format)}")
    for given in (inputs(3, 300), inputs(5, 140)):
        if format == "onnx":
            feed = {spec.name: item.numpy() for spec, item in zip(plain.signature.inputs, given, strict=True)}
            found = runtime.run(runtime.open_session(path, threads=1), feed)
        else:
            found = computed(load_network(path, format, ModelMetadata(), tmp_path / "again"), given)
        for one, other in zip(computed(network, given), found, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)


def test_is_pruned_without_a_dataset(file: Path, tmp_path: Path) -> None:
    step = {"method": "structured_pruning", "pruning_ratio": 0.5}
    directory = write_job(tmp_path / "job", {"steps": [step], "evaluation": QUICK}, model=file)
    seen: list[events.Event] = []
    assert run_job(directory, seen.append) == 0, seen[-1]
    report = json.loads((directory / "out" / "report.json").read_text())
    assert report["steps"][0]["metrics"]["params_count"] < 1500
    assert report["result"]["metrics"]["random.cosine"] < 1
