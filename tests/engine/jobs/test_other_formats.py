"""Results in every format that is written: read again as an upload, they are the network that the ONNX file is."""

import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from engine.contract import events
from engine.contract.errors import EngineError
from engine.contract.file_format import format_of, writable_names
from engine.contract.metadata import ModelMetadata
from engine.contract.spec import parse
from engine.files.magic import check_file, sniff
from engine.formats.loading import load_network, write_network
from engine.formats.pt2 import export
from engine.jobs.run import run_job
from tests.engine.conftest import make_split
from tests.engine.small import cnn_file, dataset_file, trained_cnn, write_job

PRUNED = [{"method": "structured_pruning", "pruning_ratio": 0.5}]
LAST = {"evaluation": {"latency": {"repeats": 5}}}


def ran(folder: Path, spec: dict[str, Any]) -> list[Any]:
    found: list[events.Event] = []
    model, dataset = cnn_file(folder / "cnn.onnx", trained_cnn()), dataset_file(folder / "data.npz")
    assert run_job(write_job(folder / "job", {**LAST, **spec}, model=model, dataset=dataset), found.append) == 0, found[-1]
    return found


def artifacts(found: list[Any]) -> dict[str, Any]:
    return {event.format: event for event in found if event.type == "artifact" and event.kind == "model" and event.step_index is None}


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("pruned")
    return folder / "job" / "out", artifacts(ran(folder, {"steps": PRUNED, "export": sorted(writable_names())}))


def test_a_pruned_network_is_every_format_and_each_is_scored_by_itself(pruned: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    out, found = pruned
    assert set(found) == set(writable_names()) >= {"onnx", "safetensors", "pt2", "huggingface"}
    images = np.asarray(make_split(16, seed=5).images, np.float32)
    expected = onnxruntime.InferenceSession(str(out / "model.onnx")).run(None, {"x": images})[0]
    for format, event in found.items():
        if not format_of(format, "model").readable:
            assert event.metrics == pytest.approx(found["onnx"].metrics, rel=1e-5)  # another runtime adds up in another order
            continue
        assert event.metrics == found["onnx"].metrics
        path = out / event.filename
        with path.open("rb") as file:
            assert sniff(file.read(4096), None) == format
            check_file(file, format)
        network = load_network(path, format, ModelMetadata(), tmp_path / format)
        with torch.no_grad():
            np.testing.assert_allclose(network.module(torch.from_numpy(images)).numpy(), expected, atol=1e-5)
        assert [(spec.name, spec.dtype) for spec in network.signature.inputs] == [("x", "float32")]
        assert network.signature.inputs[0].shape[0] is None
        # It is a model to go on with: its convolutions can be trained and cut once more.
        assert any(isinstance(layer, torch.nn.Conv2d) for layer in network.module.modules())


def test_the_program_is_torch_s_own_and_holds_nothing_of_the_machine(pruned: tuple[Path, dict[str, Any]]) -> None:
    path = pruned[0] / pruned[1]["pt2"].filename
    images = torch.as_tensor(np.asarray(make_split(3, seed=5).images, np.float32))
    expected = onnxruntime.InferenceSession(str(pruned[0] / "model.onnx")).run(None, {"x": images.numpy()})[0]
    loaded = torch.export.load(path).module()  # our own file
    np.testing.assert_allclose(loaded(images).detach().numpy(), expected, atol=1e-5)
    with zipfile.ZipFile(path) as archive:
        program = next(archive.read(name) for name in archive.namelist() if name.endswith("model.json"))
        assert b"stack_trace" not in program
        assert str(Path(__file__).parents[3]).encode() not in program
        assert not any(info.file_size for info in archive.infolist() if "sample_inputs" in info.filename)
        weights = sum(info.file_size for info in archive.infolist() if "/data/weights/weight_" in info.filename)
    network = load_network(path, "pt2", ModelMetadata(), path.parent)
    assert weights == sum(item.numel() * item.element_size() for item in network.module.state_dict().values())


def test_a_quantized_graph_is_weights_with_its_graph_or_refused(tmp_path: Path) -> None:
    quantized = [*PRUNED, {"method": "static_quantization", "calibration": {"samples": 64}}]
    _, problems = parse({"model": "mdl_a", "dataset": "ds_a", "steps": quantized, "export": ["onnx", "pt2"]})
    assert [(problem.pointer, problem.code) for problem in problems] == [("/export/1", "export_unsupported")]
    found = artifacts(ran(tmp_path, {"steps": quantized, "export": ["onnx", "safetensors"]}))
    assert found["safetensors"].metrics == found["onnx"].metrics
    network = load_network(tmp_path / "job/out/model.safetensors", "safetensors", ModelMetadata(), tmp_path / "work")
    (again,) = write_network(network, "onnx", tmp_path / "again.onnx")
    images = {"x": np.asarray(make_split(16, seed=5).images, np.float32)}
    given = [onnxruntime.InferenceSession(str(path)).run(None, images)[0] for path in (again, tmp_path / "job/out/model.onnx")]
    np.testing.assert_array_equal(*given)


def test_what_a_format_cannot_express_is_said_and_the_rest_is_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "open_shapes", lambda module, signature: None)  # a program for two examples at a time
    found = ran(tmp_path, {"steps": [{"method": "magnitude_pruning", "sparsity": 0.1}], "export": ["pt2", "onnx"]})
    assert list(artifacts(found)) == ["onnx"]
    assert [event.code for event in found if event.type == "warning" and event.code == "export_unsupported"] == ["export_unsupported"]
    report = json.loads((tmp_path / "job/out/report.json").read_text())
    assert report["result"]["file_bytes"] == (tmp_path / "job/out/model.onnx").stat().st_size


