"""The report of a compression, `report.json`: written by the job, read by whoever draws it."""

from datetime import datetime
from typing import Any, Literal

from pydantic import JsonValue, ValidationError

from engine.contract.display import Shown
from engine.contract.errors import Details, EngineError
from engine.contract.figures import ConstraintCheck, FileMetrics, Judgement, Measured, Outcome, Record, Result, Setting, Summary
from engine.contract.method import Reference

REPORT_VERSION = 1
Interval = tuple[float, float]


class EvaluatedOn(Record):
    """The examples that every metric was measured on."""

    split: str
    examples_count: int
    inputs: Literal["dataset", "random"]


class LayerSensitivity(Record):
    """What a step measured of a network in which this layer alone was changed."""

    step_index: int
    tried: str
    """What was done to the layer, such as `half of its channels removed`."""
    key: str
    """Of the figure: `<split>.<metric>`, or `signal_over_error` for dB at the layer's output."""
    value: float
    whole: float | None = None
    """The same figure of the network as it was, where it has one."""


class StepReport(Record):
    """What one step measured, found and shows."""

    index: int
    id: str | None = None
    method: str
    title: str
    duration_seconds: float
    metrics: dict[str, float | None]
    report: dict[str, Any]
    """What the method found, under keys of its own."""
    shown: tuple[Shown, ...] = ()
    """What people read of it."""
    sensitivities: dict[str, LayerSensitivity] = {}
    """By layer, where the method measured any."""


class LayerSide(Record):
    """The weight of a layer in one of the two files."""

    shape: tuple[int, ...]
    params_count: int
    bytes: int
    """As stored: bits of a packed weight share their bytes."""
    bits: float
    """Of one weight as the layer computes with it."""
    sparsity: float


class LayerChange(Record):
    """A layer of the baseline, and what became of it."""

    name: str
    type: str
    node: str = ""
    """The operator in the uploaded file; empty where it has no name, and in reports of before it was there."""
    before: LayerSide
    after: LayerSide | None
    """Null where it has gone."""
    latency_share_before: float | None = None
    """Share of the time of one run that ONNX Runtime's profile of the file gives this layer, with what it fused into it; null where it was
    not profiled, or where the runtime made one operator of several layers."""
    latency_share_after: float | None = None
    """The same in the result."""
    sensitivity: LayerSensitivity | None = None
    """Null where no step measured it."""


class ClassChange(Record):
    """How many examples of one class the original and the result get right."""

    output: str
    class_number: int
    examples_count: int
    right_before_count: int
    right_after_count: int
    mostly_taken_for: int | None = None
    """The class that the result names most often for examples of this one that the original had right; null where it has lost none."""


class Environment(Record):
    """What the figures were measured on."""

    engine_version: str
    cpu_model: str
    cpu_count: int | None
    cpu_flags: tuple[str, ...]
    machine: str
    system: str
    python: str
    packages: dict[str, str]
    threads: int
    device: str
    seed: int


class ReportedWarning(Record):
    """Something that the user should know about the result, under a stable code."""

    step_index: int | None = None
    code: str
    message: str
    details: Details = {}


class ReportedFile(Record):
    """A published file."""

    step_index: int | None = None
    filename: str
    kind: str
    format: str
    size_bytes: int
    gzip_bytes: int | None = None
    sha256: str
    metrics: FileMetrics = {}
    settings: tuple[str, ...] = ()
    """Names of the settings that were measured on it."""


class InputDescription(Record):
    """An uploaded file."""

    id: str | None
    name: str
    format: str
    size_bytes: int
    sha256: str
    metadata: dict[str, JsonValue] = {}
    """What its owner declared about it."""


class Inputs(Record):
    """What the job worked on."""

    model: InputDescription
    dataset: InputDescription | None
    teachers: dict[str, InputDescription] = {}


class Report(Summary):
    """The whole report. Keys are only ever added."""

    report_version: int = REPORT_VERSION
    job_id: str
    name: str | None
    outcome: Outcome
    intervals: dict[Literal["baseline", "result"], dict[str, Interval]]
    """95 % Wilson intervals of the metrics that count examples."""
    setting_intervals: dict[str, dict[str, Interval]] = {}
    """The same of every setting, by its name, where the network has several."""
    evaluation: EvaluatedOn
    outputs: tuple[dict[str, Any], ...] = ()
    """What each output of the network means, and its task."""
    constraints: tuple[ConstraintCheck, ...]
    """Of the setting that the outcome rests on, `judged_setting`."""
    steps: tuple[StepReport, ...]
    kept_step_index: int
    layers: tuple[LayerChange, ...]
    """Of the first setting."""
    layers_not_profiled: str = ""
    """Why no layer has a share of the latency; empty where they have."""
    classes: tuple[ClassChange, ...] = ()
    """Of the first setting, those that lost most first: at most a hundred of each output that tells classes apart."""
    environment: Environment
    warnings: tuple[ReportedWarning, ...]
    artifacts: tuple[ReportedFile, ...]
    inputs: Inputs
    spec: dict[str, Any]
    spec_hash: str
    references: tuple[Reference, ...]
    duration_seconds: float
    finished_at: datetime | None = None
    """When the report was written, in UTC; null in reports of before it was."""
    sentence: str = ""
    """What came out, in one sentence."""

    def as_result(self) -> Result:
        """The figures of every setting; a report of before there were settings has one, without a name."""
        if self.settings:
            return Result(baseline=self.baseline, settings=self.settings, judged_setting=self.judged_setting or None)
        verdict = Judgement(speed=self.verdict, outcome=self.outcome, constraints=self.constraints)
        only = Measured(setting=Setting(), figures=self.result, comparison=self.comparison, verdict=verdict)
        return Result(baseline=self.baseline, settings=(only,))


class UnreadableReport(EngineError):
    """The document is not one that this version reads."""


def read_report(content: bytes | str) -> Report:
    """A stored report. Raises UnreadableReport (`report_unreadable`) where it has another version or is none."""
    try:
        report = Report.model_validate_json(content)
    except ValidationError as error:
        problem = error.errors()[0]
        where = "/".join(str(part) for part in problem["loc"]) or "the document"
        raise UnreadableReport(
            "report_unreadable",
            f"The report cannot be shown: {where}: {problem['msg']}.",
            hint="report.json holds it as it was written; a service of the version that wrote it can show it.",
        ) from None
    if report.report_version != REPORT_VERSION:
        raise UnreadableReport(
            "report_unreadable",
            f"The report has version {report.report_version}, and this service reads version {REPORT_VERSION}.",
            hint="report.json holds it as it was written; upgrade the service that shows it.",
        )
    return report
