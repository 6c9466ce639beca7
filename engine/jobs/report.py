"""The report of a compress job: one JSON document, made of what the job measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.contract.figures import Result
from engine.contract.job import InputFile
from engine.contract.metric import Key
from engine.jobs.inputs import Subject
from engine.jobs.publication import Publication
from engine.jobs.recorder import sha256_of
from engine.measuring import environment
from engine.measuring.layer_table import layer_table
from engine.metrics.intervals import wilson_interval
from engine.reporting.document import REPORT_VERSION, sentence


def build(
    subject: Subject,
    result: Result,
    *,
    steps: Sequence[Mapping[str, Any]],
    publication: Publication,
    examples_count: int,
    warnings: Sequence[Mapping[str, Any]],
    artifacts: Sequence[Mapping[str, Any]],
    duration_seconds: float,
) -> dict[str, Any]:
    """The document, `report_version` 1.

    Args:
        subject: The job's inputs.
        result: Its figures, compared and judged.
        steps: What each step measured and reported.
        publication: The published state.
        examples_count: How many examples every metric was measured on.
        warnings: What the user should know.
        artifacts: The published files.
        duration_seconds: Wall time of the job so far.
    """
    job, spec = subject.job, subject.spec
    assert job.model is not None
    evaluation = {"split": subject.split, "examples_count": examples_count, "inputs": "dataset" if subject.data else "random"}
    document = {
        "report_version": REPORT_VERSION,
        "job_id": job.job_id,
        "name": spec.name,
        "outcome": result.outcome,
        **result.summary().model_dump(mode="json"),
        "intervals": {
            "baseline": _intervals(result.baseline.metrics, examples_count),
            "result": _intervals(result.first.figures.metrics, examples_count),
        },
        "evaluation": evaluation,
        "outputs": [head.model_dump(mode="json", exclude={"indices"}) for head in subject.heads or ()],
        "constraints": [item.model_dump() for item in result.first.verdict.constraints],
        "steps": list(steps),
        "kept_step_index": publication.step_index,
        "layers": layer_table(subject.onnx, publication.measured[0].runnable),
        "environment": environment.describe(threads=job.threads, seed=spec.seed, device=job.device),
        "warnings": list(warnings),
        "artifacts": list(artifacts),
        "inputs": {
            "model": _input(job.model),
            "dataset": None if job.dataset is None else _input(job.dataset),
            "teachers": {name: _input(file) for name, file in job.teachers.items()},
        },
        "spec": spec.normalized(),
        "spec_hash": spec.spec_hash(),
        "references": [reference.model_dump() for step in spec.steps for reference in step.references],
        "duration_seconds": duration_seconds,
    }
    return {**document, "sentence": sentence(document)}


def _intervals(metrics: Mapping[str, float | None], count: int) -> dict[str, list[float]]:
    """95 % Wilson intervals of the metrics that count examples."""
    known = {key: Key.parse(key).metric for key in metrics}
    shares = {key: value for key, value in metrics.items() if value is not None and (metric := known[key]) and metric.counts_examples}
    return {key: list(wilson_interval(value, count)) for key, value in shares.items()}


def _input(file: InputFile) -> dict[str, Any]:
    path: Path = file.path
    return {
        "id": file.id,
        "name": file.name or path.name,
        "format": file.format,
        "size_bytes": path.stat().st_size,
        "sha256": file.sha256 or sha256_of(path),
    }
