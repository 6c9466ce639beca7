"""The header of a safetensors file that was just written."""

from __future__ import annotations

import json
from pathlib import Path

_LENGTH_BYTES = 8


def sort_metadata(path: Path) -> None:
    """Put a file's metadata in the order of their keys, in place.

    The library writes them in an order that is another in every run; the same network is to be the same file, byte for byte.
    """
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        # The library's JSON is as terse, so that the order is all that differs: data stay where they are.
        if len(text) > length:
            raise ValueError(f"the header of {path.name} takes {len(text)} bytes instead of {length}")
        file.seek(_LENGTH_BYTES)
        file.write(text.ljust(length))
