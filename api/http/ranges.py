"""The `Range` header (RFC 9110, section 14)."""

import itertools
import re

MAX_RANGES = 32


class Unsatisfiable(Exception):
    """No requested range lies inside the representation."""


def parse(header: str | None, size: int) -> list[tuple[int, int]]:
    """The requested ranges as (first byte, byte after the last), in the client's order; empty means the whole representation.

    A header that is malformed, in another unit, or asks for too many or overlapping pieces is ignored, as the RFC allows.
    Raises `Unsatisfiable`.
    """
    if header is None or not header.lower().startswith("bytes="):
        return []
    parts = [part.strip() for part in header[len("bytes=") :].split(",")]
    parts = [part for part in parts if part]
    if not 0 < len(parts) <= MAX_RANGES:
        return []
    found = []
    for part in parts:
        match = re.fullmatch(r"([0-9]{0,19})-([0-9]{0,19})", part)
        if match is None or part == "-":
            return []
        first, last = match.groups()
        if not first:
            start, stop = max(size - int(last), 0), size
        else:
            start, stop = int(first), min(int(last) + 1, size) if last else size
            if last and int(last) < start:
                return []
        if start < stop:
            found.append((start, stop))
    if not found:
        raise Unsatisfiable
    ordered = sorted(found)
    if any(later[0] < earlier[1] for earlier, later in itertools.pairwise(ordered)):
        return []
    return found
