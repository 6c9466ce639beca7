"""What stands in a safetensors file, for the process that compares it with the network. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from safetensors import deserialize


def tensors(path: Path) -> Iterator[tuple[str, tuple[int, ...], bytes]]:
    """Name, shape and bytes of every tensor."""
    for name, item in deserialize(path.read_bytes()):  # type: ignore[no-untyped-call]
        yield name, tuple(item["shape"]), item["data"]
