"""How long a job takes and how much memory, from what the inspections found, before it runs.

The duration counts multiply-accumulate operations and divides by a rate that one core of a common CPU reaches, which is higher on large
networks; `benchmarks.estimates` holds both against whole jobs. They are meant to be right within a factor of two, on a machine of its own.
"""

import math
from dataclasses import dataclass

from core.jobs.check import Checked
from engine.contract.cost import Facts
from engine.contract.method import MethodParams
from engine.contract.spec import Spec

RATES = ((1e8, 1.5e10), (1e9, 5e10))
"""Operations of one example, and those that one core does in a second: a ResNet-50 (4.1e9) comes to 5.3e10, a ViT-B/16 (1.75e10) to
4.8e10, networks of a few million to 1e10 or 2e10. In between, along a line in logarithms."""
START_SECONDS, TORCH_SECONDS = 1.5, 3.0
"""Loading, exporting and verifying, whatever the size; and what a network that is trained or cut takes besides: torch, tracing, comparing."""
WEIGHT_BYTES_PER_SECOND = 5e7
"""Reading, checking, compressing, writing and loading of the weights."""
BATCH_SIZE_SECONDS = 2.0
"""Time that the latency of each batch size is measured for."""
STATES = 5
"""Copies of the weights while training: weights, gradients, two moments, the baseline."""
PROCESS_BYTES = 450 * 2**20
"""A process that has loaded torch and ONNX Runtime."""


@dataclass(frozen=True)
class JobFacts:
    """What the inspections found; None where one has not ended."""

    macs: int | None = None
    params: int | None = None
    train_examples: int | None = None
    test_examples: int | None = None
    dataset_bytes: int = 0
    waiting: tuple[str, ...] = ()

    @classmethod
    def of(cls, checked: Checked) -> "JobFacts":
        """From the inspections of a checked submission's model and dataset."""
        model = checked.model.inspection or {}
        dataset = checked.dataset.inspection or {} if checked.dataset is not None else {"splits": {}}
        splits = dataset.get("splits")
        counts = None if splits is None else {name: int(split["examples_count"]) for name, split in splits.items()}
        waiting = [f"{row.id} has" for row in (checked.model, checked.dataset) if row is not None and row.status != "ready"]
        return cls(
            macs=model.get("macs_count"),
            params=model.get("params_count"),
            train_examples=None if counts is None else counts.get("train", 0),
            test_examples=None if counts is None else counts.get(checked.spec.evaluation.split, 0),
            dataset_bytes=checked.dataset.size_bytes if checked.dataset is not None else 0,
            waiting=tuple(waiting),
        )

    @property
    def known(self) -> Facts:
        """What methods state their costs by; one example stands for a number that is not known."""
        return Facts(train_examples=1 if self.train_examples is None else self.train_examples)

    def step_macs(self, step: MethodParams) -> float | None:
        """Multiply-accumulate operations of one step."""
        if self.macs is None or self.train_examples is None:
            return None
        return self.macs * step.cost(self.known).passes(self.known)

    def duration_seconds(self, spec: Spec, costs: list[float | None]) -> float | None:
        """Wall-clock time of the whole job on one core."""
        if self.macs is None or self.test_examples is None:
            return None
        evaluated = (len(spec.steps) + 2) * self.test_examples * self.macs
        measured = sum(self._measuring_seconds(spec, size) for size in spec.evaluation.latency.batch_sizes)
        start = START_SECONDS + (TORCH_SECONDS if any(step.needs.trainable for step in spec.steps) else 0)
        files = 4 * (self.params or 0) / WEIGHT_BYTES_PER_SECOND
        return rounded(start + measured + files + self.seconds(sum(cost or 0 for cost in costs) + evaluated))

    def _measuring_seconds(self, spec: Spec, batch_size: int) -> float:
        """How long two networks are timed, which is bounded."""
        return min(BATCH_SIZE_SECONDS, 2 * spec.evaluation.latency.repeats * self.seconds(batch_size * (self.macs or 0)))

    def seconds(self, macs: float) -> float:
        """How long so many operations of this network take on one core."""
        (small, slow), (large, fast) = RATES
        share = min(1.0, max(0.0, math.log(max(1, self.macs or 1) / small) / math.log(large / small)))
        return macs / (slow * math.pow(fast / slow, share))

    def peak_memory_bytes(self, spec: Spec) -> int | None:
        """Resident memory of the job's process."""
        if self.params is None:
            return None
        costs = [step.cost(self.known) for step in spec.steps]
        weights = 4 * self.params * (STATES if any(cost.trained_examples for cost in costs) else 2)
        return PROCESS_BYTES + weights + 2 * self.dataset_bytes + max((cost.activation_bytes for cost in costs), default=0)


def rounded(seconds: float) -> float:
    """Two significant digits: more would be a promise."""
    return float(f"{seconds:.2g}")
