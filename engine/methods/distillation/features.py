"""Layers inside of a student that become like layers of its teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.contract.errors import EngineError
from engine.methods.distillation.spec import FeaturePair
from engine.networks.layers import layer_not_found
from engine.training.batches import Batch

_ALONG_A_LINE = (nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d, nn.InstanceNorm1d, nn.MaxPool1d, nn.AvgPool1d)
_SEQUENCE, _POOLS = 3, {1: functional.adaptive_avg_pool1d, 2: functional.adaptive_avg_pool2d, 3: functional.adaptive_avg_pool3d}


class Watched:
    """Outputs of some layers of a module, taken each time that it runs."""

    def __init__(self, module: nn.Module, names: Sequence[str], what: str) -> None:
        """Raises `layer_not_found` where a name is no layer's."""
        layers = dict(module.named_modules())
        for name in names:
            if name not in layers or not name:
                raise layer_not_found(f"feature_layers: the {what}'s layer {name!r}", name, [key for key in layers if key])
        self.outputs: dict[str, Tensor] = {}
        self._handles = [layers[name].register_forward_hook(self._take(name)) for name in dict.fromkeys(names)]

    def _take(self, name: str) -> Any:
        def take(_: nn.Module, __: Any, output: Any) -> None:
            self.outputs[name] = output if isinstance(output, Tensor) else output[0]

        return take

    def close(self) -> None:
        """Look at the layers no more."""
        for handle in self._handles:
            handle.remove()
        self.outputs.clear()


class WithProjections(nn.Module):
    """A student and the projections that are trained beside it; it computes what the student does."""

    def __init__(self, student: nn.Module, projections: Sequence[nn.Module]) -> None:
        super().__init__()
        self.student, self.projections = student, nn.ModuleList(projections)

    def forward(self, *inputs: Tensor) -> Any:
        """The student's outputs."""
        return self.student(*inputs)


@dataclass(frozen=True)
class _Pair:
    params: FeaturePair
    channels: int
    """Axis of the channels."""
    spread: float
    projection: nn.Module


class Features:
    """The terms of all pairs of layers."""

    def __init__(self, student: nn.Module, teacher: nn.Module, pairs: Sequence[FeaturePair], batch: Batch, seed: int) -> None:
        """Both networks run once on `batch`, so that the projections fit. Raises `layer_not_found` and `shape_mismatch`."""
        self._student = Watched(student, [pair.student for pair in pairs], "student")
        self._teacher = Watched(teacher, [pair.teacher for pair in pairs], "teacher")
        mode = student.training
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            student.eval()(*batch.inputs)
            teacher(*batch.inputs)
            torch.manual_seed(seed)
            self._pairs = [self._fitted(student, pair, batch.device) for pair in pairs]
        student.train(mode)
        self.module = WithProjections(student, [pair.projection for pair in self._pairs])

    def loss(self) -> Tensor:
        """The sum of all terms for the batch that both networks have just seen."""
        return torch.stack([self._term(pair, self._teacher.outputs[pair.params.teacher]) for pair in self._pairs]).sum()

    def close(self) -> None:
        """Leave both networks as they were, but for what the student has learned."""
        self._student.close()
        self._teacher.close()

    def _term(self, pair: _Pair, wanted: Tensor) -> Tensor:
        own, wanted = _same_size(self._student.outputs[pair.params.student].float(), wanted.float(), pair.channels)
        if pair.params.kind == "attention":
            return pair.params.weight * attention_distance(own, wanted, pair.channels)
        projected = pair.projection(own.movedim(pair.channels, -1)).movedim(-1, pair.channels)
        return pair.params.weight * functional.mse_loss(projected, wanted) / pair.spread

    def _fitted(self, student: nn.Module, params: FeaturePair, device: torch.device) -> _Pair:
        own, wanted = self._student.outputs[params.student], self._teacher.outputs[params.teacher]
        if own.ndim != wanted.ndim or own.ndim < (_SEQUENCE if params.kind == "attention" else 2):
            raise EngineError(
                "shape_mismatch",
                f"feature_layers: {params.student!r} gives {_text(own)} and {params.teacher!r} gives {_text(wanted)}, which cannot be "
                f"matched by {params.kind}.",
                hint="Name layers whose outputs have as many dimensions; attention needs places besides the channels.",
            )
        # Tokens have their channels last; what convolves along a line, or lets lengths stand there, has them before.
        line = isinstance(student.get_submodule(params.student), _ALONG_A_LINE)
        lengths_last = own.shape[-1] == wanted.shape[-1] and own.shape[1] != wanted.shape[1]
        channels = 2 if own.ndim == _SEQUENCE and not (line or lengths_last) else 1
        projection: nn.Module = nn.Identity()
        if params.kind == "features" and own.shape[channels] != wanted.shape[channels]:
            projection = nn.Linear(own.shape[channels], wanted.shape[channels])
        variance = float(wanted.float().var())
        return _Pair(params, channels, variance if variance > 0 else 1.0, projection.to(device))


def attention_distance(own: Tensor, wanted: Tensor, channels: int = 1) -> Tensor:
    """Squared distance of the normalized maps of mean squares over the channels, the mean over the examples (equation 2 of the paper)."""
    maps = [functional.normalize(item.square().mean(dim=channels).flatten(1), dim=1) for item in (own, wanted)]
    return (maps[0] - maps[1]).square().sum(dim=1).mean()


def _same_size(own: Tensor, wanted: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """Both with as many places: means over the places of the larger one, axis by axis."""
    first, second = own.movedim(channels, 1), wanted.movedim(channels, 1)
    if first.shape[2:] != second.shape[2:]:
        size = [min(pair) for pair in zip(first.shape[2:], second.shape[2:], strict=True)]
        pool: Any = _POOLS[len(size)]
        first, second = pool(first, size), pool(second, size)
    return first.movedim(1, channels), second.movedim(1, channels)


def _text(tensor: Tensor) -> str:
    return f"(batch, {', '.join(str(size) for size in tensor.shape[1:])})"
