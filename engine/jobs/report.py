"""The report of a compress job: one document, made of what the job measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial

from engine.contract.figures import Result
from engine.contract.job import DatasetFile, ModelFile
from engine.contract.metric import Key
from engine.contract.report import EvaluatedOn, InputDescription, Inputs, Interval, Report, ReportedFile, ReportedWarning, StepReport
from engine.jobs.inputs import JobInputs
from engine.jobs.layer_changes import with_sensitivities
from engine.jobs.publication import Publication
from engine.jobs.recorder import sha256_of
from engine.measuring import environment
from engine.metrics.intervals import wilson_interval
from engine.reporting.sentence import sentence


def build(
    inputs: JobInputs,
    result: Result,
    *,
    steps: Sequence[StepReport],
    publication: Publication,
    examples_count: int,
    counted: Mapping[str, int],
    warnings: Sequence[ReportedWarning],
    artifacts: Sequence[ReportedFile],
    duration_seconds: float,
) -> Report:
    """The document.

    Args:
        inputs: The job's inputs.
        result: Its figures, compared and judged.
        steps: What each step measured and reported.
        publication: The published state.
        examples_count: How many examples there were to measure on.
        counted: How many of them have a target that counts, by output.
        warnings: What the user should know.
        artifacts: The published files.
        duration_seconds: Wall time of the job so far.
    """
    job, spec = inputs.job, inputs.spec
    assert job.model is not None
    intervals = partial(_intervals, count=examples_count, counted=counted)
    report = Report(
        **dict(result.summary()),
        job_id=job.job_id,
        name=spec.name,
        outcome=result.outcome,
        intervals={
            "baseline": intervals(result.baseline.metrics),
            "result": intervals(result.first.figures.metrics),
        },
        setting_intervals={item.setting.name: intervals(item.figures.metrics) for item in result.settings if len(result.settings) > 1},
        evaluation=EvaluatedOn(split=inputs.split, examples_count=examples_count, inputs="dataset" if inputs.data else "random"),
        outputs=tuple(head.model_dump(mode="json", exclude={"indices"}) for head in inputs.heads or ()),
        constraints=result.judged.verdict.constraints,
        steps=tuple(steps),
        kept_step_index=publication.step_index,
        layers=with_sensitivities(publication.layers.changes, steps),
        layers_not_profiled=publication.layers.not_profiled,
        classes=publication.measured[0].score.classes,
        environment=environment.describe(threads=job.threads, seed=spec.seed, device=job.device),
        warnings=tuple(warnings),
        artifacts=tuple(artifacts),
        inputs=Inputs(
            model=_input(job.model),
            dataset=None if job.dataset is None else _input(job.dataset),
            teachers={name: _input(file) for name, file in job.teachers.items()},
        ),
        spec=spec.normalized(),
        spec_hash=spec.spec_hash(),
        references=tuple(reference for step in spec.steps for reference in step.references),
        duration_seconds=duration_seconds,
        finished_at=datetime.now(UTC).replace(microsecond=0),
    )
    return report.model_copy(update={"sentence": sentence(report)})


def _intervals(metrics: Mapping[str, float | None], *, count: int, counted: Mapping[str, int]) -> dict[str, Interval]:
    """95 % Wilson intervals of the metrics that count examples: those that they are measured on."""
    found: dict[str, Interval] = {}
    for name, value in metrics.items():
        key = Key.parse(name)
        if value is None or key.metric is None or not key.metric.counts_examples:
            continue
        own = count
        if key.metric.needs == "targets":
            own = counted.get(key.output, count) if key.output else min(counted.values(), default=count)
        if own:
            found[name] = wilson_interval(value, own)
    return found


def _input(file: ModelFile | DatasetFile) -> InputDescription:
    return InputDescription(
        id=file.id,
        name=file.name or file.path.name,
        format=file.format,
        size_bytes=file.path.stat().st_size,
        sha256=file.sha256 or sha256_of(file.path),
        metadata=file.metadata.model_dump(mode="json", exclude_defaults=True),
    )