def test_openvino_runs_what_the_onnx_file_is(pruned: tuple[Path, dict[str, Any]]) -> None:
    openvino = pytest.importorskip("openvino")
    out, _ = pruned
    images = np.asarray(make_split(16, seed=5).images, np.float32)
    expected = onnxruntime.InferenceSession(str(out / "model.onnx")).run(None, {"x": images})[0]
    compiled = openvino.Core().compile_model(out / "model.xml", "CPU", {"EXECUTION_MODE_HINT": "ACCURACY"})
    np.testing.assert_allclose(compiled({"x": images})[0], expected, atol=1e-5)
    assert compiled.inputs[0].get_partial_shape()[0].is_dynamic
    weights = sum(tensor.nbytes for tensor in map(onnx.numpy_helper.to_array, onnx.load(out / "model.onnx").graph.initializer))
    assert abs((out / "model.bin").stat().st_size - weights) < 2000  # in their own types: not in half precision
    assert str(out.parent).encode() not in (out / "model.xml").read_bytes()


def test_openvino_scores_a_quantized_graph_with_its_own_kernels(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    quantized = {"method": "static_quantization", "calibration": {"samples": 64}}
    found = ran(tmp_path, {"steps": [quantized], "export": ["openvino", "onnx"]})
    files = {event.filename: event for event in found if event.type == "artifact" and event.kind == "model" and event.step_index is None}
    assert set(files) == {"model.onnx", "model.xml", "model.bin"}
    assert abs(files["model.xml"].metrics["test.top1"] - files["model.onnx"].metrics["test.top1"]) < 0.05
    assert files["model.bin"].size_bytes < 0.5 * (tmp_path / "cnn.onnx").stat().st_size  # eight bits a weight, also there


def test_without_openvino_the_other_formats_are_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    found = ran(tmp_path, {"steps": [{"method": "magnitude_pruning", "sparsity": 0.1}], "export": ["openvino", "onnx"]})
    assert list(artifacts(found)) == ["onnx"]
    (warning,) = [event for event in found if event.type == "warning" and event.code == "export_unsupported"]
    assert "no OpenVINO" in warning.message
    assert "modelpress[openvino]" in warning.message


def test_openvino_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="not read") as caught:
        load_network(tmp_path / "model.xml", "openvino", ModelMetadata(), tmp_path)
    assert caught.value.code == "unsupported_format"
    with pytest.raises(EngineError, match="OpenVINO"):
        sniff(b"<?xml version='1.0'?>\n<net name='x'>", None)
