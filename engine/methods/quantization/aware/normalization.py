"""Batch normalizations that a float file has folded into its convolutions, taken out again for the training.

While it trains, such a convolution multiplies by the folded weight γ/σ · w as the quantized file stores it, σ being of the running statistics;
what comes out is divided by γ/σ again and normalized with the statistics of the batch. So the statistics follow the rounded network, and the
grid does not jump with every batch (folding with correction: Krishnamoorthi, Quantizing deep convolutional networks for efficient inference,
2018, section 3.2.2). Frozen, it computes what the file does.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from engine.methods.quantization.aware.fake import Weigher, WeightStep
from engine.networks import masks

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers that a normalization is folded into."""
_ALIKE = 1e-4


@dataclass(frozen=True)
class Normalized:
    """A convolution and the normalization behind it, which reads nothing else."""

    weight: Tensor
    """Of the convolution alone."""
    norm: _BatchNorm
    """Its running mean is that of the convolution without its bias."""

    def factor(self) -> Tensor:
        """γ/σ, one number a channel."""
        return factor_of(self.norm)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the convolution that does both."""
        return folded(self.weight, self.norm)


class FoldedNormalization(nn.Module):
    """A convolution with a batch normalization behind it, read as one by the quantized file."""

    frozen: Tensor
    keep: Tensor | None

    def __init__(self, convolution: nn.Module, found: Normalized, *, held: bool) -> None:
        """`convolution` states stride, padding and groups; `held` keeps the weights that are zero in the file at zero."""
        super().__init__()
        self.weight = nn.Parameter(found.weight.detach().clone())
        self.norm = found.norm
        self.register_buffer("frozen", torch.tensor(False))
        self.register_buffer("keep", (found.folded()[0] != 0).to(self.weight) if held else None)
        self._convolve = _Settings(convolution)
        self.step: WeightStep | None = None
        self.weigher: Weigher | None = None
        """Rounds weight and bias as the file does, where it does."""

    def round(self, step: WeightStep, weigher: Weigher) -> None:
        """Round from now on."""
        self.step, self.weigher = step, weigher

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias in float, as they are written."""
        weight, bias = folded(self.weight, self.norm)
        return weight if self.keep is None else weight * self.keep, bias

    def forward(self, values: Tensor) -> Tensor:
        """Convolve and normalize."""
        weight, bias = self.folded()
        stored, held = (weight, bias) if self.weigher is None else self.weigher.stored(weight, bias)
        # The loop normalizes a batch of a single example with the running statistics.
        if not self.norm.training or bool(self.frozen):
            return self._convolve(values, stored, held)
        shape = (1, -1, *(1,) * (values.ndim - 2))
        factor = factor_of(self.norm)
        # A channel with γ = 0 is its β, whatever is divided by.
        result = self._convolve(values, stored, None) / torch.where(factor == 0, 1.0, factor).view(shape)
        norm = self.norm
        assert norm.momentum is not None
        return functional.batch_norm(
            result, norm.running_mean, norm.running_var, norm.weight, norm.bias, training=True, momentum=norm.momentum, eps=norm.eps
        )


class _Settings:
    """The convolution with other weights; no module, so that its own parameters are gone."""

    def __init__(self, layer: nn.Module) -> None:
        assert isinstance(layer, CONVOLUTIONS)
        self._run = {nn.Conv1d: functional.conv1d, nn.Conv2d: functional.conv2d, nn.Conv3d: functional.conv3d}[type(layer)]
        self._settings = (layer.stride, layer.padding, layer.dilation, layer.groups)

    def __call__(self, values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        result: Tensor = self._run(values, weight, bias, *self._settings)  # type: ignore[arg-type]  # settings of a layer of as many dimensions
        return result


def factor_of(norm: _BatchNorm) -> Tensor:
    """γ/σ of the running statistics."""
    assert norm.running_var is not None
    deviation = torch.sqrt(norm.running_var + norm.eps)
    return 1 / deviation if norm.weight is None else norm.weight / deviation


def folded(weight: Tensor, norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution without bias and of the normalization behind it, as one."""
    factor = factor_of(norm)
    assert norm.running_mean is not None
    shift = -norm.running_mean * factor
    return weight * factor.view(-1, *(1,) * (weight.ndim - 1)), shift if norm.bias is None else shift + norm.bias


@torch.no_grad()
def normalized(module: nn.Module, inputs: tuple[Tensor, ...]) -> list[Normalized]:
    """Every convolution of a network whose output one batch normalization with running statistics reads, and is called once.

    Found by running the network: the normalization is given the very tensor that the convolution returned.
    """
    module = masks.fold(module).eval()
    made: dict[int, tuple[nn.Module, Tensor]] = {}
    calls: dict[nn.Module, int] = {}
    pairs: list[tuple[nn.Module, _BatchNorm]] = []

    def after(layer: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> None:
        calls[layer] = calls.get(layer, 0) + 1
        if isinstance(layer, _BatchNorm):
            source = made.get(id(given[0]))
            if source is not None:
                pairs.append((source[0], layer))
        else:
            made[id(result)] = layer, result  # the tensor is kept, so that its identity is not used again

    handles = [layer.register_forward_hook(after) for layer in module.modules() if isinstance(layer, (*CONVOLUTIONS, _BatchNorm))]
    try:
        module(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return [_normalized(layer, norm) for layer, norm in pairs if calls[layer] == calls[norm] == 1 and norm.running_mean is not None]


def _normalized(layer: nn.Module, norm: _BatchNorm) -> Normalized:
    assert isinstance(layer, CONVOLUTIONS)
    assert norm.running_mean is not None
    if layer.bias is not None:
        norm.running_mean -= layer.bias.detach()
    norm.momentum = 0.1 if norm.momentum is None else norm.momentum
    return Normalized(layer.weight.detach(), norm)


def matching(found: list[Normalized], weight: Tensor, bias: Tensor | None) -> Normalized | None:
    """The one whose folded form a convolution of the file is, taken out of the list."""
    if bias is None:
        return None
    for position, item in enumerate(found):
        if item.weight.shape == weight.shape and all(_alike(own, given) for own, given in zip(item.folded(), (weight, bias), strict=True)):
            return found.pop(position)
    return None


def _alike(left: Tensor, right: Tensor) -> bool:
    return bool(torch.allclose(left, right.detach(), rtol=_ALIKE, atol=_ALIKE * float(right.detach().abs().max())))
