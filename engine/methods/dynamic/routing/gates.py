"""Gates that decide, example by example, whether a block runs (Wang et al., SkipNet, ECCV 2018, sections 3.1 and 3.2)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from engine.training.across import masked_batch_norm, uniform

Mode = Literal["straight_through", "sample"]
CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_POOLS = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}


class Reading(nn.Module):
    """What a gate sees of the features: (N, C, …) or (N, …, C) → (N, C, …).

    While a policy is learned by reinforcement, its gradient ends here: it moves the gates and nothing else.
    """

    def __init__(self, channel_axis: int) -> None:
        super().__init__()
        self.channel_axis = channel_axis
        self.detached = False

    def forward(self, features: Tensor) -> Tensor:
        """Channels behind the batch."""
        if self.detached:
            features = features.detach()
        return features if self.channel_axis == 1 else features.movedim(self.channel_axis, 1)


class Embedding(nn.Module):
    """The mean of every channel, and a linear map of the means."""

    def __init__(self, channels: int, channel_axis: int, size: int) -> None:
        super().__init__()
        self.reading = Reading(channel_axis)
        self.linear = nn.Linear(channels, size)

    def forward(self, features: Tensor) -> Tensor:
        """→ (N, size)."""
        embedded: Tensor = self.linear(_means(self.reading(features)))
        return embedded


class Step(nn.Module):
    """An LSTM's step whose input has been multiplied by its weights already: few operations, for files."""

    def __init__(self, cell: nn.LSTMCell) -> None:
        super().__init__()
        self.size = cell.hidden_size
        self.weight = nn.Parameter(_reordered(cell.weight_hh.detach(), self.size))

    def forward(self, given: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Input, forget and output gates and the new values, (N, 4·size), to the next state; without a state, from zeros."""
        if state is not None:
            given = torch.addmm(given, state[0], self.weight.t())
        enter, keep, show = given[:, : 3 * self.size].sigmoid().chunk(3, 1)
        memory = enter * given[:, 3 * self.size :].tanh()
        if state is not None:
            memory = keep * state[1] + memory
        return show * memory.tanh(), memory

    def embedding(self, embedding: Embedding, cell: nn.LSTMCell) -> Embedding:
        """The embedding and the cell's own map of it as one map."""
        weight, bias = embedding.linear.weight.detach(), embedding.linear.bias.detach()
        whole = Embedding(weight.shape[1], embedding.reading.channel_axis, 4 * self.size)
        with torch.no_grad():
            whole.linear.weight.copy_(_reordered(cell.weight_ih @ weight, self.size))
            whole.linear.bias.copy_(_reordered(cell.weight_ih @ bias + cell.bias_ih + cell.bias_hh, self.size))
        return whole


def _reordered(rows: Tensor, size: int) -> Tensor:
    """torch's order of an LSTM's rows (input, forget, new, output) with the new values last."""
    enter, keep, new, show = torch.split(rows, size)
    return torch.cat([enter, keep, show, new])


class Head(nn.Linear):
    """Probability that a block runs: (N, size) → (N,). A softmax over two outputs is the sigmoid of their difference, so one will do."""

    def __init__(self, size: int, bias: float) -> None:
        super().__init__(size, 1)
        nn.init.constant_(self.bias, bias)

    def forward(self, input: Tensor) -> Tensor:
        """The probabilities."""
        return super().forward(input).float().sigmoid().flatten()


class FeedForward(nn.Module):
    """FFGate-I (`first`): pooling, two 3×3 convolutions; FFGate-II: one with stride. Then means, and a linear map."""

    def __init__(self, shape: tuple[int, ...], channel_axis: int, bias: float, *, first: bool) -> None:
        super().__init__()
        channels = shape[channel_axis - 1]
        sizes = [size for place, size in enumerate(shape, 1) if place != channel_axis]
        convolution, norm, pool = CONVOLUTIONS[len(sizes)], _NORMS[len(sizes)], _POOLS[len(sizes)]

        def layer(stride: int) -> nn.Sequential:
            return nn.Sequential(convolution(channels, channels, 3, stride, padding=1, bias=False), norm(channels), nn.ReLU())

        self.reading = Reading(channel_axis)
        pooling = [pool(2)] if first and min(sizes) > 1 else []
        self.layers = nn.Sequential(*pooling, *([layer(1)] if first else []), layer(2))
        self.head = Head(channels, bias)

    def forward(self, features: Tensor) -> Tensor:
        """→ (N,)."""
        probability: Tensor = self.head(_means(self.layers(self.reading(features))))
        return probability


class Decision(nn.Module):
    """From a probability to a decision, (N,) → (N,).

    In training the decisions are 0.0 and 1.0: `straight_through` decides at the threshold, and its gradient is that of the probability
    itself (hard forward, soft backward); `sample` draws, without a gradient. In evaluation they are booleans, taken at the threshold.
    """

    threshold: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.tensor(0.5))
        self.mode: Mode = "straight_through"
        self.given: Tensor | None = None
        """Decisions that are taken in evaluation in place of the gate's."""
        self.probability: Tensor | None = None
        """Of the last batch, with its graph in training."""
        self.taken: Tensor | None = None

    def forward(self, probability: Tensor) -> Tensor:
        """The decisions."""
        if not self.training:
            taken = probability > self.threshold if self.given is None else self.given
        elif self.mode == "sample":
            taken = (uniform(probability.detach()) < probability.detach()).to(probability.dtype)
        else:
            hard = (probability > self.threshold).to(probability.dtype)
            taken = hard.detach() - probability.detach() + probability
        self.probability, self.taken = probability, taken.detach()
        return taken


