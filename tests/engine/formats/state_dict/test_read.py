"""Weights of safetensors and `.pt` files in builtin architectures: every tensor, no other, and nothing but tensors."""

import contextlib
import io
import zipfile
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.architectures.build import build_architecture
from engine.contract.errors import EngineError
from engine.contract.metadata import ModelMetadata
from engine.formats import load_network
from engine.networks.network import Network
from tests.engine.formats.onnx.files import GOOD, LENET, lenet, torch_file

WRITERS = {"safetensors": safetensors.torch.save, "pt": torch_file}


def load(path: Path, data: bytes, format: str, metadata: dict[str, Any] = LENET) -> Network:
    path = path / f"weights.{format}"
    path.write_bytes(data)
    return load_network(path, format, ModelMetadata.model_validate(metadata), path.parent)


def refused(path: Path, data: bytes, format: str, metadata: dict[str, Any] = LENET) -> EngineError:
    with pytest.raises(EngineError) as caught:
        load(path, data, format, metadata)
    return caught.value


@pytest.mark.parametrize("format", WRITERS)
def test_weights_are_loaded_exactly_and_train(format: str, tmp_path: Path) -> None:
    network = load(tmp_path, GOOD[format](), format)
    images = torch.randn(5, 1, 8, 8)
    torch.testing.assert_close(network.module(images), lenet()(images), atol=0, rtol=0)
    assert [spec.shape for spec in network.signature.inputs] == [(None, 1, 8, 8)]
    assert network.module.training is False
    network.module.train()(images).sum().backward()
    assert all(parameter.grad is not None for parameter in network.module.parameters())


@pytest.mark.parametrize("format", WRITERS)
def test_missing_unexpected_and_misshapen_tensors_are_listed(format: str, tmp_path: Path) -> None:
    weights = dict(lenet().state_dict())
    weights["extra.weight"] = torch.zeros(2)
    weights["1.weight"] = torch.zeros(6, 63)
    del weights["5.bias"]
    error = refused(tmp_path, WRITERS[format](weights), format)
    assert error.code == "model_invalid"
    assert all(name in error.message for name in ("extra.weight", "5.bias", "(6, 63) instead of (6, 64)"))
    assert error.details["missing"] == ["5.bias"]


@pytest.mark.parametrize("format", WRITERS)
def test_weights_that_are_not_finite_are_named(format: str, tmp_path: Path) -> None:
    weights = dict(lenet().state_dict())
    weights["3.weight"] = torch.full_like(weights["3.weight"], torch.nan)
    error = refused(tmp_path, WRITERS[format](weights), format)
    assert error.code == "non_finite_weights"
    assert "3.weight" in error.message


@pytest.mark.parametrize(
    "wrap", [lambda weights: {"state_dict": weights, "epoch": 3}, lambda weights: {f"module.{k}": v for k, v in weights.items()}]
)
def test_checkpoints_as_training_scripts_write_them(wrap: Any, tmp_path: Path) -> None:
    images = torch.randn(2, 1, 8, 8)
    network = load(tmp_path, torch_file(wrap(lenet().state_dict())), "pt")
    torch.testing.assert_close(network.module(images), lenet()(images))


def test_half_precision_is_computed_in_single(tmp_path: Path) -> None:
    halves = {name: tensor.half() for name, tensor in lenet().state_dict().items()}
    network = load(tmp_path, safetensors.torch.save(halves), "safetensors")
    assert {parameter.dtype for parameter in network.module.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("stated", "word"),
    [
        (None, "holds weights only"),
        ("lenet_300", "lenet_300_100"),
        ({"name": "lenet_300_100", "params": {"classes": 3}}, "classes"),
        ({"name": "resnet20", "params": {"depth": 56}}, "fixes depth"),
        ({"name": "lenet_300_100", "params": {"num_classes": 0}}, "num_classes"),
        ({"name": "vit_small_images", "params": {"patch_size": 5}}, "multiple"),
        ({"name": "lenet_5", "other": 1}, "other than"),
    ],
)
def test_an_architecture_that_is_not_builtin(stated: Any, word: str, tmp_path: Path) -> None:
    error = refused(tmp_path, GOOD["safetensors"](), "safetensors", {"architecture": stated})
    assert error.code == "architecture_invalid"
    assert word in f"{error.message} {error.hint}"


def header(entries: str, data: bytes = b"") -> bytes:
    return len(entries).to_bytes(8, "little") + entries.encode() + data


ENTRY = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'


@pytest.mark.parametrize(
    "entries",
    [
        f'{{"a":{ENTRY},"a":{ENTRY}}}',
        f'{{"../../etc/x":{ENTRY}}}',
        f'{{"a\\n<script>":{ENTRY}}}',
        f'{{"{"n" * 300}":{ENTRY}}}',
        f'{{"a":{ENTRY},',
    ],
    ids=["twice", "path", "control", "long", "no-json"],
)
def test_headers_that_the_library_would_take(entries: str, tmp_path: Path) -> None:
    error = refused(tmp_path, header(entries, bytes(4)), "safetensors")
    assert error.code == "model_invalid"
    assert error.message.isprintable()


def test_a_view_that_claims_more_than_is_stored(tmp_path: Path) -> None:
    bomb = {"1.weight": torch.zeros(1).expand(2**20, 2**20)}
    error = refused(tmp_path, torch_file(bomb), "pt")
    assert error.code == "tensor_limit_exceeded"


@pytest.mark.parametrize("content", [[torch.zeros(2)], {"a": {"b": torch.zeros(1)}}, {1: torch.zeros(1)}, torch.zeros(3)])
def test_what_is_no_state_dict(content: Any, tmp_path: Path) -> None:
    error = refused(tmp_path, torch_file(content), "pt")
    assert error.code == "model_invalid"
    assert "state_dict" in (error.hint or "")


def test_sparse_and_quantized_tensors_are_refused(tmp_path: Path) -> None:
    error = refused(tmp_path, torch_file({"1.weight": torch.eye(3).to_sparse()}), "pt")
    assert error.code in ("unsafe_format", "tensor_limit_exceeded", "model_invalid")


@pytest.mark.parametrize("format", WRITERS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damage_is_never_anything_but_an_engine_error(format: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    content = bytearray(GOOD[format]())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(EngineError):
        load(tmp_path_factory.getbasetemp(), bytes(content), format)


def test_a_payload_in_the_program_never_runs(tmp_path: Path) -> None:
    """The pickle program of a good file is replaced by one that would write a file."""
    marker = tmp_path / "ran"
    program = f"cpathlib\nPath\n(S'{marker}'\ntR.".encode()
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(torch_file())) as source, zipfile.ZipFile(out, "w") as target:
        for info in source.infolist():
            target.writestr(info.filename, program if info.filename.endswith("data.pkl") else source.read(info))
    assert refused(tmp_path, out.getvalue(), "pt").code == "unsafe_format"
    assert not marker.exists()


def test_batch_counters_may_be_missing(tmp_path: Path) -> None:
    """Converted checkpoints often lack `num_batches_tracked`."""
    module, _ = build_architecture("resnet8")
    weights = {name: tensor for name, tensor in module.state_dict().items() if not name.endswith("num_batches_tracked")}
    network = load(tmp_path, safetensors.torch.save(weights), "safetensors", {"architecture": "resnet8"})
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(network.module(images), module.eval()(images))
