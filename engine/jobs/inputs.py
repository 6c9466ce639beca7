"""What a job works on: the uploaded network as a runnable file, its dataset, and the split that everything is measured on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine.contract import events
from engine.contract.cost import Facts
from engine.contract.errors import EngineError
from engine.contract.figures import Latency
from engine.contract.file_format import format_of
from engine.contract.heads import Head
from engine.contract.job import Job, ModelFile
from engine.contract.metadata import ModelMetadata
from engine.contract.metric import Key, catalogue
from engine.contract.spec import Spec
from engine.data import load_dataset
from engine.formats import load_network
from engine.measuring.examiner.messages import (
    CountRequest,
    ExaminedDataset,
    ExampleSource,
    ProfileRequest,
    Score,
    ScoreRequest,
    TimingRequest,
)
from engine.measuring.examples import RANDOM, with_evaluation_split
from engine.networks.network import Network

if TYPE_CHECKING:
    from engine.data.dataset import Data


@dataclass(frozen=True)
class JobInputs:
    """The loaded inputs of a compress job."""

    job: Job
    spec: Spec
    work: Path
    baseline: Network
    upload: Path
    """The file whose size is the baseline's: the uploaded one, or the export of an architecture without weights."""
    onnx: Path
    """The baseline as a file that ONNX Runtime runs: the upload itself, or its export."""
    data: Data | None
    split: str
    """Where metrics are measured: a split of the dataset, or `random` inputs where there is none."""
    heads: tuple[Head, ...] | None = None
    """How the outputs are read, once the baseline was scored."""

    @classmethod
    def load(cls, job: Job, spec: Spec, work: Path, warn: Callable[[events.Warned], None]) -> JobInputs:
        """Read the model and the dataset of `job`.

        Raises:
            EngineError: What is wrong with them, `dataset_invalid` where examples that the spec needs are missing.
        """
        assert job.model is not None
        network = read(job.model, work)
        data, split = None, RANDOM
        if job.dataset is not None:
            file = job.dataset
            stored = load_dataset(file.path, file.format, file.metadata, network.signature, work / "data")
            split = _evaluated_split(stored, spec.evaluation.split, warn)
            data = with_evaluation_split(stored, split, spec.seed)
        onnx = network.file(work / "baseline.onnx")
        format = format_of(job.model.format, "model")
        upload = job.model.path if format.has_weights and not format.packed else onnx
        return cls(job, spec, work, network, upload, onnx, data, split)

    @property
    def untrained(self) -> bool:
        """Whether the baseline's weights are mere random ones, which a result need not resemble."""
        return self.job.model is not None and not format_of(self.job.model.format, "model").has_weights

    @property
    def has_known_sizes(self) -> bool:
        """Whether the network says all sizes of its inputs but the batch, so that it can be counted before it runs."""
        return all(spec.shape and None not in spec.shape[1:] for spec in self.baseline.signature.inputs)

    @property
    def names_metrics(self) -> bool:
        """Whether the spec asks for metrics by name, which this network and dataset may not have."""
        return bool(_asked(self.spec))

    @property
    def facts(self) -> Facts:
        """What methods state their costs by."""
        splits = {} if self.data is None else self.data.splits
        return Facts(train_examples=splits["train"].count if "train" in splits else 0)

    @property
    def outputs(self) -> Path:
        """Where the examiner stores the baseline's outputs for the examples."""
        return self.work / "baseline_outputs"

    def source(self, network: Network | None = None) -> ExampleSource:
        """Where the examiner takes the inputs of `network` (left out: the baseline) from.

        Raises `internal_error` where a step added an input and did not state what stands in it.
        """
        dataset = self.job.dataset
        return ExampleSource(
            dataset=dataset and ExaminedDataset(path=dataset.path, format=dataset.format, metadata=dataset.metadata),
            signature=self.baseline.signature,
            split=self.split,
            seed=self.spec.seed,
            work=self.work / "examined_data",
            added=self.added(network or self.baseline),
        )

    def added(self, network: Network) -> dict[str, float]:
        """What stands in the inputs of a network that the baseline does not have. Raises `internal_error` where that is not stated."""
        known = {tensor.name for tensor in self.baseline.signature.inputs}
        added = {tensor.name: tensor.value for tensor in network.signature.inputs if tensor.name not in known}
        if unstated := [name for name, value in added.items() if value is None]:
            raise EngineError(
                "internal_error",
                f"A step added the input {unstated[0]!r} and does not say what stands in it, where the dataset has none of that name.",
                hint="The method has to give it a value in the signature; please report this with the spec.",
                category="internal",
            )
        return {name: value for name, value in added.items() if value is not None}

    def to_score(self, file: Path, network: Network | None = None, *, as_timed: bool = False) -> ScoreRequest:
        """The request to score the `file` of `network` (left out: the baseline) beside the baseline; `as_timed` in batches of the first size that it is timed with."""
        return ScoreRequest(
            file=file,
            baseline=self.onnx,
            outputs=self.outputs,
            source=self.source(network),
            heads=self.heads,
            declared=self.job.model.metadata if self.job.model is not None else ModelMetadata(),
            metrics=_asked(self.spec),
            usual=not self.spec.evaluation.metrics,
            batch_size=self.spec.evaluation.latency.batch_sizes[0] if as_timed else self.spec.evaluation.batch_size,
            exact_batch=as_timed,
            threads=self.job.threads,
        )

    def to_count(self, file: Path, network: Network | None = None) -> CountRequest:
        """The request to count what the `file` of `network` (left out: the baseline) computes for the examples."""
        return CountRequest(file=file, source=self.source(network), batch_size=self.spec.evaluation.batch_size, threads=self.job.threads)

    def to_time(self, file: Path, network: Network, *, varied: bool) -> TimingRequest:
        """The request to time the `file` of `network` in turns with the baseline; `varied` where what it computes depends on its input."""
        latency = self.spec.evaluation.latency
        return TimingRequest(
            baseline=self.onnx,
            result=file,
            source=self.source(network),
            batch_sizes=latency.batch_sizes,
            repeats=latency.repeats,
            threads=latency.threads,
            varied=varied or self.baseline.input_dependent,
        )

    def to_profile(self, file: Path, network: Network, timing: Latency) -> ProfileRequest:
        """The request to profile a file, of which one run takes as long as `timing` says."""
        return ProfileRequest(file=file, source=self.source(network), threads=timing.threads, p50_ms=timing.p50)

    def check(self, score: Score) -> None:
        """Raise `dataset_invalid` or `shape_mismatch` where a metric that the spec asks for cannot be measured, with the reason."""
        for name in _asked(self.spec):
            if f"{self.split}.{name}" in score.metrics:
                continue
            others = ", ".join(sorted({Key.parse(key).name for key in score.metrics}))
            targets = {} if self.data is None else self.data.splits[self.split].targets
            if catalogue()[name].needs == "targets" and not targets and not any(head.from_input for head in score.heads):
                raise EngineError(
                    "dataset_invalid",
                    f"The metric {name} needs targets, but the {self.split!r} split has none.",
                    hint=f"Upload y_{self.split}, or ask for {others}.",
                )
            reasons = "".join(f" {reason[:1].upper()}{reason[1:]}." for reason in score.unused_targets.values())
            raise EngineError(
                "shape_mismatch",
                f"The metric {name} cannot be measured on outputs of this network.{reasons}",
                hint=f"These can: {others}.",
                details={"outputs": {head.name: head.task for head in score.heads}},
            )
        wanted = self.spec.constraints.accuracy if self.spec.constraints else None
        if wanted is not None and wanted.output is not None:
            names = [head.name for head in score.heads]
            key = Key(self.split, wanted.metric, wanted.output)
            if wanted.output not in names or (len(names) > 1 and str(key) not in score.metrics):
                raise EngineError(
                    "shape_mismatch",
                    f"constraints.accuracy names the output {wanted.output!r}, on which {wanted.metric} is not measured.",
                    hint=f"Outputs: {', '.join(names)}.",
                )


def read(file: ModelFile, work: Path) -> Network:
    """An uploaded model as a network."""
    return load_network(file.path, file.format, file.metadata, work)


def _asked(spec: Spec) -> tuple[str, ...]:
    """Metrics that the spec names."""
    constrained = (spec.constraints.accuracy.metric,) if spec.constraints and spec.constraints.accuracy else ()
    return tuple(dict.fromkeys((*spec.evaluation.metrics, *constrained)))


def _evaluated_split(data: Data, wanted: str, warn: Callable[[events.Warned], None]) -> str:
    """The wanted split, or the best one in its place. Examples that are trained or calibrated on are never among it."""
    if wanted in data.splits or (wanted == "validation" and "train" in data.splits):
        return wanted
    for other in ("validation", "test"):
        if other in data.splits or (other == "validation" and "train" in data.splits):
            warn(
                events.Warned(
                    code="evaluation_split_replaced",
                    message=f"The dataset has no {wanted!r} split; figures were measured on {other!r}"
                    + ("." if other in data.splits else ", a tenth of the training examples that is kept out of training."),
                )
            )
            return other
    raise EngineError("dataset_invalid", f"The dataset has no {wanted!r} split.", hint=f"Upload x_{wanted}.")
