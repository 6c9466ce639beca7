"""What weights stand in a program, for the process that compares them with the network. Imports no torch."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path

from engine.files.pt2 import CONFIGS, WEIGHTS, members

_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 2, 7: 4, 8: 8, 12: 1, 13: 2}
"""Bytes of an element by torch's number of its type."""


def tensors(path: Path) -> Iterator[tuple[str, tuple[int, ...], bytes]]:
    """Name, shape and bytes of every parameter and buffer; each lies at the start of a storage of its own, row by row."""
    with zipfile.ZipFile(path) as archive:
        found = members(archive)
        for name, entry in json.loads(archive.read(found[CONFIGS[0]]))["config"].items():
            meta = entry["tensor_meta"]
            shape = tuple(item["as_int"] for item in meta["sizes"])
            yield name, shape, archive.read(found[WEIGHTS + entry["path_name"]])[: math.prod(shape) * _BYTES[meta["dtype"]]]
