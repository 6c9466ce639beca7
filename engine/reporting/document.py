"""The report of a compress job: one JSON document, and its readable forms.

`to_html` and `to_markdown` need nothing but the standard library, so that the API renders reports without numpy or torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.contract import constraints
from engine.measuring import environment
from engine.reporting.html import to_html
from engine.reporting.markdown import to_markdown
from engine.reporting.text import ratio_text, value_text

if TYPE_CHECKING:
    from engine.contract.job import InputFile
    from engine.jobs.inputs import Subject
    from engine.jobs.publication import Publication

__all__ = ["REPORT_VERSION", "build", "sentence", "to_html", "to_markdown"]

REPORT_VERSION = 1
SHARES = frozenset({"top1", "top5", "agreement"})
"""Metrics that count examples, so that they have a Wilson interval."""


def build(
    subject: Subject,
    summary: Mapping[str, Any],
    *,
    outcome: str,
    checks: Sequence[Mapping[str, Any]],
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
        summary: Its figures: `baseline`, `result`, `verdict`, `comparison`.
        outcome: `constraints_met`, `constraints_not_met` or `no_constraints`.
        checks: The constraints, each met or unmet.
        steps: What each step measured and reported.
        publication: The published state.
        examples_count: How many examples every metric was measured on.
        warnings: What the user should know.
        artifacts: The published files.
        duration_seconds: Wall time of the job so far.
    """
    from engine.measuring.layer_table import layer_table

    job, spec = subject.job, subject.spec
    assert job.model is not None
    evaluation = {"split": subject.split, "examples_count": examples_count, "inputs": "dataset" if subject.data else "random"}
    document = {
        "report_version": REPORT_VERSION,
        "job_id": job.job_id,
        "name": spec.name,
        "outcome": outcome,
        **summary,
        "intervals": {side: _intervals(summary[side]["metrics"], examples_count) for side in ("baseline", "result")},
        "evaluation": evaluation,
        "constraints": list(checks),
        "steps": list(steps),
        "kept_step_index": publication.step_index,
        "layers": layer_table(subject.onnx, publication.runnable),
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


def sentence(document: Mapping[str, Any]) -> str:
    """What came out, in one sentence."""
    compared, split = document["comparison"], document["evaluation"]["split"]
    smaller = compared["file_ratio"] or 0
    parts = [f"{ratio_text(smaller)} smaller" if smaller >= 1.005 else "no smaller file"]
    if smaller < 1.005 and (compared["gzip_ratio"] or 0) >= 1.05:
        parts.append(f"{ratio_text(compared['gzip_ratio'])} smaller after gzip")
    metric = next(
        (key for name in ("top1", "agreement", "cosine", "sqnr_db") if (key := f"{split}.{name}") in document["result"]["metrics"]), None
    )
    if metric is not None:
        before, after = (document[side]["metrics"][metric] for side in ("baseline", "result"))
        name = metric.partition(".")[2]
        if name == "top1":
            parts.append(f"top-1 {100 * (after - before):+.2f} points ({value_text(name, before)} → {value_text(name, after)})")
        else:
            parts.append(f"{name} with the original {value_text(name, after)}" + (" on random inputs" if split == "random" else ""))
    speed, latency = compared["latencies"][0], document["result"]["latency_ms"]
    how = {"faster": f"{ratio_text(speed['speedup'])} faster", "same": "as fast as the original"}.get(
        document["verdict"], f"{ratio_text(1 / speed['speedup'])} slower"
    )
    parts.append(
        f"{how} on {latency['runtime']} ({latency['threads']} thread{'s' if latency['threads'] > 1 else ''}, batch {latency['batch_size']})"
    )
    missed = [constraints.sentence(item) for item in document["constraints"] if not item["met"]]
    ending = {"constraints_met": "; all constraints met", "no_constraints": ""}.get(document["outcome"], "; missed: " + ", ".join(missed))
    return ", ".join(parts) + ending + "."


def _intervals(metrics: Mapping[str, float], count: int) -> dict[str, list[float]]:
    """95 % Wilson intervals of the metrics that count examples."""
    from engine.metrics.evaluation import wilson_interval

    return {key: list(wilson_interval(value, count)) for key, value in metrics.items() if key.partition(".")[2] in SHARES}


def _input(file: InputFile) -> dict[str, Any]:
    from engine.jobs.recorder import sha256_of

    path: Path = file.path
    return {
        "id": file.id,
        "name": file.name or path.name,
        "format": file.format,
        "size_bytes": path.stat().st_size,
        "sha256": file.sha256 or sha256_of(path),
    }
