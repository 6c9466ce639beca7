"""What every step of a job is given: data, randomness, and where it reports. Imports no torch; `engine.methods.context` adds training."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from engine.contract import events
from engine.contract.display import MOST_SHOWN, Note, Shown, Table
from engine.contract.errors import EngineError
from engine.contract.figures import FileMetrics
from engine.contract.heads import Head
from engine.contract.method import MethodParams
from engine.contract.report import LayerSensitivity
from engine.methods.job_parts import UNKNOWN, Judge, Known, Splits
from engine.methods.training_curves import training_curves
from engine.networks.network import Network, Signature

if TYPE_CHECKING:
    from engine.training.batches import Examples

Apply = Callable[[Network, MethodParams, "StepContext"], Network]
"""A method's function `apply`: the network, the method's own parameters and what every step is given, to the next network. Methods that
train take an `engine.methods.context.Context`, which jobs that train give them."""


def implementation(step: MethodParams) -> Apply:
    """The method of a step. Imports torch where the method trains."""
    found: Apply = type(step).implementation()
    return found


@dataclass(frozen=True)
class StepFile:
    """A file that a step publishes besides the network: a mask, a ticket, a sparse form of the weights."""

    path: Path
    kind: str
    format: str
    metrics: FileMetrics
    """Figures that were measured on this file."""


@dataclass(kw_only=True)
class StepContext:
    """Data, randomness and a voice for one step of one job.

    The job builds one and calls `for_step` for each step; methods see only the step's own.
    """

    seed: int
    """The job's seed."""
    work: Path
    """Scratch folder that ends with the job."""
    emit: Callable[[events.Event], None]
    baseline: Network
    """The uploaded model."""
    network: Network | None = None
    """What the step is given."""
    data: Splits | None = None
    threads: int = 1
    evaluation_split: str = "test"
    """The split on which stages are measured."""
    known: Callable[[], Known] = lambda: UNKNOWN
    """How the outputs are read, as far as the job finds that out, for which it may have to wait; methods ask `reading`."""
    judge: Judge | None = None
    """Absent where a method runs outside of a job."""
    step_index: int | None = None
    reported: dict[str, Any] = field(default_factory=dict)
    sensitivities: dict[str, LayerSensitivity] = field(default_factory=dict)
    """What the method put into the step's report."""
    shown: list[Shown] = field(default_factory=list)
    """What the method shows in the readable reports."""
    metrics: dict[str, float] = field(default_factory=dict)
    """The last value of every metric of the step."""
    files: list[StepFile] = field(default_factory=list)
    """What the step publishes besides the network; the job moves them to its outputs when the step ends."""
    _span: tuple[float, float] = (0.0, 1.0)
    _draws: int = 0
    _started: float = field(default_factory=time.monotonic)

    def for_step(self, index: int, span: tuple[float, float], network: Network | None = None) -> Self:
        """The context of step `index`, whose work is the given share of the whole job; it is given `network`, by default the baseline."""
        own = replace(self, step_index=index, reported={}, sensitivities={}, shown=[], metrics={}, files=[], _span=span, _draws=0)
        return own.with_network(network)

    def with_network(self, network: Network | None) -> Self:
        """The same step with another network, by default the baseline: its inputs are those that the examples have."""
        signature = (network or self.baseline).signature
        data = self.data
        if data is not None and any(tensor.value is not None for tensor in signature.inputs):
            data = data.completed(signature)
        return replace(self, network=network, data=data)

    @property
    def signature(self) -> Signature:
        """Inputs and outputs of the network that the step is given, which an earlier step may have changed."""
        return (self.network or self.baseline).signature

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs, in the order in which the module takes them."""
        return tuple(tensor.name for tensor in self.signature.inputs)

    # Randomness

    def new_seed(self) -> int:
        """A seed of its own for one random choice; the same in every run of the same job."""
        self._draws += 1
        sequence = np.random.SeedSequence([self.seed, 0 if self.step_index is None else self.step_index + 1, self._draws])
        return int(sequence.generate_state(1)[0])

    def rng(self) -> np.random.Generator:
        """A fresh, seeded NumPy generator."""
        return np.random.default_rng(self.new_seed())

    # Data

    def split(self, name: str) -> Examples:
        """A split of the dataset. Raises `dataset_invalid` where it is missing."""
        splits = {} if self.data is None else self.data.splits
        if name not in splits:
            raise EngineError(
                "dataset_invalid",
                f"This step needs the {name!r} split, but the dataset has {', '.join(sorted(splits)) or 'no splits'}.",
                hint=f"Upload a dataset with x_{name} and y_{name}.",
            )
        return splits[name]

    def reading(self) -> tuple[Head, ...]:
        """How the network's outputs are read, in their order."""
        return self.known().heads

    def unused_targets(self) -> Mapping[str, str]:
        """Targets of the dataset that no output is compared with, and why."""
        return self.known().unused_targets

    def trained_heads(self, examples: Examples) -> tuple[Head, ...]:
        """The heads for which `examples` have targets."""
        return tuple(head for head in self.reading() if head.from_input is not None or head.target in examples.targets)

    def labelled(self, name: str) -> Examples:
        """A split with targets that the network can be trained on. Raises `dataset_invalid` or `shape_mismatch` where it has none."""
        examples = self.split(name)
        if self.trained_heads(examples):
            return examples
        if not examples.targets:
            raise EngineError("dataset_invalid", f"This step needs targets, but the {name!r} split has none.", hint=f"Upload y_{name}.")
        reasons = "; ".join(self.unused_targets().get(target, "no output is compared with it") for target in examples.targets)
        raise EngineError(
            "shape_mismatch",
            f"This step needs targets that fit an output of the network, but {reasons}.",
            hint="Say what the outputs are in the model's metadata (task, outputs), or use methods that need no targets.",
        )

    def held_out(self) -> tuple[Examples, Examples]:
        """Training and validation examples that have none in common. Raises `dataset_invalid` without training examples with targets."""
        self.labelled("train")
        assert self.data is not None
        return self.data.train(seed=self.seed), self.data.validation(seed=self.seed)

    def held_out_from_evaluation(self) -> tuple[Examples, Examples]:
        """Training examples with targets, and validation examples that are neither trained on nor evaluated.

        Raises `dataset_invalid`, and `no_validation_examples` where none can be had.
        """
        train = self.labelled("train")
        assert self.data is not None
        stored = self.data.splits.get("validation") if self.evaluation_split != "validation" else None
        if (stored is not None and stored.count == 0) or (stored is None and train.count < 2):
            raise EngineError(
                "no_validation_examples",
                "There are no validation examples: the validation split is empty."
                if stored is not None
                else f"There are no validation examples: none can be taken from the {train.count} of the training split.",
                hint="Upload x_validation and y_validation, or more training examples, of which a tenth is taken.",
            )
        if self.evaluation_split != "validation":
            return self.held_out()
        from engine.data.dataset import Data, Split

        assert isinstance(train, Split)
        rest = Data({"train": train})
        return rest.train(seed=self.seed), rest.validation(seed=self.seed)

    # Voice

    def phase(self, name: str) -> None:
        """Enter a phase: pruning, training, calibrating …"""
        self.emit(events.Phase(phase=name, step_index=self.step_index))

    def progress(self, fraction: float, message: str = "") -> None:
        """Share of the current part of the step that is done."""
        start, end = self._span
        done = start + (end - start) * min(1.0, max(0.0, fraction))
        elapsed = time.monotonic() - self._started
        eta = elapsed * (1 - done) / done if done > 0.01 else None
        self.emit(events.Progress(fraction=done, message=message, eta_seconds=eta, step_index=self.step_index))

    @contextmanager
    def part(self, start: float, end: float) -> Iterator[None]:
        """Progress inside of the block counts as the share from `start` to `end` of the step."""
        outer = self._span
        width = outer[1] - outer[0]
        self._span = (outer[0] + width * start, outer[0] + width * end)
        try:
            yield
        finally:
            self._span = outer

    def rounds(self, count: int) -> Iterator[int]:
        """1 … `count`, each of them an equal part of the step's progress."""
        for number in range(1, count + 1):
            with self.part((number - 1) / count, number / count):
                yield number

    def metric(self, name: str, value: float, *, step: int = 0, unit: str | None = None) -> None:
        """One point of a series."""
        self.metrics[name] = value
        self.emit(events.MetricPoint(name=name, value=value, step=step, unit=unit, step_index=self.step_index))

    def log(self, message: str) -> None:
        """A line for the job's log."""
        self.emit(events.Log(message=message, step_index=self.step_index))

    def warn(self, code: str, message: str, **details: Any) -> None:
        """Something that the user should know about the result."""
        self.emit(events.Warned(code=code, message=message, details=details, step_index=self.step_index))

    def unmatched(self, patterns: tuple[str, ...]) -> None:
        """Tell the user that some `ignore` patterns name no layer."""
        for pattern in patterns:
            self.warn("pattern_unmatched", f"ignore: {pattern!r} names no layer of this network.", pattern=pattern)

    def report(self, key: str, value: Any) -> None:
        """Put JSON into the step's report, for programs; what people should see is shown."""
        self.reported[key] = value

    def sensitive(self, layer: str, *, tried: str, key: str, value: float, whole: float | None = None) -> None:
        """Tell what was measured of the network in which `layer` alone was changed; see `engine.contract.report.LayerSensitivity`."""
        self.sensitivities[layer] = LayerSensitivity(step_index=self.step_index, tried=tried, key=key, value=value, whole=whole)

    def show(self, item: Shown) -> None:
        """Put a table, a curve, bars or a note into the readable reports, in the order of the calls; at most 50 of them a step."""
        self.shown.append(item)

    def displayed(self) -> tuple[Shown, ...]:
        """What the reports show of the step: its stages, as far as they were measured, and what the method chose."""
        stages = [row for row in self.reported.get("stages", ()) if len(row) > 1]
        table = [Table.of("Stages", "stage", stages)] if stages else []
        shown = [*table, *training_curves(self.reported.get("training", ())), *self.shown]
        if len(shown) <= MOST_SHOWN:
            return tuple(shown)
        left = len(shown) - MOST_SHOWN + 1
        return (*shown[: MOST_SHOWN - 1], Note(text=f"{left} more tables and diagrams are not shown."))

    def finished(self) -> None:
        """Called when the step is done and measured."""

    def published_name(self, path: Path) -> str:
        """What a file of this step is called where it is published."""
        return path.name if self.step_index is None else f"step{self.step_index}-{path.name}"

    def artifact(self, path: Path, *, kind: str, format: str, **metrics: Any) -> None:
        """Publish a finished file of the scratch folder (`context.work`) when the step ends."""
        self.files.append(StepFile(path, kind, format, metrics))
