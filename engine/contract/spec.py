"""The compression spec: what a job does, in one frozen document (see docs/methods.md for the steps)."""

import functools
import hashlib
import json
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from engine.contract import metric as metrics
from engine.contract.file_format import catalogue as file_formats
from engine.contract.file_format import writable_names
from engine.contract.findings import Problem, Problems, problems_of
from engine.contract.method import MethodParams, catalogue
from engine.contract.params import Params

MOST_DEVICES = 16
"""Devices of one job."""

if TYPE_CHECKING:
    Step = MethodParams
    MetricName = str
    ExportFormat = str
else:
    MetricName = Literal[tuple(metrics.catalogue())]
    ExportFormat = Literal[writable_names()]
    Step = Annotated[functools.reduce(lambda left, right: left | right, catalogue().values()), Field(discriminator="method")]


class AccuracyConstraint(Params):
    """How much quality the result may lose, or must have."""

    metric: MetricName = "top1"
    """Some need targets; `agreement`, `sqnr_db` and `cosine` compare with the original's outputs. See `docs/tasks.md`."""
    output: str | None = Field(None, min_length=1, max_length=256)
    """Name of the output that counts; without it, of several outputs the worst."""
    max_drop: float | None = Field(None, ge=0)
    """Largest loss against the baseline (of a metric whose smallest value is the best: largest rise)."""
    drop_type: Literal["absolute", "relative"] = "absolute"
    """`max_drop` in the metric's own unit, or as a share of the baseline's value."""
    min: float | None = None
    """Least acceptable value (of a metric whose smallest value is the best: the largest)."""

    @model_validator(mode="after")
    def _says_something(self) -> "AccuracyConstraint":
        if self.max_drop is None and self.min is None:
            raise ValueError("give max_drop or min")
        chosen = metrics.catalogue()[self.metric]
        if chosen.needs == "baseline" and self.max_drop is not None:
            raise ValueError(f"{self.metric} already compares with the baseline: give min")
        for name, value in (("max_drop", self.max_drop), ("min", self.min)):
            if chosen.unit == "share" and value is not None and value > 1:
                raise Problems(
                    [
                        Problem(
                            pointer=f"/{name}",
                            code="value_error",
                            detail=f"ratios are 0..1, got {value:g}",
                            hint=f"did you mean {value / 100:g}?",
                        )
                    ]
                )
        return self


class Constraints(Params):
    """What the result must satisfy; all are checked on the published file."""

    accuracy: AccuracyConstraint | None = None
    max_file_bytes: int | None = Field(None, ge=1)
    """Largest size of the published file."""
    max_params_count: int | None = Field(None, ge=1)
    max_macs_count: int | None = Field(None, ge=1)
    """Largest number of multiply-accumulate operations for one example."""
    min_speedup: float | None = Field(None, gt=0)
    """Smallest ratio of the baseline's median latency to the result's, at the first batch size of `evaluation.latency`; of their means
    over real inputs where what a network computes depends on its input."""
    max_latency_ms: float | None = Field(None, gt=0)
    """Largest median latency at the first batch size of `evaluation.latency`; mean over real inputs where it depends on them."""
    settings: Literal["best", "all"] = "best"
    """Which settings of a network with several (widths, exits, budgets) have to meet them: `best`, one is enough, and the outcome rests on
    the best that does; `all`, every one of them. `judged_setting` of the result names the setting that decided."""
    on_violation: Literal["keep_best", "fail"] = "keep_best"
    """A missed constraint keeps the best artifact (`outcome: constraints_not_met`), or fails the job and still keeps it."""


class Latency(Params):
    """How speed is measured: baseline and result in turns, in one process."""

    batch_sizes: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = Field((1,), min_length=1, max_length=8)
    threads: int = Field(1, ge=1, le=256)
    repeats: int = Field(100, ge=5, le=100_000)
    """Timed runs of each network and batch size, bounded by about two seconds a batch size."""


class Evaluation(Params):
    """What is measured, and on which examples."""

    metrics: tuple[MetricName, ...] = ()
    """Empty: those of the outputs' tasks, where there are targets; fidelity to the original is measured in any case."""
    split: Literal["test", "validation"] = "test"
    batch_size: int = Field(256, ge=1, le=65_536)
    latency: Latency = Latency()


class Limits(Params):
    """Bounds on what the job may use."""

    timeout_seconds: int = Field(86_400, ge=1, le=30 * 86_400)
    """Wall-clock limit of one attempt."""
    memory_bytes: int | None = Field(None, ge=256 * 2**20)
    """Address-space limit of the job's process; the service's own limit applies as well."""
    gpu_memory_bytes: int = Field(0, ge=0)
    """Least memory of the GPU that the job needs; workers with less leave it to others."""


