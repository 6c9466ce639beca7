"""OpenVINO IR: a graph as XML and its weights beside it. Results are published in it; it is not read as an upload."""

from typing import IO

from engine.contract.errors import EngineError
from engine.contract.file_format import FileFormat


def recognizes(_: bytes) -> bool:
    """No upload is one: XML is refused by name in `engine.files.magic`."""
    return False


def check(_: IO[bytes], size: int) -> None:
    """Raises `unsupported_format`."""
    raise EngineError("unsupported_format", "OpenVINO IR is written by this service and not read.", hint="Upload the ONNX file.")


FORMAT = FileFormat("openvino", "model", (".xml", ".bin"), recognizes, check)
