"""A model format and a dataset format in a folder that an operator names: upload, job, report, and no other file changed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.plain import ApiError, Client
from tests.service.plugged import write_plugin

PLUGIN = {
    "files/toy_model.py": '''
"""A linear layer: a line that says how large it is, then its weights."""
import json

from engine.contract.errors import EngineError
from engine.contract.file_format import FileFormat


def check(stream, size):
    stream.readline()
    head = stream.readline(1000)
    rows, columns = json.loads(head)
    if size - stream.tell() != 4 * rows * (columns + 1):
        raise EngineError("truncated_upload", "The toy ends too early.")


FORMAT = FileFormat("toy_model", "model", (".toy",), lambda head: head.startswith(b"TOY MODEL\\n"), check)
''',
    "formats/toy_model/__init__.py": "",
    "formats/toy_model/stored.py": '''
"""What stands in a toy file."""
import json
import numpy as np


def tensors(path):
    with path.open("rb") as file:
        file.readline()
        rows, columns = json.loads(file.readline())
        yield "weight", (rows, columns), file.read(4 * rows * columns)
        yield "bias", (rows,), file.read(4 * rows)
''',
    "formats/toy_model/read.py": '''
"""From a toy file to a network."""
import numpy as np
import torch
from torch import nn

from engine.formats.onnx.networks import ModuleNetwork
from engine.formats.toy_model.stored import tensors
from engine.networks.network import Signature, TensorSpec


def read(path, metadata, work):
    """The layer."""
    state = {name: torch.from_numpy(np.frombuffer(data, np.float32).reshape(shape).copy()) for name, shape, data in tensors(path)}
    rows, columns = state["weight"].shape
    layer = nn.Linear(columns, rows)
    layer.load_state_dict(state)
    return ModuleNetwork(Signature((TensorSpec("x", (None, columns)),), (TensorSpec("y", (None, rows)),)), layer.eval())
''',
    "formats/toy_model/write.py": '''
"""From a network to a toy file."""
import json


def write(network, path):
    """Write the layer."""
    tensors = dict(network.tensors())
    path.write_bytes(b"TOY MODEL\\n" + json.dumps(tensors["weight"].shape).encode() + b"\\n" + tensors["weight"].tobytes() + tensors["bias"].tobytes())
    return [path]
''',
    "files/toy_data.py": '''
"""Examples as lines: a split, a label, numbers."""
from engine.contract.errors import EngineError
from engine.contract.file_format import FileFormat


def check(stream, size):
    if stream.read()[-1:] != b"\\n":
        raise EngineError("truncated_upload", "The last line is not whole.")


FORMAT = FileFormat("toy_data", "dataset", (".toys",), lambda head: head.startswith(b"TOY DATA\\n"), check)
''',
    "data/toy_data.py": '''
"""From lines to columns."""
import numpy as np

from engine.data.stored import Stored


def read(path, metadata, signature, work):
    """All lines."""
    lines = [line.split() for line in path.read_text().splitlines()[1:]]
    splits = {}
    for name in dict.fromkeys(line[0] for line in lines):
        own = [line[1:] for line in lines if line[0] == name]
        values = np.array([[float(value) for value in line[1:]] for line in own], dtype=np.float32)
        splits[name] = {"x": values, "y": np.array([int(line[0]) for line in own])}
    return Stored(splits, ("left", "right"))
''',
}
WEIGHT = np.array([[1, 0, 0, 0], [-1, 0, 0, 0]], np.float32)


def toy_model(weight: np.ndarray) -> bytes:
    return b"TOY MODEL\n" + json.dumps(weight.shape).encode() + b"\n" + weight.tobytes() + np.zeros(len(weight), np.float32).tobytes()


def toy_data(counts: dict[str, int]) -> bytes:
    rng = np.random.default_rng(3)
    rows = [(split, rng.normal(size=4)) for split, count in counts.items() for _ in range(count)]
    lines = [" ".join([split, str(int(values[1] < 0)), *(f"{value:.4f}" for value in values)]) for split, values in rows]
    return "\n".join(["TOY DATA", *lines, ""]).encode()


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_plugin(tmp_path_factory.mktemp("plugin"), PLUGIN)


@pytest.mark.slow
def test_toy_formats_run_from_upload_to_report_and_back(plugged: Client, tmp_path: Path) -> None:
    (tmp_path / "model.toy").write_bytes(toy_model(WEIGHT))
    (tmp_path / "data.toys").write_bytes(toy_data({"train": 400, "test": 200}))
    model, dataset = (
        json.loads(plugged.send("POST", f"/v1/{kind}", (tmp_path / name).read_bytes(), {"Content-Type": "application/octet-stream"}).read())
        for kind, name in (("models", "model.toy"), ("datasets", "data.toys"))
    )
    assert (model["format"], dataset["format"]) == ("toy_model", "toy_data")
    spec = {
        "model": model["id"],
        "dataset": dataset["id"],
        "steps": [{"method": "train", "epochs": 20, "learning_rate": 0.1}],
        "export": ["toy_model", "onnx"],
        "evaluation": {"latency": {"repeats": 5}},
    }
    job = plugged.end(plugged.json("POST", "/v1/jobs", spec)["id"])
    assert job["status"] == "succeeded", job["error"]
    report = plugged.json("GET", f"/v1/jobs/{job['id']}/report.json")
    before, after = (report[side]["metrics"]["test.top1"] for side in ("baseline", "result"))
    assert before < 0.7 < 0.9 < after
    assert report["result"]["file_bytes"] == (tmp_path / "model.toy").stat().st_size, "figures are those of the first format"
    files = {file["format"]: file for file in plugged.json("GET", f"/v1/jobs/{job['id']}/artifacts")["data"]}
    assert files["toy_model"]["filename"] == "model.toy"
    plugged.download(f"/v1/artifacts/{files['toy_model']['id']}/content", tmp_path / "result.toy")
    trained = np.frombuffer((tmp_path / "result.toy").read_bytes()[-40:-8], np.float32).reshape(2, 4)
    assert np.argmax(np.abs(trained[0] - trained[1])) == 1, "it has learned which number tells the label"
    assert plugged.json("GET", f"/v1/datasets/{dataset['id']}")["classes"] == ["left", "right"]
    assert plugged.send("GET", f"/v1/models/{model['id']}/content").headers["Content-Disposition"].endswith(".toy")
    promoted = plugged.json("POST", f"/v1/artifacts/{files['toy_model']['id']}/promote", {})
    assert promoted["format"] == "toy_model"


@pytest.mark.slow
def test_the_formats_own_checks_refuse_an_upload(plugged: Client) -> None:
    for kind, data in (("models", toy_model(WEIGHT)[:-1]), ("datasets", toy_data({"train": 3})[:-1])):
        with pytest.raises(ApiError) as caught:
            plugged.send("POST", f"/v1/{kind}", data, {"Content-Type": "application/octet-stream"})
        assert caught.value.code == "truncated_upload"
    with pytest.raises(ApiError, match="no format of a dataset"):
        plugged.send("POST", "/v1/datasets", toy_model(WEIGHT), {"Content-Type": "application/octet-stream"})


def test_the_command_line_tells_them_by_their_endings(plugin: Path, tmp_path: Path) -> None:
    (tmp_path / "data.toys").write_bytes(toy_data({"train": 5, "test": 2}))
    command = [sys.executable, "-m", "engine", "inspect", str(tmp_path / "data.toys")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env={**os.environ, "MODELPRESS_PLUGINS": str(plugin)})
    found = json.loads(done.stdout)
    assert (found["splits"]["train"]["examples_count"], found["classes"]) == (5, ["left", "right"])
