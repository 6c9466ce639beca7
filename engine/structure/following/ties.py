"""Numbers of channels, which of them can only go together, and which cannot go at all."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FIXED = 0
"""The number of what stays: inputs, constants made on the way, outputs."""


class Ties:
    """Numbers that are given out, tied and fixed."""

    def __init__(self) -> None:
        self.count = 1
        self._left: list[NDArray[np.int64]] = []
        self._right: list[NDArray[np.int64]] = []
        self._fixed: list[tuple[NDArray[np.int64], str]] = []
        self._resolved: Tensor | None = None

    def new(self, *shape: int) -> Tensor:
        """Numbers that nothing else has, in the given shape."""
        size = int(np.prod(shape, dtype=np.int64))
        numbers = torch.arange(self.count, self.count + size).reshape(shape)
        self.count += size
        self._resolved = None
        return numbers

    def tie(self, first: Tensor, second: Tensor, reason: str) -> None:
        """Tie numbers at the same places of two tensors that broadcast; those that meet `FIXED` are fixed for the `reason`."""
        a, b = (item.reshape(-1).numpy() for item in essence(*torch.broadcast_tensors(first, second)))
        a, b = a[a != b], b[a != b]
        met = np.unique(np.concatenate([a[b == FIXED], b[a == FIXED]]))
        self._fix(met, reason)
        both = (a != FIXED) & (b != FIXED)
        if both.any():
            pairs = np.unique(np.minimum(a, b)[both] * self.count + np.maximum(a, b)[both])
            self._left.append(pairs // self.count)
            self._right.append(pairs % self.count)
            self._resolved = None

    def fix(self, numbers: Tensor, reason: str) -> None:
        """Keep these channels, and all that are tied to them."""
        found = np.unique(essence(numbers)[0].reshape(-1).numpy())
        self._fix(found[found != FIXED], reason)

    def _fix(self, numbers: NDArray[np.int64], reason: str) -> None:
        if len(numbers):
            self._fixed.append((numbers, reason))
            self._resolved = None

    def roots(self) -> Tensor:
        """For every number the smallest one that it is tied to, directly or over others; `FIXED` for all that stay."""
        if self._resolved is None:
            root = self._components()
            stays = np.zeros(self.count, bool)
            for numbers, _ in self._fixed:
                stays[root[numbers]] = True
            root[stays[root]] = FIXED
            self._resolved = torch.from_numpy(root)
        return self._resolved

    def reasons(self, numbers: Tensor) -> list[str]:
        """Why the channels with these numbers stay, each reason once."""
        root = self._components()
        wanted = np.unique(root[numbers.reshape(-1).numpy()])
        return list(dict.fromkeys(reason for given, reason in self._fixed if reason and np.isin(root[given], wanted).any()))

    def _components(self) -> NDArray[np.int64]:
        root = np.arange(self.count)
        left = np.concatenate([np.zeros(0, np.int64), *self._left])
        right = np.concatenate([np.zeros(0, np.int64), *self._right])
        while True:
            low = np.minimum(root[left], root[right])
            before = root.copy()
            np.minimum.at(root, before[left], low)
            np.minimum.at(root, before[right], low)
            while not np.array_equal(root, root[root]):
                root = root[root]
            if np.array_equal(root, before):
                return root


def essence(*numbers: Tensor) -> tuple[Tensor, ...]:
    """Tensors of one shape without the repetitions that all of them have in common."""
    for dimension in range(numbers[0].dim()):
        if all(item.stride(dimension) == 0 for item in numbers) and numbers[0].shape[dimension] > 1:
            numbers = tuple(item.narrow(dimension, 0, 1) for item in numbers)
    return numbers


def simplified(numbers: Tensor) -> Tensor:
    """The same numbers, in memory only once along every dimension in which they do not change."""
    (core,) = essence(numbers)
    for dimension, size in enumerate(core.shape):
        if size > 1 and bool((core == core.narrow(dimension, 0, 1)).all()):
            core = core.narrow(dimension, 0, 1)
    return core.expand(numbers.shape)


def varying(numbers: Tensor) -> set[int]:
    """Dimensions in which `simplified` numbers change."""
    return {dimension for dimension, size in enumerate(numbers.shape) if size > 1 and numbers.stride(dimension) != 0}
