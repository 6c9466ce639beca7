"""The header of a safetensors file, walked with regular expressions: nothing is parsed, no tensor is read."""

from __future__ import annotations

import json
import re
from typing import IO

from engine.contract import limits
from engine.contract.errors import EngineError
from engine.contract.file_format import FileFormat
from engine.contract.metadata import ModelMetadata

ARCHITECTURE, PROGRAM, GRAPH = "modelpress.architecture", "modelpress.program", "modelpress.graph"
"""Keys of the metadata by which a file that this service wrote says what its tensors are the weights of."""
_OFFSETS = re.compile(rb'"data_offsets"\s*:\s*\[\s*(\d{1,20})\s*,\s*(\d{1,20})\s*\]')


def recognizes(head: bytes) -> bool:
    """Whether a file that begins so has a header of JSON after its length."""
    return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**40


def check(stream: IO[bytes], size: int) -> None:
    """Whether the tensors fill the file to its end.

    Raises `truncated_upload`, `model_invalid`, `tensor_limit_exceeded`.
    """
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


def _describes_itself(stream: IO[bytes]) -> bool:
    return _stated(PROGRAM, stream) is not None or _stated(GRAPH, stream) is not None


def _metadata(stream: IO[bytes], declared: ModelMetadata) -> ModelMetadata:
    named = _stated(ARCHITECTURE, stream)
    if named is None or declared.architecture is not None:
        return declared
    try:
        return declared.model_copy(update={"architecture": ModelMetadata(architecture=json.loads(json.loads(named))).architecture})
    except (ValueError, TypeError, RecursionError) as error:
        raise EngineError("architecture_invalid", "The file names its architecture in a form that is not read.") from error


def _stated(key: str, stream: IO[bytes]) -> bytes | None:
    """The beginning of a value of the file's metadata, as JSON, without parsing the header."""
    stream.seek(0)
    header = stream.read(min(int.from_bytes(stream.read(8), "little"), limits.MAX_HEADER_BYTES))
    found = re.search(rb'"' + re.escape(key.encode()) + rb'"\s*:\s*("(?:[^"\\]|\\.){0,65536}"?)', header)
    return found and found[1]


FORMAT = FileFormat(
    "safetensors",
    "model",
    (".safetensors",),
    recognizes,
    check,
    has_structure=False,
    describes_itself=_describes_itself,
    metadata=_metadata,
)
