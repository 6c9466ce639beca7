"""What a job works on: the uploaded network as a runnable file, its dataset, and the split that everything is measured on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine.contract import events
from engine.contract.cost import Facts
from engine.contract.errors import EngineError
from engine.contract.file_format import format_of
from engine.contract.job import Job, ModelFile
from engine.contract.metric import catalogue
from engine.contract.spec import Spec
from engine.data import load_dataset
from engine.formats import load_network
from engine.measuring.examiner.messages import ExaminedDataset, ExampleSource, Score, ScoreRequest, TimingRequest
from engine.measuring.examples import RANDOM, with_evaluation_split
from engine.networks.network import Network

if TYPE_CHECKING:
    from engine.data.dataset import Data

DEFAULT_METRICS = ("top1", "cross_entropy")


@dataclass(frozen=True)
class Subject:
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
    metrics: tuple[str, ...]
    """Label metrics that are measured; none without labels."""

    @classmethod
    def load(cls, job: Job, spec: Spec, work: Path, warn: Callable[[events.Warned], None]) -> Subject:
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
        metrics = _label_metrics(spec, data, split)
        onnx = network.file(work / "baseline.onnx")
        upload = job.model.path if format_of(job.model.format, "model").has_weights else onnx
        return cls(job, spec, work, network, upload, onnx, data, split, metrics)

    @property
    def untrained(self) -> bool:
        """Whether the baseline's weights are mere random ones, which a result need not resemble."""
        return self.job.model is not None and not format_of(self.job.model.format, "model").has_weights

    @property
    def facts(self) -> Facts:
        """What methods state their costs by."""
        splits = {} if self.data is None else self.data.splits
        return Facts(train_examples=splits["train"].count if "train" in splits else 0)

    @property
    def outputs(self) -> Path:
        """Where the examiner keeps what the baseline said about the examples."""
        return self.work / "baseline_outputs"

    def source(self) -> ExampleSource:
        """Where the examiner takes its inputs from."""
        dataset = self.job.dataset
        return ExampleSource(
            dataset=dataset and ExaminedDataset(path=dataset.path, format=dataset.format, metadata=dataset.metadata),
            signature=self.baseline.signature,
            split=self.split,
            seed=self.spec.seed,
            work=self.work / "examined_data",
        )

    def to_score(self, file: Path, *, as_timed: bool = False) -> ScoreRequest:
        """The request to score `file` beside the baseline; `as_timed` in batches of the first size that it is timed with."""
        return ScoreRequest(
            file=file,
            baseline=self.onnx,
            outputs=self.outputs,
            source=self.source(),
            metrics=self.metrics,
            required=any(catalogue()[name].needs == "targets" for name in _asked(self.spec)),
            batch_size=self.spec.evaluation.latency.batch_sizes[0] if as_timed else self.spec.evaluation.batch_size,
            threads=self.job.threads,
        )

    def to_time(self, file: Path) -> TimingRequest:
        """The request to time `file` in turns with the baseline."""
        latency = self.spec.evaluation.latency
        return TimingRequest(
            baseline=self.onnx,
            result=file,
            source=self.source(),
            batch_sizes=latency.batch_sizes,
            repeats=latency.repeats,
            threads=latency.threads,
        )

    def check(self, score: Score) -> None:
        """Raise `shape_mismatch` where a metric that the spec asks for cannot be measured on this network."""
        for name in _asked(self.spec):
            if f"{self.split}.{name}" not in score.metrics:
                raise EngineError(
                    "shape_mismatch",
                    f"The metric {name} cannot be measured on outputs of this network.",
                    hint=f"These can: {', '.join(key.partition('.')[2] for key in score.metrics)}.",
                )


def read(file: ModelFile, work: Path) -> Network:
    """An uploaded model as a network."""
    return load_network(file.path, file.format, file.metadata, work)


def _asked(spec: Spec) -> tuple[str, ...]:
    """Metrics that the spec names."""
    constrained = (spec.constraints.accuracy.metric,) if spec.constraints and spec.constraints.accuracy else ()
    return tuple(dict.fromkeys((*spec.evaluation.metrics, *constrained)))


def _label_metrics(spec: Spec, data: Data | None, split: str) -> tuple[str, ...]:
    asked = tuple(name for name in _asked(spec) if catalogue()[name].needs == "targets")
    if data is not None and data.splits[split].labels is not None:
        return tuple(dict.fromkeys((*(DEFAULT_METRICS if not spec.evaluation.metrics else ()), *asked)))
    if asked:
        raise EngineError(
            "dataset_invalid",
            f"The metric {asked[0]} needs labels, but the {split!r} split has none.",
            hint=f"Upload y_{split}, or ask for agreement, sqnr_db or cosine.",
        )
    return ()


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
