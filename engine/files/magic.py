"""What a stored file is and whether it is whole, found without any library of its format: the API runs this, before any parser.

Files are walked by seeking from length field to length field, so that a file of 2 GiB costs as little as a small one. Everything
that is wrong comes as `EngineError`; what is only found by parsing (shapes, weights, operators) is left to the inspection. The formats
themselves lie beside this module, one file each (`engine.contract.file_format`); what is known here are files of other kinds.
"""

from __future__ import annotations

import os
import re
from typing import IO

from engine.contract.errors import EngineError
from engine.contract.file_format import catalogue, names
from engine.files.archive import DAMAGED, first_member, printable

SNIFF_BYTES = 4096
"""How many first bytes `sniff` wants to see, where the file has so many."""

EXPORT_HINT = (
    "Convert it where it was made: torch.onnx.export(model.eval(), (example,), 'model.onnx', external_data=False, "
    "dynamic_shapes=({0: torch.export.Dim('batch')},)), and upload model.onnx; or save weights with "
    "safetensors.torch.save_file(model.state_dict(), 'model.safetensors') and name a builtin architecture."
)
_PROTOCOL_0 = re.compile(rb"^(c[\w.]+\n[\w.]+\n|\(([dli]|c[\w.]+\n)|[(\]}]?[lad]p\d+\n)")
_TO_NPZ = (
    "Examples belong into a dataset: numpy.savez('data.npz', x_train=…, y_train=…, x_test=…, y_test=…), and POST /v1/datasets?format=npz. "
    "A model is a network, such as the file that torch.onnx.export writes."
)
_FOREIGN: tuple[tuple[bytes, str, str | None], ...] = (
    (
        b"\x89HDF\r\n\x1a\n",
        "an HDF5 file (Keras)",
        "Convert it with tf2onnx: python -m tf2onnx.convert --keras model.h5 --output model.onnx.",
    ),
    (b"\x1f\x8b", "gzip", "Upload the file itself, not compressed."),
    (b"\x28\xb5\x2f\xfd", "Zstandard", "Upload the file itself, not compressed."),
    (b"\x89PNG", "an image", _TO_NPZ),
    (b"\xff\xd8\xff", "an image", _TO_NPZ),
    (b"%PDF", "a PDF", None),
    (b"<?xml", "XML, such as OpenVINO IR", EXPORT_HINT),
    (b"\x7fELF", "a program", None),
    (b"GGUF", "GGUF", EXPORT_HINT),
)


def sniff(first_bytes: bytes, declared: str | None) -> str:
    """The format of a file, recognized by its first bytes (up to `SNIFF_BYTES`): `declared`, where these can be of that format.

    Raises `unsafe_format` for pickles, joblib files and what else would have to be executed to be read, and `unsupported_format`
    for anything unknown or other than `declared`.
    """
    found = _recognize(first_bytes, declared)
    if declared is not None and declared != found:
        if declared not in catalogue():
            raise EngineError("unsupported_format", f"The format {printable(declared)!r} is not known.", hint=f"Formats: {_all_names()}.")
        holds, meant = catalogue()[found].holds, catalogue()[declared].holds
        hint = "Correct format=." if holds == meant else f"A file of format {found} is a {holds}: POST /v1/{holds}s takes it."
        raise EngineError(
            "unsupported_format", f"The file was declared as {declared}, but its first bytes are those of {found}.", hint=hint
        )
    return found


def check_file(stream: IO[bytes], format: str) -> None:
    """Check a stored file from end to end without reading its data. `stream` is seekable and opened for reading bytes.

    Raises `truncated_upload`, `unsafe_format`, `external_data_forbidden`, `model_invalid`, `architecture_invalid`, `dataset_invalid` and the codes of
    `engine.contract.limits`.
    """
    known = catalogue().get(format)
    if known is None:
        raise EngineError("unsupported_format", f"Files of format {printable(format)!r} are not read.", hint=f"Formats: {_all_names()}.")
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    try:
        known.check(stream, size)
    except DAMAGED as error:
        raise EngineError("truncated_upload", "The archive has no end, or is damaged.", hint="Upload the file again.") from error


def _all_names() -> str:
    return ", ".join((*names("model"), *names("dataset")))


def _recognize(first: bytes, preferred: str | None) -> str:
    """The format that takes these bytes for its own: a certain one before what is known of other files, a vague one after it."""
    if not first:
        raise EngineError("unsupported_format", "The file is empty.")
    found = _taking(first, preferred, vague=False)
    if found is None:
        _refuse_programs(first)
        _refuse_foreign(first)
        found = _taking(first, preferred, vague=True)
    if found is None:
        if _is_table(first):
            raise EngineError("unsupported_format", "The file is a table of text (CSV), which is not read.", hint=_TO_NPZ)
        raise EngineError("unsupported_format", "The first bytes are those of no format that is read.", hint=f"Formats: {_all_names()}.")
    return found


def _is_table(first: bytes) -> bool:
    """Whether these are lines of printable text with equally many separators in each."""
    lines = first.split(b"\n")[:-1] if b"\n" in first else []
    if len(lines) < 2 or not all(byte >= 0x20 or byte in b"\t\r\n" for byte in first):
        return False
    return any(len({line.count(separator) for line in lines}) == 1 and separator in lines[0] for separator in (b",", b";", b"\t"))


def _taking(first: bytes, preferred: str | None, *, vague: bool) -> str | None:
    asked = sorted((format for format in catalogue().values() if format.vague == vague), key=lambda format: not format.special)
    found = [format.name for format in asked if format.recognizes(first)]
    return preferred if preferred in found else found[0] if found else None


def _refuse_programs(first: bytes) -> None:
    """Files that would have to be executed to be read."""
    if (first[:1] == b"\x80" and first[1:2] in (b"\1", b"\2", b"\3", b"\4", b"\5")) or _PROTOCOL_0.match(first):
        raise EngineError(
            "unsafe_format", "The file is a Python pickle (torch.save of old, joblib): reading it would run its code.", hint=EXPORT_HINT
        )
    if first[:2] in (b"\x78\x01", b"\x78\x9c", b"\x78\xda") or first.startswith(b"ZF"):
        raise EngineError("unsafe_format", "The file is compressed as joblib does it: reading it would run its code.", hint=EXPORT_HINT)


def _refuse_foreign(first: bytes) -> None:
    """Files of other kinds, each with what to do instead."""
    member = first_member(first)
    if member is not None:
        hint = "Datasets: numpy.savez(path, x_train=…, y_train=…). Models: onnx, safetensors, or torch.save(model.state_dict(), path)."
        raise EngineError(
            "unsupported_format",
            f"The file is a zip archive that begins with {printable(member)!r}: no such archive is read.",
            hint=hint,
        )
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
    for magic, name, advice in _FOREIGN:
        if first.startswith(magic):
            raise EngineError("unsupported_format", f"The file is {name}, which is not read.", hint=advice or f"Formats: {_all_names()}.")
