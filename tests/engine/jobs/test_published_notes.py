"""No published file tells where a network was exported: stack traces and paths of a machine stay out of it."""

import json
import re
from pathlib import Path
from typing import Any

import onnx
import pytest

from engine.contract import events
from engine.jobs.run import run_job
from tests.engine.small import cnn_file, dataset_file, trained_cnn, write_job

PATHS = re.compile(rb"/(home|root|tmp|usr|opt|work|Users|site-packages)/[\w.-]+|\.py\b|[A-Z]:\\\\\w")
TRACE = 'File "/home/someone/secret/train.py", line 8, in forward'


def annotated(folder: Path) -> Path:
    """A network with notes wherever a file can keep some."""
    cnn_file(folder / "plain.onnx", trained_cnn())
    proto = onnx.load(folder / "plain.onnx")
    proto.graph.doc_string = TRACE
    for item in (*proto.graph.node, *proto.graph.initializer, *proto.graph.input, *proto.graph.output):
        item.doc_string = TRACE
        item.metadata_props.add(key="pkg.torch.onnx.stack_trace", value=TRACE)
    proto.metadata_props.add(key="classes", value="left right")
    onnx.save(proto, folder / "annotated.onnx")
    return folder / "annotated.onnx"


def test_the_example_has_none() -> None:
    example = Path(__file__).parents[3] / "examples" / "digits.onnx"
    assert PATHS.search(example.read_bytes()) is None
    assert PATHS.search(TRACE.encode())


@pytest.mark.parametrize(
    "step",
    [
        {"method": "static_quantization", "calibration": {"samples": 20}},
        {"method": "dynamic_quantization"},
        {"method": "train", "iterations": 1},
        {"method": "sensitivity", "ratios": [0.5]},
    ],
    ids=lambda step: step["method"],
)
def test_published_files_have_none(step: dict[str, Any], tmp_path: Path) -> None:
    dataset_file(tmp_path / "data.npz")
    spec = {"steps": [step], "evaluation": {"latency": {"repeats": 5}}, "export": ["onnx", "safetensors"]}
    directory = write_job(tmp_path / "job", spec, model=annotated(tmp_path), dataset=tmp_path / "data.npz")
    told: list[events.Event] = []
    run_job(directory, told.append)
    assert told[-1].type == "done", told[-1]
    published = [path for path in (directory / "out").iterdir() if path.suffix in (".onnx", ".safetensors")]
    assert {path.name for path in published} >= {"model.onnx", "model.safetensors"}
    for path in published:
        assert PATHS.search(path.read_bytes()) is None, path.name
    report = json.loads((directory / "out" / "report.json").read_text())
    assert report["result"]["file_bytes"] == (directory / "out" / "model.onnx").stat().st_size
