"""What a stored file is and whether it is whole, told without any library of its format: the API runs this, before any parser.

Files are walked by seeking from length field to length field, so that a file of 2 GiB costs as little as a small one. Everything
that is wrong comes as `EngineError`; what is only found by parsing (shapes, weights, operators) is left to the inspection.
"""

from __future__ import annotations

import os
import re
from typing import IO

from engine.contract import limits
from engine.contract.errors import EngineError
from engine.files import description, onnx_wire, torch_archive
from engine.files.archive import DAMAGED, printable
from engine.files.npz_members import check_npz

MODEL_FORMATS = ("onnx", "safetensors", "pt", description.FORMAT)
DATASET_FORMATS = ("npz",)
ENDINGS = {format: f".{format}" for format in (*MODEL_FORMATS, *DATASET_FORMATS)} | {description.FORMAT: ".json"}
"""How the names of files end."""
SNIFF_BYTES = 4096
"""How many first bytes `sniff` wants to see, where the file has so many."""

EXPORT_HINT = (
    "Convert it where it was made: torch.onnx.export(model.eval(), (example,), 'model.onnx', external_data=False, "
    "dynamic_shapes=({0: torch.export.Dim('batch')},)), and upload model.onnx; or save weights with "
    "safetensors.torch.save_file(model.state_dict(), 'model.safetensors') and name a builtin architecture."
)
_OFFSETS = re.compile(rb'"data_offsets"\s*:\s*\[\s*(\d{1,20})\s*,\s*(\d{1,20})\s*\]')
_PROTOCOL_0 = re.compile(rb"^(c[\w.]+\n[\w.]+\n|\(([dli]|c[\w.]+\n)|[(\]}]?[lad]p\d+\n)")
_FOREIGN = (
    (
        b"\x89HDF\r\n\x1a\n",
        "an HDF5 file (Keras)",
        "Convert it with tf2onnx: python -m tf2onnx.convert --keras model.h5 --output model.onnx.",
    ),
    (b"\x1f\x8b", "gzip", "Upload the file itself, not compressed."),
    (b"\x28\xb5\x2f\xfd", "Zstandard", "Upload the file itself, not compressed."),
    (b"PAR1", "Parquet", "Upload datasets as npz."),
    (b"\x89PNG", "an image", "Upload datasets as npz."),
    (b"\xff\xd8\xff", "an image", "Upload datasets as npz."),
    (b"%PDF", "a PDF", None),
    (b"\x7fELF", "a program", None),
    (b"GGUF", "GGUF", EXPORT_HINT),
)


def sniff(first_bytes: bytes, declared: str | None) -> str:
    """The format of a file: `onnx`, `safetensors`, `pt`, `architecture` or `npz`, told by its first bytes (up to `SNIFF_BYTES`).

    Raises `unsafe_format` for pickles, joblib files and what else would have to be executed to be read, and `unsupported_format`
    for anything unknown or other than `declared`.
    """
    found = _recognize(first_bytes)
    if declared is not None and declared != found:
        known = ", ".join((*MODEL_FORMATS, *DATASET_FORMATS))
        if declared not in (*MODEL_FORMATS, *DATASET_FORMATS):
            raise EngineError("unsupported_format", f"The format {printable(declared)!r} is not known.", hint=f"Formats: {known}.")
        raise EngineError(
            "unsupported_format", f"The file was declared as {declared}, but its first bytes are those of {found}.", hint="Correct format=."
        )
    return found


def check_file(stream: IO[bytes], format: str) -> None:
    """Check a stored file from end to end without reading its data. `stream` is seekable and opened for reading bytes.

    Raises `truncated_upload`, `unsafe_format`, `external_data_forbidden`, `model_invalid`, `architecture_invalid`, `dataset_invalid` and the codes of
    `engine.contract.limits`.
    """
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    try:
        if format == "onnx":
            onnx_wire.check(stream, size)
        elif format == "safetensors":
            _check_safetensors(stream, size)
        elif format == "pt":
            torch_archive.check(stream)
        elif format == "npz":
            check_npz(stream)
        elif format == description.FORMAT:
            description.read_description(stream)
        else:
            raise EngineError("unsupported_format", f"Files of format {printable(format)!r} are not read.")
    except DAMAGED as error:
        raise EngineError("truncated_upload", "The archive has no end, or is damaged.", hint="Upload the file again.") from error


