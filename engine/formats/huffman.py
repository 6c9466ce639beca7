"""Canonical Huffman codes whose codes are at most 15 bits long. NumPy only; `modelpress.runtime.packed` reads them.

Source: Huffman, A Method for the Construction of Minimum-Redundancy Codes, 1952.
"""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelpress.runtime.packed import MOST_CODE_BITS, canonical

BLOCK = 4096
"""Symbols that are read one after the other; blocks are read side by side."""


@dataclass(frozen=True)
class Coded:
    """Symbols as bits."""

    indices: NDArray[np.uint8]
    """The code, filled with zeros at its end."""
    lengths: NDArray[np.uint8]
    """Of the code of each symbol, 0 where it has none."""
    starts: NDArray[np.uint32]
    """The bit at which each block starts."""

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return self.indices.nbytes + self.lengths.nbytes + self.starts.nbytes


def code_lengths(counts: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The code length of each symbol by how often it stands; 0 for one that does not, 1 for a symbol that is alone."""
    found = np.zeros(len(counts), np.uint8)
    present = np.flatnonzero(counts).tolist()
    if len(present) < 2:
        found[present] = 1
        return found
    weights = counts.astype(np.int64)
    while True:
        order = itertools.count()
        heap: list[tuple[int, int, tuple[int, ...]]] = [(int(weights[symbol]), next(order), (symbol,)) for symbol in present]
        heapq.heapify(heap)
        lengths = dict.fromkeys(present, 0)
        while len(heap) > 1:
            (first, _, left), (second, _, right) = heapq.heappop(heap), heapq.heappop(heap)
            for symbol in (*left, *right):
                lengths[symbol] += 1
            heapq.heappush(heap, (first + second, next(order), (*left, *right)))
        if max(lengths.values()) <= MOST_CODE_BITS:
            break
        # Flatter counts have shorter codes for what is rare, and hardly longer ones for what is not.
        weights = np.where(weights > 0, weights // 2 + 1, 0)
    found[present] = [lengths[symbol] for symbol in present]
    return found


def encode(symbols: NDArray[np.uint8], *, block: int = BLOCK) -> Coded:
    """The code of up to 2^28 symbols."""
    counts = np.bincount(symbols, minlength=int(symbols.max(initial=0)) + 1)
    lengths = code_lengths(counts)
    codes, sizes = canonical(lengths)[symbols], lengths[symbols].astype(np.int64)
    ends = np.cumsum(sizes)
    total = int(ends[-1]) if len(ends) else 0
    if total >= 2**32:
        raise ValueError("a Huffman code of more than 2^32 bits is not written")
    places = ends - sizes
    bits = np.zeros(-(-total // 8) * 8, np.uint8)
    for bit in range(MOST_CODE_BITS):
        some = sizes > bit
        bits[places[some] + bit] = (codes[some] >> (sizes[some] - 1 - bit).astype(np.uint32)) & 1
    return Coded(np.packbits(bits), lengths, places[::block].astype(np.uint32))
