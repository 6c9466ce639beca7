"""What weights stand in the zip of a folder, for the process that compares them with the network. Imports no torch."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

from engine.files.huggingface import WEIGHTS
from engine.formats.safetensors.stored import of_bytes


def tensors(path: Path) -> Iterator[tuple[str, tuple[int, ...], bytes]]:
    """Name, shape and bytes of every tensor of the network."""
    with zipfile.ZipFile(path) as archive:
        yield from of_bytes(archive.read(WEIGHTS))
