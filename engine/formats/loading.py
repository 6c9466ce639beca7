"""Reads an uploaded file into a `Network`, and writes one into a file, by the format."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path

from engine.contract.errors import EngineError
from engine.contract.file_format import format_of
from engine.contract.metadata import ModelMetadata
from engine.networks.network import Network

ReadModel = Callable[[Path, ModelMetadata, Path], Network]
"""`read` of `engine/formats/<format>/read.py`: the file, what its owner declared about it, and a directory for scratch files."""

Write = Callable[[Network, Path], Sequence[Path]]
"""`write` of `engine/formats/<format>/write.py`: writes a plain network to the path, and returns that and what files it wrote besides."""


def load_network(path: Path, format: str, metadata: ModelMetadata, work: Path) -> Network:
    """A network from an uploaded file. `work` is a directory for scratch files.

    Raises `unsupported_format`, `model_invalid`, `unsafe_format`, `unsupported_operator`, `shape_mismatch`, `architecture_invalid` and the
    codes of `engine.contract.limits`.
    """
    if not format_of(format, "model").readable:
        raise EngineError(
            "unsupported_format", f"Files of format {format} are written by this service and not read.", hint="Use the ONNX file."
        )
    read: ReadModel = importlib.import_module(f"engine.formats.{format_of(format, 'model').name}.read").read
    return read(path, metadata, work)


def write_network(network: Network, format: str, path: Path) -> tuple[Path, ...]:
    """Write a network to `path` in a format that can be published; returns every file that was written, `path` first."""
    write: Write = importlib.import_module(f"engine.formats.{format_of(format, 'model').name}.write").write
    return tuple(write(network, path))
