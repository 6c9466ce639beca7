"""How long a job takes and how much memory, from what the inspections found, before it runs.

The duration counts multiply-accumulate operations and divides by a rate that one core of a common CPU reaches, which is higher on large
networks; `benchmarks.estimates` holds both against whole jobs. They are meant to be right within a factor of two, on a machine of its own.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from core.jobs.check import Checked
from engine.contract.cost import Facts, run_together
from engine.contract.method import MethodParams
from engine.contract.spec import Spec

RATES = ((1e8, 1.5e10), (1e9, 5e10))
"""Operations of one example, and those that one core does in a second: a ResNet-50 (4.1e9) comes to 5.3e10, a ViT-B/16 (1.75e10) to
4.8e10, networks of a few million to 1e10 or 2e10. In between, along a line in logarithms."""
START_SECONDS, TORCH_SECONDS = 1.5, 3.0
"""Loading, exporting and verifying, whatever the size; and what a network that is trained or cut takes besides: torch, tracing, comparing."""
WEIGHT_BYTES_PER_SECOND = 2.5e7
"""Reading, checking, compressing, writing and loading of the weights."""
TRIED_BYTES_PER_SECOND = 2.5e7
"""Quantizing, writing and measuring of a version that is tried, by the bytes of the network's weights."""
STEPPED_BYTES_PER_SECOND = 2e9
"""What an optimizer's step goes through: all copies of the weights."""
BATCH_SIZE_SECONDS = 2.0
"""Time that the latency of each batch size is measured for."""
COPIES = 4
"""Copies of the weights whatever the steps are: two networks, each in a file's form and in the one in which it runs."""
PROCESS_BYTES, TORCH_BYTES = 120 * 2**20, 300 * 2**20
"""A process that has loaded ONNX Runtime, and what torch takes besides."""
BESIDE = 2
"""What is there at one time beside what is kept, in sizes of the largest layer's input and output: gradients, or values that later layers
read, and what an allocator holds."""
ANSWERS = 8
"""Copies of the outputs while metrics are computed: of baseline and result, some of them in double precision."""


