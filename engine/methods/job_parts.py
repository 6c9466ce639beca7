"""The parts of a job that its steps reach: its dataset, what judges files as the job does, and how outputs are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from engine.contract.heads import Head
from engine.networks.network import Network, Signature

if TYPE_CHECKING:
    from engine.training.batches import Examples


class Splits(Protocol):
    """The part of a dataset that methods reach: its splits by name."""

    @property
    def splits(self) -> Mapping[str, Examples]:
        """`train`, `validation` and `test`, as far as they are there."""

    def train(self, *, seed: int) -> Examples:
        """What may be trained on when `validation` examples are held out."""

    def validation(self, *, seed: int) -> Examples:
        """The validation split, or examples carved from `train` by `seed`."""

    def completed(self, signature: Signature) -> Splits:
        """The same with what stands in inputs of `signature` that a step added and that the dataset does not have."""


class Judge(Protocol):
    """Measures files of a step as the job measures what it publishes, for methods that choose between several."""

    @property
    def baseline(self) -> Mapping[str, float | None]:
        """Metrics of the uploaded model."""

    @property
    def has_target(self) -> bool:
        """Whether the spec sets an accuracy target."""

    def score(self, network: Network) -> Mapping[str, float | None]:
        """Metrics of a network's ONNX file on the evaluated examples."""

    def meets_target(self, metrics: Mapping[str, float | None]) -> bool:
        """Whether metrics satisfy the accuracy target."""

    def quality(self, metrics: Mapping[str, float | None]) -> tuple[float, ...]:
        """What to compare by where no metrics satisfy it; greater is better."""

    def speedup(self, network: Network) -> float:
        """How many times faster a network's file is than the uploaded model, at the first batch size."""


@dataclass(frozen=True)
class Known:
    """How the outputs of the uploaded model are read."""

    heads: tuple[Head, ...] = ()
    unused_targets: Mapping[str, str] = field(default_factory=dict)
    """Targets of the dataset that no output is compared with, and why."""


UNKNOWN = Known()
