"""Batches of a split on the device, and running a module over a split."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.contract.heads import Head
from engine.data.pictures import HasPictures, Picture
from engine.networks.channels_last import channels_last
from engine.tasks import task_of

Outputs = Tensor | Sequence[Tensor]
Indices = NDArray[np.int64]


class Examples(Protocol):
    """The part of a dataset split that training and evaluation read."""

    @property
    def count(self) -> int:
        """Number of examples."""

    @property
    def targets(self) -> Mapping[str, NDArray[Any]]:
        """Stored targets by name, at least those of the split's examples; read those of certain examples with `batch`."""

    def targets_at(self, indices: Indices) -> Mapping[str, NDArray[Any]]:
        """Stored targets by name of the examples at `indices`."""

    def batch(self, indices: Indices) -> tuple[Mapping[str, NDArray[Any]], Mapping[str, NDArray[Any]]]:
        """Preprocessed inputs by name, and stored targets by name, of the examples at `indices`."""


@dataclass(frozen=True)
class Chosen:
    """Some examples of others, in an order of their own."""

    examples: Examples
    chosen: Indices

    @property
    def count(self) -> int:
        """Number of examples."""
        return len(self.chosen)

    @property
    def targets(self) -> Mapping[str, NDArray[Any]]:
        """Those of all examples, of which these are some."""
        return self.examples.targets

    @property
    def pictures(self) -> Mapping[str, Picture]:
        """Which inputs are pictures, by name."""
        return self.examples.pictures if isinstance(self.examples, HasPictures) else {}

    def targets_at(self, indices: Indices) -> Mapping[str, NDArray[Any]]:
        """Targets of the examples at `indices`."""
        return self.examples.targets_at(self.chosen[indices])

    def batch(self, indices: Indices) -> tuple[Mapping[str, NDArray[Any]], Mapping[str, NDArray[Any]]]:
        """Inputs and targets of the examples at `indices`."""
        return self.examples.batch(self.chosen[indices])


@dataclass(frozen=True)
class Mixed:
    """What the examples of a batch were mixed with."""

    share: float
    """Of each example in the mixture."""
    stored: Mapping[str, NDArray[Any]]
    """Targets of the other examples, by name."""
    given: Mapping[str, NDArray[Any]]
    """Inputs of the other examples, by name."""


@dataclass(frozen=True)
class Batch:
    """Examples on the device: inputs in the signature's order, and their places in the split."""

    inputs: tuple[Tensor, ...]
    indices: Indices
    given: Mapping[str, NDArray[Any]]
    """The same inputs by name, where targets may be made of them."""
    stored: Mapping[str, NDArray[Any]]
    """The dataset's targets by name."""
    device: torch.device
    origin: Examples | None = None
    """Whose the inputs are, just as they are there; None where they were changed."""
    mixed: Mixed | None = None
    _targets: dict[str, Tensor | None] = field(default_factory=dict, init=False)
    """By head, as far as they were prepared."""

    @classmethod
    def of(cls, examples: Examples, indices: Indices, names: Sequence[str], device: torch.device) -> Batch:
        """Read the examples at `indices`; what was mapped from a file is copied, as a network may work in place."""
        arrays, targets = examples.batch(indices)
        inputs = tuple(torch.from_numpy(np.require(arrays[name], requirements=("C", "W"))).to(device) for name in names)
        return cls(inputs, indices, arrays, targets, device, examples)

    def target(self, head: Head) -> Tensor | None:
        """The targets of one head on the device, in the form that its task takes; None without any."""
        if head.name not in self._targets:
            self._targets[head.name] = self._prepared(head, self.stored, self.given)
        return self._targets[head.name]

    def target_loss(self, head: Head, loss: Callable[[Tensor], Tensor]) -> Tensor | None:
        """`loss` of the head's targets; where examples were mixed, of both of their targets by their shares. None without targets."""
        own = self.target(head)
        if own is None:
            return None
        value = loss(own)
        other = None if self.mixed is None else self._prepared(head, self.mixed.stored, self.mixed.given)
        return value if self.mixed is None or other is None else self.mixed.share * value + (1 - self.mixed.share) * loss(other)

    def _prepared(self, head: Head, stored: Mapping[str, NDArray[Any]], given: Mapping[str, NDArray[Any]]) -> Tensor | None:
        prepared = task_of(head).prepare(head, stored, given)
        return None if prepared is None else torch.from_numpy(np.require(prepared, requirements=("C", "W"))).to(self.device)


def as_list(outputs: Outputs) -> list[Tensor]:
    """What a module gave, one tensor an output."""
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


def batches(examples: Examples, names: Sequence[str], size: int, device: torch.device, indices: Indices | None = None) -> Iterator[Batch]:
    """All examples (or those at `indices`) in order."""
    order = np.arange(examples.count) if indices is None else indices
    for start in range(0, len(order), size):
        yield Batch.of(examples, order[start : start + size], names, device)


@dataclass(frozen=True)
class Prediction:
    """Outputs of a module for all examples of a split, one array per output, and what is beside them."""

    outputs: list[NDArray[Any]]
    targets: dict[str, NDArray[Any]]
    """The dataset's, by name."""
    inputs: dict[str, NDArray[Any]]
    """Those that were asked for, by name."""


@torch.no_grad()
def predict(
    module: nn.Module,
    examples: Examples,
    names: Sequence[str],
    device: torch.device,
    *,
    size: int = 64,
    indices: Indices | None = None,
    keep: Collection[str] = (),
) -> Prediction:
    """What the module, in evaluation mode, answers to all examples (or those at `indices`) in order; `keep` names inputs to remember."""
    mode = module.training
    module.eval()
    parts: list[list[NDArray[Any]]] = []
    targets: dict[str, list[NDArray[Any]]] = {}
    inputs: dict[str, list[NDArray[Any]]] = {}
    first = Batch.of(examples, np.arange(min(examples.count, 1)), names, device)
    with channels_last(module, first.inputs):
        for batch in batches(examples, names, size, device, indices):
            parts.append([output.detach().cpu().numpy() for output in as_list(module(*batch.inputs))])
            for name, array in batch.stored.items():
                targets.setdefault(name, []).append(array)
            for name in keep:
                inputs.setdefault(name, []).append(batch.given[name])
    module.train(mode)
    return Prediction([np.concatenate(column) for column in zip(*parts, strict=True)], _joined(targets), _joined(inputs))


def _joined(parts: Mapping[str, list[NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def fingerprint(module: nn.Module) -> bytes:
    """A digest of all parameters and buffers: equal for two states of one network only if they compute the same."""
    digest = hashlib.blake2b()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.digest()
