"""What stands in a safetensors file, for the process that compares it with the network. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from safetensors import deserialize

CONSTANTS = "modelpress.constants/"
"""Begins the names of tensors that stand in a file beside the network's own, for its description."""


def tensors(path: Path) -> Iterator[tuple[str, tuple[int, ...], bytes]]:
    """Name, shape and bytes of every tensor of the network."""
    return of_bytes(path.read_bytes())


def of_bytes(content: bytes) -> Iterator[tuple[str, tuple[int, ...], bytes]]:
    """The same of a file's content."""
    for name, item in deserialize(content):
        if not name.startswith(CONSTANTS):
            yield name, tuple(item["shape"]), item["data"]