def _recognize(first: bytes) -> str:
    if not first:
        raise EngineError("unsupported_format", "The file is empty.")
    if first.startswith(b"PK\x03\x04"):
        return _zip_format(first)
    if (first[0] == 0x80 and len(first) > 1 and first[1] in range(1, 6)) or _PROTOCOL_0.match(first):
        raise EngineError(
            "unsafe_format", "The file is a Python pickle (torch.save of old, joblib): reading it would run its code.", hint=EXPORT_HINT
        )
    if first[:2] in (b"\x78\x01", b"\x78\x9c", b"\x78\xda") or first.startswith(b"ZF"):
        raise EngineError("unsafe_format", "The file is compressed as joblib does it: reading it would run its code.", hint=EXPORT_HINT)
    if first.startswith(b"\x93NUMPY"):
        raise EngineError(
            "unsupported_format",
            "The file is one npy array.",
            hint="Store all arrays in one file: numpy.savez(path, x_train=…, y_train=…).",
        )
    if first[4:8] == b"TFL3":
        raise EngineError(
            "unsupported_format",
            "The file is TensorFlow Lite.",
            hint="Convert it: python -m tf2onnx.convert --tflite model.tflite --output model.onnx.",
        )
    for magic, name, hint in _FOREIGN:
        if first.startswith(magic):
            raise EngineError("unsupported_format", f"The file is {name}, which is not read.", hint=hint)
    if len(first) > 8 and first[8:9] == b"{" and int.from_bytes(first[:8], "little") < 2**40:
        return "safetensors"
    if onnx_wire.looks_like_model(first):
        return "onnx"
    if first.lstrip().startswith(b"{"):
        return description.FORMAT
    raise EngineError(
        "unsupported_format",
        "The first bytes are those of no format that is read.",
        hint=f"Formats: {', '.join((*MODEL_FORMATS, *DATASET_FORMATS))}.",
    )


def _zip_format(first: bytes) -> str:
    length = int.from_bytes(first[26:28], "little")
    name = first[30 : 30 + length].decode("utf-8", "replace")
    if name.endswith(".npy"):
        return "npz"
    if torch_archive.is_member(name):
        return "pt"
    hint = "Datasets: numpy.savez(path, x_train=…, y_train=…). Models: onnx, safetensors, or torch.save(model.state_dict(), path)."
    raise EngineError(
        "unsupported_format", f"The file is a zip archive that begins with {printable(name)!r}: neither npz nor torch weights.", hint=hint
    )


def _check_safetensors(stream: IO[bytes], size: int) -> None:
    start = stream.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8:
        raise EngineError("truncated_upload", "The file ends within its header.", hint="Upload the file again.")
    if length > limits.MAX_HEADER_BYTES:
        raise EngineError("tensor_limit_exceeded", f"The safetensors header has {length} bytes, the limit is {limits.MAX_HEADER_BYTES}.")
    if 8 + length > size:
        raise EngineError("truncated_upload", "The file ends within its header.", hint="Upload the file again.")
    header = stream.read(length)
    if not header.startswith(b"{"):
        raise EngineError("model_invalid", "The safetensors header is not JSON.")
    end = tensors = 0
    for match in _OFFSETS.finditer(header):
        tensors += 1
        end = max(end, int(match[2]))
    if tensors > limits.MAX_TENSORS:
        raise EngineError("tensor_limit_exceeded", f"The file has {tensors} tensors, the limit is {limits.MAX_TENSORS}.")
    if 8 + length + end > size:
        raise EngineError(
            "truncated_upload", f"The tensors reach to byte {8 + length + end}, but the file has {size}.", hint="Upload the file again."
        )
    if 8 + length + end < size:
        raise EngineError("model_invalid", f"The tensors end at byte {8 + length + end}, but the file has {size}.")
