"""Weights that a layer sees with a few levels only, as parametrizations of the real ones."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from engine.formats.onnx.packed import Indexed
from engine.methods.quantization.aware.fake import Through

Seen = Literal["binary", "real", "drawn"]


class BinaryWeight(nn.Module):
    """w ↦ ±magnitude, with the gradient of the real weight (Courbariaux et al., 2015, algorithm 1).

    Unlike the straight-through estimators of later papers it lets gradients of weights beyond ±magnitude pass: these do not occur, since the
    weights are clipped after every update.
    """

    def __init__(self, magnitude: float, *, stochastic: bool) -> None:
        super().__init__()
        self.magnitude, self.stochastic = magnitude, stochastic
        self.seen: Seen = "binary"
        """What the layer sees where it is not trained."""

    def forward(self, weight: Tensor) -> Tensor:
        """The weight that the layer sees."""
        if self.seen == "real" and not self.training:
            return weight
        drawn = self.stochastic if self.training else self.seen == "drawn"
        signs = self.drawn(weight.detach()) if drawn else sign(weight.detach())
        binary: Tensor = Through.apply(weight, signs * self.magnitude)  # type: ignore[no-untyped-call]  # inherited from torch
        return binary

    def probability(self, weight: Tensor) -> Tensor:
        """Of +magnitude: the hard sigmoid clip((w / magnitude + 1) / 2, 0, 1)."""
        return ((weight / self.magnitude + 1) / 2).clamp(0, 1)

    def drawn(self, weight: Tensor) -> Tensor:
        """Signs by that probability."""
        return 2 * torch.bernoulli(self.probability(weight)) - 1

    def indexed(self, weight: Tensor) -> Indexed:
        """What a file stores."""
        indices = (weight.detach() >= 0).cpu().numpy().astype(np.uint8)
        return Indexed(indices, np.array([-self.magnitude, self.magnitude], np.float32))


def sign(weight: Tensor) -> Tensor:
    """+1 where a weight is 0 or more, else -1: there is no third level."""
    return torch.where(weight >= 0, 1.0, -1.0)


class TernaryWeight(nn.Module):
    """w ↦ -α, 0 or α, with the gradient of the real weight (Li et al., 2016, equations 3 to 6).

    Zero are the weights of magnitude up to Δ = threshold · mean |w|; α is the mean magnitude of the others.
    """

    def __init__(self, threshold: float, axis: int | None) -> None:
        """`axis` is the dimension that has an α and a Δ for each of its indices."""
        super().__init__()
        self.threshold, self.axis = threshold, axis

    def forward(self, weight: Tensor) -> Tensor:
        """The weight that the layer sees."""
        signs, alpha = self.split(weight.detach())
        ternary: Tensor = Through.apply(weight, signs * alpha)  # type: ignore[no-untyped-call]  # inherited from torch
        return ternary

    def split(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """-1, 0 or 1 of each weight, and α, which has as many dimensions."""
        over = [dim for dim in range(weight.ndim) if dim != self.axis]
        magnitude = weight.abs()
        kept = magnitude > self.threshold * magnitude.mean(over, keepdim=True)
        alpha = (magnitude * kept).sum(over, keepdim=True) / kept.sum(over, keepdim=True).clamp_min(1)
        return weight.sign() * kept, alpha

    def indexed(self, weight: Tensor) -> Indexed:
        """What a file stores."""
        signs, alpha = self.split(weight.detach())
        indices, alphas = (signs + 1).cpu().numpy().astype(np.uint8), alpha.reshape(-1).cpu().numpy()
        if self.axis is None:
            return Indexed(indices, np.array([-alphas[0], 0, alphas[0]], np.float32))
        return Indexed(indices, np.array([-1, 0, 1], np.float32), alphas, self.axis)


class SharedWeight(nn.Module):
    """w ↦ values[index of w]: the values are trained, each by the sum of the gradients of its weights; the indices stay (Han et al., 2016)."""

    indices: Tensor
    trained: Tensor

    def __init__(self, values: Tensor, indices: Tensor, *, keep_zero: bool) -> None:
        """`keep_zero` holds the values that are zero at zero."""
        super().__init__()
        self.values = nn.Parameter(values[:, None])  # of two dimensions, as weights are that decay
        self.register_buffer("indices", indices)
        self.register_buffer("trained", (values != 0).to(values) if keep_zero else torch.ones_like(values))

    def forward(self, weight: Tensor) -> Tensor:
        """The weight that the layer sees, whatever the real one was."""
        return nn.functional.embedding(self.indices.int(), self._levels()[:, None]).squeeze(-1)

    def indexed(self, weight: Tensor) -> Indexed:
        """What a file stores."""
        return Indexed(self.indices.cpu().numpy(), self._levels().detach().cpu().numpy().astype(np.float32))

    def _levels(self) -> Tensor:
        return self.values[:, 0] * self.trained
