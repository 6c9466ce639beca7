"""The zip archive of `torch.export.save`, looked at with the standard library.

`torch.export.load` runs what such a file says: it unpickles tensors that are marked so, evaluates expressions and compiles names. Nothing
of that is ever called here; this module looks whether the file needs it, and `engine.formats.pt2` reads the rest.
"""

from __future__ import annotations

import re
import zipfile
from typing import IO

from engine.contract import limits
from engine.contract.errors import EngineError
from engine.contract.file_format import FileFormat
from engine.files.archive import first_member, open_archive
from engine.files.effort import spend

EXPORT_HINT = (
    "Write it with torch.export.save(torch.export.export(model, (example,), dynamic_shapes=({0: torch.export.Dim('batch')},)), 'model.pt2'); "
    "or write ONNX with torch.onnx.export."
)
PROGRAM = "models/model.json"
WEIGHTS, CONSTANTS = "data/weights/", "data/constants/"
NAMES = "extra/modelpress.json"
"""Where a program that this service wrote states the names of its inputs and outputs, which torch names in its own way."""
CONFIGS = (f"{WEIGHTS}model_weights_config.json", f"{CONSTANTS}model_constants_config.json")
_MEMBER = re.compile(r"^[^/]+/(data/(weights|constants|sample_inputs)/|models/|archive_format$)")
_PICKLED = re.compile(rb'"use_pickle"\s*:\s*true')


def recognizes(head: bytes) -> bool:
    """Whether a file that begins so is an exported program."""
    return _MEMBER.match(first_member(head) or "") is not None


def members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The members below the archive's one folder. Raises `model_invalid`, `decompression_limit_exceeded`, `unsafe_format`."""
    found: dict[str, zipfile.ZipInfo] = {}
    roots = set()
    for info in archive.infolist():
        spend()
        root, _, name = info.filename.partition("/")
        roots.add(root)
        if name in found:
            raise EngineError("model_invalid", "The archive holds a member twice.", hint=EXPORT_HINT)
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise EngineError(
                "decompression_limit_exceeded", "The archive has compressed members; torch stores them as they are.", hint=EXPORT_HINT
            )
        found[name] = info
    if len(roots) > 1 or [name for name in found if name.startswith("models/")] != [PROGRAM]:
        raise EngineError("model_invalid", "The archive does not hold exactly one exported program.", hint=EXPORT_HINT)
    return found


def check(stream: IO[bytes], size: int) -> None:
    """Refuse everything but one program and stored tensors.

    Raises `unsafe_format` for tensors and objects that have to be unpickled, `archive_limit_exceeded`, `tensor_limit_exceeded`,
    `decompression_limit_exceeded`, `model_invalid`, and `archive.DAMAGED`.
    """
    with open_archive(stream) as archive:
        found = members(archive)
        for name in (PROGRAM, *CONFIGS):
            if name not in found:
                raise EngineError("model_invalid", f"The archive has no {name}.", hint=EXPORT_HINT)
            if found[name].file_size > limits.MAX_HEADER_BYTES:
                raise EngineError(
                    "tensor_limit_exceeded", f"{name} has {found[name].file_size} bytes, the limit is {limits.MAX_HEADER_BYTES}."
                )
        if sum(name.startswith((WEIGHTS, CONSTANTS)) for name in found) > limits.MAX_TENSORS:
            raise EngineError("tensor_limit_exceeded", f"The file has more than {limits.MAX_TENSORS} tensors.")
        if any(name.startswith((f"{CONSTANTS}custom_obj", f"{CONSTANTS}opaque_obj")) for name in found):
            raise EngineError("unsafe_format", "The program holds objects that would have to be unpickled.", hint=EXPORT_HINT)
        for name in CONFIGS:
            spend(found[name].file_size // 1000)
            if _PICKLED.search(archive.read(found[name])):
                raise EngineError("unsafe_format", "The program has tensors that would have to be unpickled.", hint=EXPORT_HINT)


FORMAT = FileFormat("pt2", "model", (".pt2",), recognizes, check, holds_modules=True)
