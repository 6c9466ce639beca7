"""Examples of a dataset as pictures: arrays that have the shape of one, as PNG within the page."""

import base64
import struct
import zlib
from collections.abc import Iterator
from typing import Any

from engine.contract.inspection import ArrayPreview

Rows = list[list[Any]]
MOST_SIDE = 512


def png_uri(example: ArrayPreview, layout: str = "") -> str:
    """A `data:` URI of the example as a picture, its values stretched from the least to the greatest; empty where it is none.

    Pictures are H × W, 1 × H × W, 3 × H × W, H × W × 1 and H × W × 3; `layout` (such as `NHWC`) decides where both readings are possible.
    """
    values = example.values
    if not isinstance(values, list) or example.minimum is None or example.maximum is None:
        return ""
    planes = _planes(values, layout)
    if planes is None:
        return ""
    low, high = float(example.minimum), float(example.maximum)
    scale = 255 / (high - low) if high > low else 0.0
    height, width = len(planes[0]), len(planes[0][0])
    lines = b"".join(b"\x00" + bytes(_line(planes, row, low, scale)) for row in range(height))
    head = struct.pack(">IIBBBBB", width, height, 8, 2 if len(planes) == 3 else 0, 0, 0, 0)
    parts = _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(lines)) + _chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + parts).decode()


def _planes(values: list[Any], layout: str) -> list[Rows] | None:
    """One plane, or three, of H × W numbers."""
    shape = _shape(values)
    if len(shape) == 2 and min(shape) > 3 and max(shape) <= MOST_SIDE:
        return [values]
    if len(shape) != 3 or max(shape) > MOST_SIDE or sorted(shape)[1] < 4:
        return None
    if shape[0] in (1, 3) and not (layout.endswith("C") and shape[2] in (1, 3)):
        return values
    if shape[2] in (1, 3):
        return [[[pixel[channel] for pixel in row] for row in values] for channel in range(shape[2])]
    return None


def _shape(values: Any) -> list[int]:
    shape = []
    while isinstance(values, list) and values:
        shape.append(len(values))
        values = values[0]
    return shape


def _line(planes: list[Rows], row: int, low: float, scale: float) -> Iterator[int]:
    for pixel in zip(*(plane[row] for plane in planes), strict=True):
        for value in pixel:
            yield min(255, max(0, round((value - low) * scale)))


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
