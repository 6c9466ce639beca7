"""Random numbers of augmentation: of a whole batch, from seed and optimizer step alone, so that every attempt and process draws the same."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from engine.contract.augment import Augment
from engine.training.augmentation.transforms import Movement, sources

_STREAM = 0xA06
"""Tells these numbers from all others that a seed is used for."""
_ASPECT = 4 / 3
_EVEN = 0.5


class Draws:
    """What is drawn for one batch of `count` examples. Every method draws from a stream of its own: what is not used costs nothing."""

    def __init__(self, augment: Augment, count: int, seed: int, iteration: int, device: torch.device) -> None:
        self._augment, self._count, self._key, self._device = augment, count, (seed, iteration), device

    def _rng(self, stream: int) -> np.random.Generator:
        return np.random.default_rng([*self._key, _STREAM, stream])

    def _tensor(self, values: NDArray[np.generic], part: slice) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values[part])).to(self._device)

    def movement(self, size: tuple[int, int], part: slice) -> Movement:
        """Of pictures of this height and width."""
        rng, n = self._rng(0), self._count
        mirrored = rng.random((2, n)) < _EVEN
        mirrored[0] &= self._augment.flip in ("vertical", "both")
        mirrored[1] &= self._augment.flip in ("horizontal", "both")
        shifts = rng.integers(-self._augment.shift, self._augment.shift + 1, (2, n)).astype(np.float64)
        lengths = np.array(size, dtype=np.float64)[:, None].repeat(n, axis=1)
        starts = np.zeros((2, n))
        if self._augment.crop is not None:
            area = rng.uniform(self._augment.crop, 1, n)
            aspect = np.exp(rng.uniform(-np.log(_ASPECT), np.log(_ASPECT), n))
            shares = np.minimum(np.sqrt(np.stack([area / aspect, area * aspect])), 1)
            lengths *= shares
            starts = rng.random((2, n)) * (np.array(size)[:, None] - lengths)
        axes = [sources(size[axis], *(self._tensor(item[axis], part) for item in (starts, lengths, mirrored, shifts))) for axis in range(2)]
        return Movement(*axes)

    def middles(self, size: tuple[int, int], part: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Of squares to cut out."""
        rng = self._rng(1)
        rows, columns = (rng.integers(0, length, self._count) for length in size)
        return self._tensor(rows, part), self._tensor(columns, part)

    def factors(self, part: slice) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of brightness, contrast and saturation."""
        jitter = self._augment.color_jitter
        assert jitter is not None
        rng = self._rng(2)
        drawn = [rng.uniform(1 - v, 1 + v, self._count) for v in (jitter.brightness, jitter.contrast, jitter.saturation)]
        return self._tensor(drawn[0], part), self._tensor(drawn[1], part), self._tensor(drawn[2], part)

    def tokens(self, shape: tuple[int, ...], part: slice) -> torch.Tensor:
        """Which tokens are dropped, of examples of this shape."""
        assert self._augment.token_dropout is not None
        return self._tensor(self._rng(3).random((self._count, *shape)) < self._augment.token_dropout.ratio, part)

    def partners(self) -> tuple[float, NDArray[np.int64]]:
        """The share that each example keeps, at least half, and which example of the batch it is mixed with.

        Mixing with the shares exchanged is as likely, so that the larger share may always be the example's own.
        """
        assert self._augment.mixup is not None
        rng = self._rng(4)
        share = float(rng.beta(self._augment.mixup, self._augment.mixup))
        return max(share, 1 - share), rng.permutation(self._count)
