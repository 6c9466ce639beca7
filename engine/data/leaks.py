"""Examples that stand in two splits: figures on a test split that the network was trained on say nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from itertools import combinations

import numpy as np

from engine.contract.inspection import Leak
from engine.data.stored import Array, Stored

MOST_EXAMPLES = 2_000_000
MOST_BYTES = 4 << 30
"""What is looked at; datasets past either are not searched, and the answer is None."""
_SHOWN = 10
_CHUNK_BYTES = 1 << 24


def leaks(stored: Stored) -> tuple[Leak, ...] | None:
    """Pairs of splits that share examples whose stored inputs are the same byte for byte; None where the dataset is too large to look."""
    inputs = {split: stored.inputs(split) for split in stored.splits}
    if len(inputs) < 2:
        return ()
    examples = sum(len(next(iter(columns.values()))) for columns in inputs.values())
    if examples > MOST_EXAMPLES or sum(array.nbytes for columns in inputs.values() for array in columns.values()) > MOST_BYTES:
        return None
    digests = {split: _digests(columns) for split, columns in inputs.items()}
    return tuple(found for pair in combinations(digests, 2) if (found := _shared(pair, digests)) is not None)


def _shared(pair: tuple[str, str], digests: Mapping[str, list[bytes]]) -> Leak | None:
    first, second = (digests[split] for split in pair)
    places: dict[bytes, int] = {}
    for place, digest in enumerate(first):
        places.setdefault(digest, place)
    found = [(places[digest], place) for place, digest in enumerate(second) if digest in places]
    if not found:
        return None
    return Leak(splits=pair, examples_count=len(found), of_count=len(second), examples=tuple(found[:_SHOWN]))


def _digests(columns: Mapping[str, Array]) -> list[bytes]:
    """A digest of 16 bytes of the inputs of every example."""
    count = len(next(iter(columns.values())))
    found = []
    step = max(1, _CHUNK_BYTES // max(1, sum(array[:1].nbytes for array in columns.values())))
    for start in range(0, count, step):
        rows = [np.ascontiguousarray(array[start : start + step]) for array in columns.values()]
        flat = [part.reshape(len(part), -1).view(np.uint8) for part in rows]
        for row in range(len(rows[0])):
            digest = hashlib.blake2b(digest_size=16)
            for part in flat:
                digest.update(part[row].data)
            found.append(digest.digest())
    return found