class Join(nn.Module):
    """shortcut + branch for the examples that take the block, the shortcut alone for the others."""

    def forward(self, shortcut: Tensor, branch: Tensor, taken: Tensor) -> Tensor:
        """(N, …) of all examples; `taken` is what a `Decision` gives."""
        rows = taken.view(-1, *[1] * (shortcut.ndim - 1))
        if taken.dtype == torch.bool:
            return torch.where(rows, shortcut + branch, shortcut)
        return shortcut + rows * branch


class RoutedNorm(_BatchNorm):
    """A batch normalization inside of a branch: in training its statistics are those of the examples that take the branch."""

    def __init__(self, layer: _BatchNorm) -> None:
        """Around `layer`, whose parameters and statistics it shares."""
        super().__init__(layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
        for name in ("weight", "bias"):
            self.register_parameter(name, getattr(layer, name))
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(layer, name))
        self.train(layer.training)
        self.plain = (type(layer),)

    @classmethod
    def instead_of(cls, layer: nn.Module) -> RoutedNorm | None:
        """What stands in the place of `layer`; None where it is no batch normalization, or one whose weights are held."""
        plain = isinstance(layer, _BatchNorm) and type(layer) in _NORMS.values() and not parametrize.is_parametrized(layer)
        return cls(layer) if plain and isinstance(layer, _BatchNorm) else None

    def restored(self) -> _BatchNorm:
        """A layer of the kind that it stands for."""
        layer = self.plain[0](self.num_features, self.eps, self.momentum, self.affine, self.track_running_stats)
        layer._parameters, layer._buffers = self._parameters, self._buffers
        return layer.train(self.training)

    def forward(self, input: Tensor, taken: Tensor | None = None) -> Tensor:
        """(N, C, …) → the same shape. Rows that are parts of examples, one after the other, count as their example does."""
        if taken is None or not self.training or len(input) % len(taken):
            return super().forward(input)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        momentum = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked or 1)
        rows = taken.detach().repeat_interleave(len(input) // len(taken))
        running = (self.running_mean, self.running_var) if self.track_running_stats else (None, None)
        return masked_batch_norm(input, rows, *running, self.weight, self.bias, momentum, self.eps)

    def _check_input_dim(self, input: Tensor) -> None:
        """Whatever the layer takes."""


def _means(features: Tensor) -> Tensor:
    """(N, C, …) → (N, C)."""
    return features.mean(tuple(range(2, features.ndim))) if features.ndim > 2 else features
