"""What all exits answer to a split, and what follows from that: temperatures, confidences, quality."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from engine.contract.heads import Head
from engine.heads.scoring import Scores
from engine.methods.dynamic.exits.confidence import two_sided
from engine.methods.dynamic.exits.network import ExitNetwork
from engine.tasks import task_of
from engine.training.batches import Examples, predict

_LOWEST, _HIGHEST = math.log(0.05), math.log(20.0)
_GOLDEN = (math.sqrt(5) - 1) / 2
_NARROWINGS = 40


@dataclass(frozen=True)
class AllAnswers:
    """Outputs of every exit for all examples of a split, and the targets."""

    outputs: tuple[tuple[NDArray[Any], ...], ...]
    """By exit and output."""
    targets: Mapping[str, NDArray[Any]]

    @classmethod
    def of(cls, network: ExitNetwork, examples: Examples, names: Sequence[str], device: torch.device) -> AllAnswers:
        """Ask the network once for every example."""
        found = predict(_Everything(network).eval(), examples, names, device)
        each = network.outputs
        return cls(tuple(tuple(found.outputs[start : start + each]) for start in range(0, len(found.outputs), each)), found.targets)

    @property
    def count(self) -> int:
        """Examples."""
        return len(self.outputs[0][0])

    def confidences(self, network: ExitNetwork) -> NDArray[np.float32]:
        """Of every example (rows) at every exit (columns), at the temperatures that the network has now."""
        with torch.no_grad():
            columns = [
                network.confidence(place).cpu()(*(torch.from_numpy(output) for output in outputs)).numpy()
                for place, outputs in enumerate(self.outputs)
            ]
        return np.column_stack(columns).astype(np.float32)

    def quality(self, exits: NDArray[np.int64], heads: Sequence[Head], metric: str) -> float | None:
        """A metric where every example takes the answer of the given exit; None without targets."""
        rows = np.arange(self.count)
        chosen = [np.stack(parts)[exits, rows] for parts in zip(*self.outputs, strict=True)]
        scores = Scores(heads, (metric,), fidelity=False)
        scores.add(chosen, self.targets, {})
        return scores.figures().get(metric)

    def temperature(self, place: int, heads: Sequence[Head]) -> float | None:
        """The one at which the targets are likeliest under an exit's answers (Guo et al., 2017); None without targets."""
        pairs = [pair for head in heads if (pair := self._logits(place, head)) is not None]
        if not pairs:
            return None

        def loss(log_temperature: float) -> float:
            scale = math.exp(log_temperature)
            return sum(float(functional.cross_entropy(logits / scale, target)) for logits, target in pairs)

        low, high = _LOWEST, _HIGHEST
        for _ in range(_NARROWINGS):
            left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
            low, high = (low, right) if loss(left) <= loss(right) else (left, high)
        return math.exp((low + high) / 2)

    def _logits(self, place: int, head: Head) -> tuple[Tensor, Tensor] | None:
        target = task_of(head).prepare(head, self.targets, {})
        if target is None:
            return None
        logits = two_sided(head, torch.from_numpy(self.outputs[place][head.index])).double()
        wanted = torch.from_numpy(np.ascontiguousarray(target))
        if head.class_axis is not None:
            kept = wanted != head.ignored if head.ignored is not None else torch.ones_like(wanted, dtype=torch.bool)
            return (logits[kept], wanted[kept].long()) if bool(kept.any()) else None
        # The first of the two classes of a decision is the yes.
        return logits, 1 - wanted.reshape(logits.shape[0], -1).long()


class _Everything(nn.Module):
    def __init__(self, network: ExitNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        found, _ = self.network.answers(*inputs)
        return tuple(output for outputs in found for output in outputs)
