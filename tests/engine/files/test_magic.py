"""What the API can tell about a file by itself: its format, whether it is whole, and whether it is of a kind that is never read."""

import contextlib
import io
import json
import os
import pickle
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from engine.contract.errors import EngineError
from engine.files.magic import SNIFF_BYTES, check_file, sniff
from tests.engine.formats.onnx.files import GOOD, npz_file, torch_file, zip_file


def check(data: bytes, format: str) -> None:
    check_file(io.BytesIO(data), format)


def refused(data: bytes, format: str | None = None) -> EngineError:
    """The error that the API meets: at the first bytes, or in the check of the whole file."""
    with pytest.raises(EngineError) as caught:
        check(data, sniff(data[:SNIFF_BYTES], format))
    return caught.value


@pytest.mark.parametrize("format", GOOD)
def test_a_good_file_is_recognized_and_whole(format: str) -> None:
    data = GOOD[format]()
    assert sniff(data[:SNIFF_BYTES], None) == sniff(data[:SNIFF_BYTES], format) == format
    check(data, format)


@pytest.mark.parametrize("format", GOOD)
def test_another_declared_format_is_refused(format: str) -> None:
    other = next(name for name in GOOD if name != format)
    error = refused(GOOD[format](), other)
    assert error.code == "unsupported_format"
    assert other in error.message
    assert format in error.message


@pytest.mark.parametrize("format", GOOD)
@settings(max_examples=60, deadline=None)
@given(share=st.floats(0.0001, 0.9999))
def test_a_file_that_ends_early_is_noticed_wherever_it_ends(format: str, share: float) -> None:
    data = GOOD[format]()
    cut = data[: int(len(data) * share)]
    if len(cut) <= 60:
        return
    assert refused(cut, format).code == "truncated_upload"


@pytest.mark.parametrize("format", GOOD)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damage_is_never_anything_but_an_engine_error(format: str, data: st.DataObject) -> None:
    content = bytearray(GOOD[format]())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(EngineError):
        check(bytes(content), sniff(bytes(content[:SNIFF_BYTES]), None))


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=300), format=st.sampled_from([*GOOD]))
def test_noise_is_refused_or_harmless(content: bytes, format: str) -> None:
    for run in (lambda: sniff(content, None), lambda: check(content, format)):
        with contextlib.suppress(EngineError):
            run()


class Payload:
    def __reduce__(self) -> tuple:
        return os.system, ("exit 1",)


def scripted() -> bytes:
    buffer = io.BytesIO()
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), buffer)
    return buffer.getvalue()


def exported_program() -> bytes:
    pickled = json.dumps({"config": {"weight": {"path_name": "weight_0", "use_pickle": True}}}).encode()
    configs = {"data/weights/model_weights_config.json": pickled, "data/constants/model_constants_config.json": b"{}"}
    return zip_file({f"model/{name}": data for name, data in {"models/model.json": b"{}", **configs}.items()})


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps(Payload()),
        pickle.dumps({"a": 1}, protocol=0),
        pickle.dumps({"a": np.zeros(3)}, protocol=2),
        b"cos\nsystem\n(S'exit 1'\ntR.",
        b"\x78\x9c" + bytes(20),
        torch_file(nn.Linear(2, 2)),
        torch_file({"weight": Payload()}),
        scripted(),
        exported_program(),
        npz_file({"x_train": np.array([{"a": 1}], dtype=object), "y_train": np.zeros(1, int)}),
    ],
    ids=["pickle", "pickle0", "numpy-pickle", "opcodes", "joblib", "module", "payload", "torchscript", "pt2", "object-array"],
)
def test_what_would_have_to_be_executed_is_unsafe_and_says_how_to_convert(data: bytes) -> None:
    error = refused(data)
    assert error.code == "unsafe_format"
    assert error.hint
    assert any(word in error.hint for word in ("torch.onnx.export", "state_dict", "asarray"))


def test_a_large_pickled_module_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    error = refused(torch_file(nn.Sequential(nn.Linear(2, 2))))
    assert "torch.nn.modules" in error.message


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "empty"),
        (b"\x89HDF\r\n\x1a\n" + bytes(50), "tf2onnx"),
        (b"\x1c\x00\x00\x00TFL3" + bytes(50), "tf2onnx"),
        (b"\x1f\x8b" + bytes(50), "gzip"),
        (b"GGUF" + bytes(50), "GGUF"),
        (b"just some text, not a model", "Formats"),
        (b"\x93NUMPY\x01\x00" + bytes(50), "savez"),
        (zip_file({"readme.txt": b"hello"}), "savez"),
    ],
)
def test_other_files_are_unsupported_with_a_way_out(data: bytes, word: str) -> None:
    error = refused(data)
    assert error.code == "unsupported_format"
    assert word in f"{error.message} {error.hint}"