class Spec(Params):
    """An ordered list of compression steps for one model, with the targets that the result is checked against."""

    name: str | None = Field(None, min_length=1, max_length=200)
    model: str = Field(pattern=r"^mdl_[A-Za-z0-9]{1,64}$")
    """Id of the uploaded model."""
    dataset: str | None = Field(None, pattern=r"^ds_[A-Za-z0-9]{1,64}$")
    """Id of the uploaded dataset; needed by steps that train, calibrate or measure accuracy."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seed of every random choice: same seed, same result."""
    quantize: Literal["int8"] | None = None
    """Shorthand for one step: `int8_quantization` with a dataset, `dynamic_quantization` without."""
    steps: tuple[Step, ...] = Field((), max_length=32)
    constraints: Constraints | None = None
    evaluation: Evaluation = Evaluation()
    export: tuple[ExportFormat, ...] = Field(("onnx",), min_length=1)
    """Formats of the published files; figures are measured on the first."""
    limits: Limits = Limits()
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Where training steps run; files are always measured on the CPU, with ONNX Runtime."""
    devices: int = Field(1, ge=1, le=MOST_DEVICES)
    """Devices that train together: so many GPUs of one worker, or so many processes where the job runs on the CPU. Every batch is divided
    among them; the result is that of one device up to rounding."""
    priority: int = Field(0, ge=-100, le=100)
    """Jobs with a higher priority are claimed first."""
    max_attempts: int = Field(3, ge=1, le=10)
    """How often the job may be started when a worker is lost."""
    labels: dict[Annotated[str, Field(max_length=63)], Annotated[str, Field(max_length=255)]] = Field({}, max_length=16)
    """Free key-value pairs to find the job by."""

    @model_validator(mode="before")
    @classmethod
    def _expand_quantize(cls, data: Any) -> Any:
        """Turn `quantize: int8` into the step that it stands for, so that the normalized spec holds steps only."""
        if not isinstance(data, dict) or data.get("quantize") != "int8":
            return data
        if data.get("steps"):
            raise ValueError("give either quantize or steps, not both")
        method = "int8_quantization" if data.get("dataset") else "dynamic_quantization"
        return {**data, "quantize": None, "steps": [{"method": method}]}

    @model_validator(mode="after")
    def _meaningful(self) -> "Spec":
        problems = [*_order_problems(self.steps), *_need_problems(self), *_export_problems(self)]
        if not self.steps:
            problems.append(_problem("steps", "give at least one step, or quantize: int8"))
        if problems:
            raise Problems(problems)
        return self

    @property
    def processes(self) -> int:
        """In how many processes the job runs, each with a device of its own: they divide trainings, and nothing else."""
        return self.devices if any(step.needs.trainable for step in self.steps) else 1

    def normalized(self) -> dict[str, Any]:
        """The spec with every default written out, as JSON types."""
        return self.model_dump(mode="json")

    def spec_hash(self) -> str:
        """Hash of what the spec sets beyond the defaults; names and labels do not count."""
        stated = self.model_dump(mode="json", exclude_defaults=True, exclude={"name", "labels", "priority", "max_attempts"})
        for step, params in zip(stated.get("steps", ()), self.steps, strict=False):
            step["method"] = params.wire_name()
        return "sha256:" + hashlib.sha256(json.dumps(stated, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _problem(path: str, detail: str) -> Problem:
    return Problem(pointer=f"/{path}", code="dataset_required" if path == "dataset" else "order_invalid", detail=detail)


def _order_problems(steps: tuple[MethodParams, ...]) -> list[Problem]:
    problems = []
    for index, step in enumerate(steps):
        for earlier in steps[:index]:
            keys = (step.wire_name(), step.family(), "*")
            reason = next((earlier.forbids_next[key] for key in keys if key in earlier.forbids_next), None)
            if reason:
                problems.append(_problem(f"steps/{index}/method", f"{step.wire_name()} cannot follow {earlier.wire_name()}: {reason}"))
                break
    ids = [step.id for step in steps if step.id is not None]
    twice = [(index, step.id) for index, step in enumerate(steps) if step.id is not None and ids.count(step.id) > 1]
    return problems + [_problem(f"steps/{index}/id", f"id {name!r} is used twice") for index, name in twice]


def _need_problems(spec: Spec) -> list[Problem]:
    if spec.dataset is not None:
        return []
    problems = [
        _problem("dataset", f"steps[{index}] ({step.wire_name()}) needs a dataset: upload one and name it in `dataset`")
        for index, step in enumerate(spec.steps)
        if step.needs.dataset
    ]
    if spec.constraints and spec.constraints.accuracy:
        problems.append(_problem("dataset", "constraints.accuracy is measured on examples: name a dataset"))
    return problems


def _export_problems(spec: Spec) -> list[Problem]:
    """Formats that cannot hold what the last steps make."""
    graph = next((step.wire_name() for step in spec.steps if step.leaves_graph), None)
    return [
        Problem(
            pointer=f"/export/{place}",
            code="export_unsupported",
            detail=f"{name} holds trainable networks, and {graph} leaves a graph of other operators",
            hint="onnx and safetensors hold both",
        )
        for place, name in enumerate(spec.export)
        if graph is not None and file_formats()[name].holds_modules
    ]


def parse(document: Any) -> tuple[Spec | None, list[Problem]]:
    """Validate a spec given as JSON types; returns the spec, or every problem found (see `engine.contract.findings`)."""
    try:
        return Spec.model_validate(document), []
    except ValidationError as error:
        return None, problems_of(error, Spec, document)


@functools.cache
def json_schema() -> dict[str, Any]:
    """The whole spec as JSON Schema 2020-12."""
    schema = Spec.model_json_schema()
    for part in schema["$defs"].values():
        if "const" in part.get("properties", {}).get("method", {}):
            # It has a default, so that programs may write `Train()`; documents have to say which method a step is.
            part["required"] = ["method", *part.get("required", [])]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