@dataclass(frozen=True)
class JobFacts:
    """What the inspections found; None where one has not ended."""

    macs: int | None = None
    params: int | None = None
    activation_bytes: int | None = None
    """What training keeps of one example."""
    layer_bytes: int = 0
    """Input and output of the largest layer, for one example."""
    outputs_bytes: int = 0
    """Outputs of all layers, for one example."""
    input_bytes: int = 0
    """Inputs of one example."""
    answer_bytes: int = 0
    """What the network gives for one example."""
    train_examples: int | None = None
    test_examples: int | None = None
    dataset_bytes: int = 0
    waiting: tuple[str, ...] = ()

    @classmethod
    def of(cls, checked: Checked) -> "JobFacts":
        """From the inspections of a checked submission's model and dataset."""
        rows = [row for row in (checked.model, checked.dataset) if row is not None]
        nothing: dict[str, Any] = {"splits": {}}
        facts = cls.read(
            checked.model.inspection or {},
            (checked.dataset.inspection or {}) if checked.dataset is not None else nothing,
            dataset_bytes=checked.dataset.size_bytes if checked.dataset is not None else 0,
            evaluated=checked.spec.evaluation.split,
        )
        return replace(facts, waiting=tuple(f"{row.id} has" for row in rows if row.status != "ready"))

    @classmethod
    def read(cls, model: Mapping[str, Any], dataset: Mapping[str, Any], *, dataset_bytes: int, evaluated: str) -> "JobFacts":
        """From the documents of two inspections, empty where one has not ended; `evaluated` is the split."""
        splits = dataset.get("splits")
        counts = None if splits is None else {name: int(split["examples_count"]) for name, split in splits.items()}
        signature = model.get("signature", {})
        layers = [(layer["input_shape"], layer["output_shape"]) for layer in model.get("layers", ())]
        macs, kept, times = model.get("macs_count"), model.get("activation_bytes"), 1.0
        if (counted := model.get("open_sizes")) is not None:
            size = _size(counted["inputs"], dataset.get("columns", ()))
            times = size or 1.0
            macs = None if size is None or counted["macs_count"] is None else int(times * counted["macs_count"])
            kept = None if size is None or kept is None else int(times * kept)
        return cls(
            macs=macs,
            params=model.get("params_count"),
            activation_bytes=kept,
            layer_bytes=int(times * max((_bytes(given) + _bytes(made) for given, made in layers), default=0)),
            outputs_bytes=int(times * sum(_bytes(made) for _, made in layers)),
            input_bytes=sum(_bytes(tensor["shape"]) for tensor in signature.get("inputs", ())),
            answer_bytes=sum(_bytes(tensor["shape"]) for tensor in signature.get("outputs", ())),
            train_examples=None if counts is None else counts.get("train", 0),
            test_examples=None if counts is None else counts.get(evaluated, 0),
            dataset_bytes=dataset_bytes,
        )

    @property
    def known(self) -> Facts:
        """What methods state their costs by; one example stands for a number that is not known."""
        return Facts(train_examples=1 if self.train_examples is None else self.train_examples)

    def step_seconds(self, steps: Sequence[MethodParams]) -> list[float | None]:
        """Wall-clock time of each step on one core, on what those before it leave of the network."""
        if self.macs is None or self.train_examples is None:
            return [None] * len(steps)
        found: list[float | None] = []
        left = 1.0
        for step in steps:
            cost = step.cost(self.known)
            computed = self.seconds(left * self.macs * cost.passes(self.known))
            a_byte = cost.tried_files / TRIED_BYTES_PER_SECOND + cost.optimizer_steps * cost.copies / STEPPED_BYTES_PER_SECOND
            found.append(computed + a_byte * 4 * left * (self.params or 0))
            left *= step.share_left
        return found

    def duration_seconds(self, spec: Spec) -> float | None:
        """Wall-clock time of the whole job on one core."""
        if self.macs is None or self.test_examples is None:
            return None
        evaluated = (len(spec.steps) + 2) * self.test_examples * self.macs
        measured = sum(self._measuring_seconds(spec, size) for size in spec.evaluation.latency.batch_sizes)
        start = START_SECONDS + (TORCH_SECONDS if any(step.needs.trainable for step in spec.steps) else 0)
        files = 4 * (self.params or 0) / WEIGHT_BYTES_PER_SECOND
        steps = sum(seconds or 0 for seconds in self.step_seconds(spec.steps))
        return rounded(start + measured + files + steps + self.seconds(evaluated))

    def _measuring_seconds(self, spec: Spec, batch_size: int) -> float:
        """How long two networks are timed, which is bounded."""
        return min(BATCH_SIZE_SECONDS, 2 * spec.evaluation.latency.repeats * self.seconds(batch_size * (self.macs or 0)))

    def seconds(self, macs: float) -> float:
        """How long so many operations of this network take on one core."""
        (small, slow), (large, fast) = RATES
        share = min(1.0, max(0.0, math.log(max(1, self.macs or 1) / small) / math.log(large / small)))
        return macs / (slow * math.pow(fast / slow, share))

    def peak_memory_bytes(self, spec: Spec) -> int | None:
        """Resident memory of the job's largest process."""
        costs = [step.cost(self.known) for step in spec.steps]
        trained = any(cost.trained_examples for cost in costs)
        if self.params is None or (trained and (self.activation_bytes is None or self.train_examples is None)):
            return None
        process = PROCESS_BYTES + (TORCH_BYTES if any(step.needs.trainable for step in spec.steps) else 0)
        weights = 4 * self.params * max(COPIES, *(cost.copies for cost in costs))
        calibration = max((min(cost.activation_bytes, cost.calibration_samples * self.outputs_bytes) for cost in costs), default=0)
        training = max((cost.kept_examples for cost in costs), default=0) * ((self.activation_bytes or 0) + BESIDE * self.layer_bytes)
        evaluation = self._evaluated_together(spec) * (BESIDE * self.layer_bytes + ANSWERS * self.answer_bytes)
        return process + weights + 2 * self.dataset_bytes + max(calibration, training, evaluation)

    def _evaluated_together(self, spec: Spec) -> int:
        """Examples that a file is run on at one time."""
        return run_together(4 * (self.params or 0), self.input_bytes, min(spec.evaluation.batch_size, self.test_examples or 1))


def rounded(seconds: float) -> float:
    """Two significant digits: more would be a promise."""
    return float(f"{seconds:.2g}")


def _bytes(shape: Sequence[int | None] | None) -> int:
    """Of one example in float32; a size that is not known counts as 1."""
    return 4 * math.prod(size or 1 for size in shape[1:]) if shape else 0


def _size(counted: Mapping[str, Sequence[int]], columns: Sequence[Mapping[str, Any]]) -> float | None:
    """How many times as large the dataset's examples are as those that a model of open sizes was counted with; None where that is not known."""
    shapes = {column["name"]: column["shape"] for column in columns}
    if len(shapes) == len(counted) == 1:
        shapes = dict(zip(counted, shapes.values(), strict=True))
    known = [(shapes.get(name), shape) for name, shape in counted.items()]
    if any(stored is None or None in stored for stored, _ in known):
        return None
    return sum(math.prod(stored or ()) for stored, _ in known) / max(1, sum(math.prod(shape) for _, shape in known))