def test_external_data_is_seen_before_any_parser(tmp_path: Path) -> None:
    proto = onnx.load_model_from_string(GOOD["onnx"]())
    onnx.save_model(proto, str(tmp_path / "m.onnx"), save_as_external_data=True, size_threshold=0, location="weights.bin")
    error = refused((tmp_path / "m.onnx").read_bytes())
    assert error.code == "external_data_forbidden"
    assert "external_data=False" in (error.hint or "")


def header(tensors: dict, data: bytes = b"") -> bytes:
    text = json.dumps(tensors).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_safetensors_limits() -> None:
    assert refused((17 * 2**20).to_bytes(8, "little") + b"{" + bytes(100)).code == "tensor_limit_exceeded"
    many = {f"t{index}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for index in range(100_001)}
    assert refused(header(many)).code == "tensor_limit_exceeded"
    assert refused(header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(2))).code == "truncated_upload"
    assert refused(header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(9))).code == "model_invalid"


def test_a_deflate_bomb_is_refused_unread() -> None:
    bomb = npz_file({"x_train": np.zeros((1, 80 * 2**20), np.uint8)}, compressed=True)
    error = refused(bomb)
    assert error.code == "decompression_limit_exceeded"
    assert len(bomb) < 100_000
    assert "savez" in (error.hint or "")


def test_compressed_members_in_torch_files_are_refused() -> None:
    with zipfile.ZipFile(io.BytesIO(torch_file())) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    assert refused(zip_file(members, zipfile.ZIP_DEFLATED)).code == "decompression_limit_exceeded"


@pytest.mark.parametrize(
    ("arrays", "word"),
    [
        ({"images": np.zeros(3), "labels": np.zeros(3)}, "x_train"),
        ({"x_train": np.zeros((3, 2)), "X_test": np.zeros((3, 2))}, "x_test"),
        ({"x_train": np.zeros((3, 2)), "x_val": np.zeros((3, 2))}, "x_validation"),
        ({"x_train": np.zeros((3, 2)), "y_test": np.zeros(3, int)}, "no x_test"),
        ({"x_train": np.zeros((0, 2))}, "no examples"),
        ({"x_train": np.array(["a", "b"])}, "numbers"),
        ({"x_train": np.zeros(2, dtype=[("a", "f4"), ("b", "i4")])}, "structured"),
        ({"x_train": np.zeros((2, 2), dtype=complex)}, "numbers"),
    ],
)
def test_arrays_that_are_no_dataset(arrays: dict, word: str) -> None:
    error = refused(npz_file(arrays))
    assert error.code == "dataset_invalid"
    assert word in f"{error.message} {error.hint}"


def test_a_member_that_lies_about_its_shape() -> None:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": (1000, 1000, 1000, 1000)})
    error = refused(zip_file({"x_train.npy": buffer.getvalue()}))
    assert error.code == "dataset_invalid"
    assert "does not match" in error.message


def test_messages_hold_no_control_characters() -> None:
    error = refused(zip_file({"x_tr\x1b[31main.npy\n": b""}))
    assert error.message.isprintable()


def test_a_file_of_two_gigabytes_costs_as_little_as_a_small_one(tmp_path: Path) -> None:
    """A sparse file whose tensors lie past the first gigabyte is checked by seeking."""
    size = 2 * 2**30 - 2**20
    head = header({"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}})
    path = tmp_path / "big.safetensors"
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + size)
    started = time.perf_counter()
    with path.open("rb") as stream:
        assert sniff(stream.read(SNIFF_BYTES), "safetensors") == "safetensors"
        check_file(stream, "safetensors")
    raw = onnx.TensorProto(name="w", data_type=onnx.TensorProto.UINT8, dims=[1]).SerializeToString() + b"\x4a"
    length = size - 2**20
    tensor = raw + _varint(length)
    graph_length = 1 + len(_varint(len(tensor) + length)) + len(tensor) + length
    big = tmp_path / "big.onnx"
    with big.open("wb") as file:
        file.write(b"\x08\x08\x3a" + _varint(graph_length) + b"\x2a" + _varint(len(tensor) + length) + tensor)
        file.seek(length, os.SEEK_CUR)
        file.write(b"\x42\x02\x10\x12")
    with big.open("rb") as stream:
        assert sniff(stream.read(SNIFF_BYTES), None) == "onnx"
        check_file(stream, "onnx")
    assert time.perf_counter() - started < 1


def _varint(value: int) -> bytes:
    result = bytearray()
    while value >= 0x80:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*result, value])


def test_the_check_needs_neither_numpy_nor_torch() -> None:
    script = (
        "import sys; import engine.files.magic, engine.architectures.spec, engine.data; "
        "print([name for name in ('numpy', 'torch', 'onnx', 'onnxruntime', 'safetensors') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
