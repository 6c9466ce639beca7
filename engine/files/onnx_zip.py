"""ONNX files whose weights lie beside them (external data), as a zip: `model.onnx` and what it names; the standard library only."""

from __future__ import annotations

import zipfile
from pathlib import PurePosixPath
from typing import IO

from engine.contract import limits
from engine.contract.errors import EngineError
from engine.contract.file_format import FileFormat
from engine.files import folders
from engine.files.archive import open_archive, printable

HINT = "Zip model.onnx with the files that torch.onnx.export(..., external_data=True) wrote beside it."
MAX_BYTES = 2**31 - 1
_ENDING = ".onnx"


def recognizes(head: bytes) -> bool:
    """Whether an archive begins with an ONNX file, or with the data of one."""
    names = [PurePosixPath(name).name for name in folders.first_names(head) if not name.endswith("/")]
    return bool(names) and (names[0].endswith((_ENDING, ".onnx.data", ".onnx_data")) or any(name.endswith(_ENDING) for name in names))


def check(stream: IO[bytes], size: int) -> None:
    """Check names and sizes of all members. Raises `model_invalid`, `decompression_limit_exceeded`, and `archive.DAMAGED`."""
    with open_archive(stream) as archive:
        members_of(archive)


def members_of(archive: zipfile.ZipFile) -> tuple[zipfile.ZipInfo, dict[str, zipfile.ZipInfo]]:
    """The graph, and the other files by their path as seen from it. Raises `model_invalid`, `decompression_limit_exceeded`."""
    infos = list(folders.members(archive))
    graphs = [info for info in infos if info.filename.endswith(_ENDING)]
    if len(graphs) != 1:
        raise EngineError("model_invalid", f"The archive holds {len(graphs)} ONNX files, and one is needed.", hint=HINT)
    base = PurePosixPath(graphs[0].filename).parent
    beside: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise EngineError(
                "model_invalid", f"{printable(info.filename)!r} is encrypted or compressed in an unusual way.", hint="Zip it as usual."
            )
        if info.file_size > limits.FREE_INFLATE_BYTES and info.file_size > limits.MAX_INFLATE_RATIO * info.compress_size:
            raise folders.bomb(info.filename, f"{info.file_size} bytes from {info.compress_size}")
        if info is graphs[0]:
            continue
        path = PurePosixPath(info.filename)
        if not path.is_relative_to(base) or ".." in path.parts or str(path.relative_to(base)) in beside:
            raise EngineError("model_invalid", f"{printable(info.filename)!r} does not lie beside the ONNX file, or twice.", hint=HINT)
        beside[str(path.relative_to(base))] = info
    if sum(info.file_size for info in infos) > MAX_BYTES:
        raise EngineError("tensor_limit_exceeded", f"The graph and its data have more than {MAX_BYTES} bytes.")
    return graphs[0], beside


FORMAT = FileFormat("onnx_zip", "model", (".onnx.zip",), recognizes, check, packed=True)
