"""Weights beside an ONNX file are taken from the archive alone, and computed with as torch does."""

import io
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import external_data_helper

from engine.contract.errors import EngineError
from engine.contract.metadata import ModelMetadata
from engine.files.magic import check_file, sniff
from engine.formats.loading import load_network
from engine.jobs.inspection import inspect_model
from tests.engine.formats.onnx.files import lenet, zip_file

X = torch.linspace(-1, 1, 3 * 64).reshape(3, 1, 8, 8)


def exported(tmp_path: Path, *, location: str = "net.onnx.data") -> tuple[onnx.ModelProto, bytes]:
    """`lenet()` as ONNX with its weights in another file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(lenet().eval(), (X,), str(tmp_path / "whole.onnx"), dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "n"}})
    model = onnx.load(str(tmp_path / "whole.onnx"))
    onnx.save_model(model, str(tmp_path / "net.onnx"), save_as_external_data=True, location="data.bin", size_threshold=0)
    split = onnx.load_model(str(tmp_path / "net.onnx"), load_external_data=False)
    for tensor in split.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    return split, (tmp_path / "data.bin").read_bytes()


def archived(model: onnx.ModelProto, data: bytes, name: str = "net.onnx.data", folder: str = "", **options: Any) -> bytes:
    return zip_file({f"{folder}net.onnx": model.SerializeToString(), f"{folder}{name}": data}, **options)


def load(tmp_path: Path, content: bytes) -> Any:
    path = tmp_path / "net.zip"
    path.write_bytes(content)
    with path.open("rb") as file:
        check_file(file, "onnx_zip")
    return load_network(path, "onnx_zip", ModelMetadata(), tmp_path / "work")


@pytest.mark.parametrize("options", [{}, {"folder": "export/"}, {"compression": zipfile.ZIP_DEFLATED}])
def test_the_network_is_the_one_that_was_exported(tmp_path: Path, options: dict[str, Any]) -> None:
    content = archived(*exported(tmp_path), **options)
    assert sniff(content[:4096], None) == "onnx_zip"
    network = load(tmp_path, content)
    expected = lenet()(X).detach().numpy()
    np.testing.assert_allclose(network.module(X).detach().numpy(), expected, atol=1e-5)
    session = onnxruntime.InferenceSession(str(network.file(tmp_path / "out.onnx")))
    np.testing.assert_allclose(session.run(None, {"x": X.numpy()})[0], expected, atol=1e-5)
    found = inspect_model(tmp_path / "net.zip", "onnx_zip", ModelMetadata(), tmp_path / "inspected")
    assert (found.trainable, found.params_count) == (True, sum(item.numel() for item in lenet().parameters()))


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "net.onnx.data/../../x", "other.data", ""])
def test_data_elsewhere_is_not_read(tmp_path: Path, location: str) -> None:
    model, data = exported(tmp_path, location=location)
    (tmp_path / "secret").write_bytes(data)
    with pytest.raises(EngineError) as caught:
        load(tmp_path, archived(model, data))
    assert caught.value.code == "external_data_forbidden"


def _changed(model: onnx.ModelProto, key: str, value: str) -> onnx.ModelProto:
    first = next(tensor for tensor in model.graph.initializer if tensor.external_data)
    for entry in first.external_data:
        if entry.key == key:
            entry.value = value
    return model


@pytest.mark.parametrize(
    ("key", "value"),
    [("offset", "-4"), ("offset", "100000000"), ("offset", "x"), ("length", "4"), ("length", "-1"), ("length", "99999999999")],
)
def test_places_that_are_not_those_of_the_tensor_are_refused(tmp_path: Path, key: str, value: str) -> None:
    model, data = exported(tmp_path)
    with pytest.raises(EngineError) as caught:
        load(tmp_path, archived(_changed(model, key, value), data))
    assert caught.value.code == "model_invalid"


def test_archives_that_are_no_such_are_refused(tmp_path: Path) -> None:
    model, data = exported(tmp_path)
    graph = model.SerializeToString()
    for members, code in (
        ({"a.onnx": graph, "b.onnx": graph}, "model_invalid"),
        ({"x/net.onnx": graph, "y/net.onnx.data": data}, "model_invalid"),
        ({"net.onnx": b"nonsense", "net.onnx.data": data}, "model_invalid"),
        ({"net.onnx": graph[: len(graph) // 2], "net.onnx.data": data}, "truncated_upload"),
        ({"net.onnx": graph, "net.onnx.data": data[:100]}, "model_invalid"),
    ):
        with pytest.raises(EngineError) as caught:
            load(tmp_path, zip_file(members))
        assert caught.value.code == code
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net.onnx", graph)
        archive.writestr("net.onnx.data", bytes(80 << 20))
    with pytest.raises(EngineError) as caught:
        load(tmp_path, bomb.getvalue())
    assert caught.value.code == "decompression_limit_exceeded"
    assert external_data_helper.uses_external_data(next(iter(model.graph.initializer)))
