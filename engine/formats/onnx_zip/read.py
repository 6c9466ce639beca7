"""Reads an ONNX file with external data as one without: the data is taken from the archive alone, whatever the file calls it."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

import onnx

from engine.contract.errors import EngineError
from engine.contract.metadata import ModelMetadata
from engine.files.archive import DAMAGED, open_archive, printable
from engine.files.magic import check_file
from engine.files.onnx import check_outline
from engine.files.onnx_zip import HINT, MAX_BYTES, members_of
from engine.formats.onnx.contents import all_tensors
from engine.formats.onnx.read import read as read_onnx
from engine.networks.network import Network

_BITS: dict[int, int] = {
    onnx.TensorProto.DOUBLE: 64,
    onnx.TensorProto.INT64: 64,
    onnx.TensorProto.UINT64: 64,
    onnx.TensorProto.FLOAT: 32,
    onnx.TensorProto.INT32: 32,
    onnx.TensorProto.UINT32: 32,
    onnx.TensorProto.FLOAT16: 16,
    onnx.TensorProto.BFLOAT16: 16,
    onnx.TensorProto.INT16: 16,
    onnx.TensorProto.UINT16: 16,
    onnx.TensorProto.INT8: 8,
    onnx.TensorProto.UINT8: 8,
    onnx.TensorProto.BOOL: 8,
    onnx.TensorProto.INT4: 4,
    onnx.TensorProto.UINT4: 4,
}


def read(path: Path, metadata: ModelMetadata, work: Path) -> Network:
    """The network of the graph. Raises `model_invalid`, `external_data_forbidden`, and what the reader of ONNX does."""
    work.mkdir(parents=True, exist_ok=True)
    single = work / "one_file.onnx"
    with path.open("rb") as stream:
        check_file(stream, "onnx_zip")
        try:
            with open_archive(stream) as archive:
                model = _whole(archive, work)
        except DAMAGED as error:
            raise EngineError("model_invalid", "The archive is damaged.", hint=HINT) from error
    single.write_bytes(model.SerializeToString())
    del model
    return read_onnx(single, metadata, work)


def _whole(archive: zipfile.ZipFile, work: Path) -> onnx.ModelProto:
    graph, beside = members_of(archive)
    inner = work / "graph.onnx"
    inner.write_bytes(_content(archive, graph))
    with inner.open("rb") as stream:
        check_outline(stream, graph.file_size, external=True)
    try:
        model = onnx.load_model(str(inner), load_external_data=False)
    except Exception as error:
        raise EngineError("model_invalid", "The file is not a whole ONNX model: its protobuf ends early or is damaged.") from error
    inner.unlink()
    data: dict[str, bytes] = {}
    total = graph.file_size
    for tensor in all_tensors(model):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        stated = {entry.key: entry.value for entry in tensor.external_data}
        location = stated.get("location", "").removeprefix("./")
        if location not in beside:
            raise EngineError(
                "external_data_forbidden",
                f"The tensor {printable(tensor.name)!r} lies in {printable(location)!r}, which is not in the archive.",
                hint=HINT,
            )
        if location not in data:
            data[location] = _content(archive, beside[location])
        raw = _part(data[location], stated, tensor)
        total += len(raw)
        if total > MAX_BYTES:
            raise EngineError("tensor_limit_exceeded", f"The tensors have more than {MAX_BYTES} bytes.")
        tensor.raw_data = raw
        del tensor.external_data[:]
        tensor.data_location = onnx.TensorProto.DEFAULT
    return model


def _part(data: bytes, stated: dict[str, str], tensor: onnx.TensorProto) -> bytes:
    """The bytes of one tensor, as many as its shape has. Raises `model_invalid`."""
    bits = _BITS.get(tensor.data_type)
    try:
        offset, length = int(stated.get("offset", "0")), int(stated["length"]) if "length" in stated else None
    except ValueError:
        offset, length = -1, None
    wanted = -1 if bits is None or any(dim < 0 for dim in tensor.dims) else -(-math.prod(tensor.dims) * bits // 8)
    if wanted < 0 or offset < 0 or length not in (None, wanted) or offset + wanted > len(data):
        raise EngineError(
            "model_invalid",
            f"The tensor {printable(tensor.name)!r} of shape {tuple(tensor.dims)} is not at offset {offset} with length {length} of its file.",
            hint=HINT,
        )
    return data[offset : offset + wanted]


def _content(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    with archive.open(info) as stream:
        data = stream.read(info.file_size + 1)
    if len(data) != info.file_size:
        raise zipfile.BadZipFile(f"{info.filename!r} has another size than stated")
    return data
