"""Reading class scores off a module's outputs, and running a module over a split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.contract.errors import EngineError
from engine.networks.channels_last import channels_last

Outputs = Tensor | Sequence[Tensor]
Indices = NDArray[np.int64]


class Examples(Protocol):
    """The part of a dataset split that training and evaluation read."""

    @property
    def count(self) -> int:
        """Number of examples."""

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """Class of every example, or None."""

    def batch(self, indices: Indices) -> tuple[Mapping[str, NDArray[Any]], NDArray[np.int64] | None]:
        """Preprocessed inputs by name, and labels, of the examples at `indices`."""


@dataclass(frozen=True)
class Batch:
    """Examples on the device: inputs in the signature's order, labels where there are any, and their places in the split."""

    inputs: tuple[Tensor, ...]
    labels: Tensor | None
    indices: Indices

    @classmethod
    def of(cls, examples: Examples, indices: Indices, names: Sequence[str], device: torch.device) -> Batch:
        """Read the examples at `indices`; what was mapped from a file is copied, as a network may work in place."""
        arrays, labels = examples.batch(indices)
        inputs = tuple(torch.from_numpy(np.require(arrays[name], requirements=("C", "W"))).to(device) for name in names)
        return cls(inputs, None if labels is None else torch.from_numpy(np.asarray(labels, dtype=np.int64)).to(device), indices)


@dataclass(frozen=True)
class ClassHead:
    """How the first output of a module says class scores: found once on real examples, valid for all batches."""

    classes_count: int
    probabilities: bool
    """The module ends in a softmax; its logarithm is a valid logit, a second softmax would not be."""

    @classmethod
    def probe(cls, module: nn.Module, batch: Batch) -> ClassHead:
        """Look at the module's answer to one batch. Raises `shape_mismatch` where it gives no class scores."""
        mode = module.training
        module.eval()
        with torch.no_grad():
            scores = _scores(module(*batch.inputs))
        module.train(mode)
        if scores.ndim < 2 or scores.shape[1] < 2:
            raise EngineError(
                "shape_mismatch",
                f"Training needs class scores of shape (batch, classes), but the first output has the shape {list(scores.shape)}.",
                hint="Use methods that need no training, or a model that gives one score per class.",
            )
        total = scores.sum(dim=1)
        normalized = bool((scores >= 0).all()) and torch.allclose(total, torch.ones_like(total), atol=1e-3)
        return cls(int(scores.shape[1]), normalized)

    def logits(self, outputs: Outputs) -> Tensor:
        """Unnormalized log-probabilities, classes along dimension 1."""
        scores = _scores(outputs)
        return torch.log(scores.clamp_min(1e-12)) if self.probabilities else scores


def _scores(outputs: Outputs) -> Tensor:
    scores = outputs if isinstance(outputs, Tensor) else outputs[0]
    while scores.ndim > 2 and scores.shape[-1] == 1:
        scores = scores.squeeze(-1)
    return scores


def batches(examples: Examples, names: Sequence[str], size: int, device: torch.device, indices: Indices | None = None) -> Iterator[Batch]:
    """All examples (or those at `indices`) in order."""
    order = np.arange(examples.count) if indices is None else indices
    for start in range(0, len(order), size):
        yield Batch.of(examples, order[start : start + size], names, device)


@dataclass(frozen=True)
class Prediction:
    """Outputs of a module for all examples of a split, one array per output, and the labels beside them."""

    outputs: list[NDArray[Any]]
    labels: NDArray[np.int64] | None


@torch.no_grad()
def predict(
    module: nn.Module, examples: Examples, names: Sequence[str], device: torch.device, *, size: int = 64, indices: Indices | None = None
) -> Prediction:
    """What the module, in evaluation mode, answers to all examples (or those at `indices`) in order."""
    mode = module.training
    module.eval()
    parts: list[list[NDArray[Any]]] = []
    labels: list[NDArray[np.int64]] = []
    first = Batch.of(examples, np.arange(min(examples.count, 1)), names, device)
    with channels_last(module, first.inputs):
        for batch in batches(examples, names, size, device, indices):
            outputs = module(*batch.inputs)
            parts.append([output.cpu().numpy() for output in ([outputs] if isinstance(outputs, Tensor) else outputs)])
            if batch.labels is not None:
                labels.append(batch.labels.cpu().numpy())
    module.train(mode)
    return Prediction([np.concatenate(column) for column in zip(*parts, strict=True)], np.concatenate(labels) if labels else None)


def fingerprint(module: nn.Module) -> bytes:
    """A digest of all parameters and buffers: equal for two states of one network only if they compute the same."""
    digest = hashlib.blake2b()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.digest()
