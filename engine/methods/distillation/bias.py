"""Biases of the classes after a training that saw other shares of them than there are (Hinton et al., 2015, section 3)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.contract.errors import EngineError
from engine.contract.heads import Head
from engine.outputs.losses import class_logits
from engine.training.batches import Batch, as_list

Floats = NDArray[np.float64]
_ROUNDS, _HALVINGS = 100, 40
_CLOSE = 1e-10
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TINY = 1e-12


def matching_biases(logits: Floats, prior: Floats, free: NDArray[np.bool_]) -> Floats:
    """Biases b (C), zero where not `free`, such that the mean of softmax(z + b) over the rows is `prior` in every free class.

    `logits` are (N, C). b minimizes the convex function mean(logsumexp(z + b)) - prior·b, by Newton's method with halved steps; where
    all classes are free, b is given with a mean of zero. A prior of zero counts as half an example.
    """
    prior = np.maximum(prior, 0.5 / len(logits))
    prior = prior / prior.sum()
    biases = np.zeros(logits.shape[1])
    value, gradient, curvature = _objective(logits, biases, prior)
    for _ in range(_ROUNDS):
        if np.abs(gradient[free]).max() < _CLOSE:
            break
        step = np.zeros_like(biases)
        # Along the constants, which change nothing, the function is flat: the smallest step is taken.
        step[free] = -np.linalg.lstsq(curvature[np.ix_(free, free)], gradient[free], rcond=1e-12)[0]
        for _ in range(_HALVINGS):
            new = _objective(logits, biases + step, prior)
            if new[0] <= value:
                break
            step *= 0.5
        else:
            break
        biases = biases + step
        value, gradient, curvature = new
    return biases - biases.mean() if free.all() else biases


def _objective(logits: Floats, biases: Floats, prior: Floats) -> tuple[float, Floats, Floats]:
    shifted = logits + biases
    top = shifted.max(axis=1, keepdims=True)
    shares = np.exp(shifted - top)
    sums = shares.sum(axis=1, keepdims=True)
    shares /= sums
    mean = shares.mean(axis=0)
    value = float((np.log(sums) + top).mean() - (prior * biases).sum())
    return value, mean - prior, np.diag(mean) - shares.T @ shares / len(shares)


class WithBiases(nn.Module):
    """A network with a constant added to the logits of one of its outputs."""

    biases: Tensor

    def __init__(self, module: nn.Module, head: Head, biases: Tensor) -> None:
        super().__init__()
        self.module = module
        self._index, self._axis, self._scale = head.index, head.class_axis, head.scale
        self.register_buffer("biases", biases)

    def forward(self, *inputs: Tensor) -> Any:
        """The outputs; probabilities are probabilities again."""
        outputs = self.module(*inputs)
        given = as_list(outputs)
        output = given[self._index]
        shape = [1] * output.ndim
        shape[self._axis or 1] = len(self.biases)
        own = self.biases.reshape(shape)
        if self._scale == "probabilities":
            given[self._index] = torch.softmax(torch.log(output.clamp_min(_TINY)) + own, dim=self._axis or 1)
        else:
            given[self._index] = output + own
        return given[0] if isinstance(outputs, Tensor) else tuple(given)


@torch.no_grad()
def with_biases(module: nn.Module, head: Head, biases: Floats, batch: Batch) -> nn.Module:
    """The module with biases added to the logits of a head: in the layer that gives them where there is one, else behind the module.

    Whether a layer gives them is seen on `batch`. The module is changed in place and in evaluation mode.
    """
    added = torch.from_numpy(biases).to(batch.device, torch.float32)
    before = _logits(module.eval(), head, batch)
    for layer in reversed(list(module.modules())):
        bias = layer.bias if isinstance(layer, _LAYERS) else None
        if not isinstance(bias, nn.Parameter) or len(bias) != len(added):
            continue
        kept = bias.detach().clone()
        bias.add_(added)
        change = _logits(module, head, batch) - before
        expected = added.reshape(1, -1, *[1] * (change.ndim - 2)).expand_as(change)
        scale = float(before.abs().max() + added.abs().max())
        if torch.allclose(change - change.mean(1, keepdim=True), expected - expected.mean(1, keepdim=True), rtol=0, atol=1e-4 * scale):
            return module
        bias.copy_(kept)
    return WithBiases(module, head, added).to(batch.device).eval()


def corrected_head(heads: tuple[Head, ...]) -> Head:
    """The head whose classes are corrected. Raises `shape_mismatch` where none gives one class an example."""
    for head in heads:
        if head.task == "classification":
            return head
    raise EngineError(
        "shape_mismatch",
        "exclude_classes and bias_correction are for outputs with one class for each example, and the network has none.",
        hint="Leave them out.",
    )


def _logits(module: nn.Module, head: Head, batch: Batch) -> Tensor:
    return class_logits(head, as_list(module(*batch.inputs))[head.index])
