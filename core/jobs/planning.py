"""What a spec would do, without doing it: plan, warnings, and a rough estimate (`core.jobs.estimates`) from what the inspections found."""

from collections.abc import Iterator
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, undefer

from core.database.tables import Job
from core.errors import FieldError, NotFound, ServiceError
from core.jobs import placement
from core.jobs.check import Checked, Submission, check
from core.jobs.estimates import JobFacts, rounded
from core.jobs.fit import wrong_labels
from core.jobs.layers import layer_warnings
from core.settings import Settings
from engine.contract.method import MethodParams
from engine.contract.spec import Spec

LEAST_FILE_BYTES, LEAST_NODE_BYTES = 64, 12
"""What an ONNX file and each of its nodes take at least."""


def validate(session: Session, settings: Settings, project_id: str, submission: Submission) -> dict[str, Any]:
    """The answer of `POST /v1/jobs/validate`. Raises `not_found` for an id that the project does not have."""
    spec = submission.spec
    checked, errors = None, []
    try:
        checked = check(session, project_id, submission)
    except NotFound:
        raise
    except ServiceError as error:
        errors = list(error.errors) or [FieldError(_POINTERS.get(error.code, ""), error.code, error.message, error.hint)]
    facts = JobFacts.of(checked) if checked is not None else JobFacts()
    seconds = facts.step_seconds(spec.steps) if spec is not None else []
    estimated = None if spec is None else facts.duration_seconds(spec)
    peak = None if spec is None else facts.peak_memory_bytes(spec)
    return {
        "valid": not errors,
        "normalized_spec": None if spec is None else spec.normalized(),
        "spec_hash": None if spec is None else spec.spec_hash(),
        "plan": [] if spec is None else [_planned(index, step, seconds[index]) for index, step in enumerate(spec.steps)],
        "warnings": []
        if spec is None
        else [
            *_warnings(spec, facts),
            *_out_of_reach(spec, checked, estimated, peak),
            *placement.warnings(session, settings, spec),
            *(_warning(*found) for found in (layer_warnings(spec, checked.model) if checked is not None else ())),
            *_known_of_dataset(checked),
            *_known_of_pair(session, checked),
        ],
        "estimate": {"duration_seconds": estimated, "peak_memory_bytes": peak},
        "errors": [vars(error) for error in errors],
    }


_POINTERS = {"model_invalid": "/model", "dataset_invalid": "/dataset", "shape_mismatch": "/dataset"}


def _planned(index: int, step: MethodParams, seconds: float | None) -> dict[str, Any]:
    return {
        "index": index,
        "id": step.id,
        "method": step.wire_name(),
        "title": step.title,
        "summary": (type(step).__doc__ or "").strip().partition("\n\n")[0],
        "needs": {**step.needs.model_dump(), "teachers": list(step.teachers())},
        "effect": step.effect.model_dump(),
        "duration_seconds": None if seconds is None else rounded(seconds),
    }


def _warnings(spec: Spec, facts: JobFacts) -> Iterator[dict[str, Any]]:
    for index, step in enumerate(spec.steps):
        if step.effect.file_size == "only_compressed" and step.effect.dense_latency == "unchanged":
            yield _warning(
                "no_dense_speedup",
                f"steps[{index}] ({step.wire_name()}) sets weights to zero and keeps every shape: the file gets smaller when it is "
                "compressed, inference does not get faster",
                index,
            )
        if step.effect.dense_latency == "depends_on_hardware" and spec.constraints and spec.constraints.min_speedup:
            yield _warning(
                "speed_depends_on_hardware",
                f"whether steps[{index}] ({step.wire_name()}) makes inference faster depends on the CPU that measures",
                index,
            )
        wanted = step.cost(facts.known).calibration_samples
        if facts.train_examples is not None and wanted > facts.train_examples:
            yield _warning(
                "few_calibration_examples", f"steps[{index}] calibrates on all {facts.train_examples} examples instead of {wanted}", index
            )
    if facts.waiting:
        yield _warning("not_inspected", f"{' and '.join(facts.waiting)} not been inspected yet: some mistakes are found only then", None)


def _known_of_dataset(checked: Checked | None) -> Iterator[dict[str, Any]]:
    """Examples that stand in two splits, as the inspection found them."""
    dataset = None if checked is None else checked.dataset
    for leak in ((dataset.inspection or {}) if dataset is not None else {}).get("leaks") or ():
        first, second = leak["splits"]
        message = (
            f"{leak['examples_count']} of the {leak['of_count']} {second} examples are {first} examples, too: figures measured on {second} "
            "are better than they would be on new data"
        )
        yield _warning("split_leak", message, None)


def _out_of_reach(spec: Spec, checked: Checked | None, seconds: float | None, peak: int | None) -> Iterator[dict[str, Any]]:
    """Limits that the steps, the file, the clock or the memory put beyond what the job can come to."""
    if seconds is not None and seconds > spec.limits.timeout_seconds:
        message = f"the job is estimated to take {seconds:g} s, and limits.timeout_seconds ends it after {spec.limits.timeout_seconds} s"
        yield _warning("timeout_below_estimate", message, None)
    if peak is not None and spec.limits.memory_bytes is not None and peak > spec.limits.memory_bytes:
        message = (
            f"the job is estimated to take {peak >> 20} MiB, and limits.memory_bytes gives its process {spec.limits.memory_bytes >> 20} MiB; "
            "a smaller batch_size takes less"
        )
        yield _warning("memory_below_estimate", message, None)
    if checked is None:
        return
    if checked.dataset is not None and (misfit := wrong_labels(checked.model, checked.dataset)) is not None:
        yield _warning("labels_out_of_range", f"{misfit.message}: {misfit.hint}; metrics that need them are not measured", None)
    limit = spec.constraints.max_file_bytes if spec.constraints else None
    if limit is None:
        return
    nodes = sum(((checked.model.inspection or {}).get("operators") or {}).values())
    if limit < (least := LEAST_FILE_BYTES + LEAST_NODE_BYTES * nodes):
        message = f"constraints.max_file_bytes is {limit}: the graph alone, without any weight, takes more than {least} bytes"
        yield _warning("budget_out_of_reach", message, None)
    elif limit < checked.model.size_bytes / 2 and not any(step.effect.file_size == "smaller" for step in spec.steps):
        message = f"constraints.max_file_bytes is {limit}: no step makes the file of {checked.model.size_bytes} bytes smaller"
        yield _warning("budget_out_of_reach", message, None)


PAIR_WARNINGS = frozenset({"baseline_near_chance", "labels_unused"})
"""What a job found out about its model and its dataset, whatever its steps were."""


def _known_of_pair(session: Session, checked: Checked | None) -> list[dict[str, Any]]:
    """What the last job with the same model and dataset found out about the two."""
    if checked is None or checked.dataset is None:
        return []
    same = (Job.model_id == checked.model.id, Job.dataset_id == checked.dataset.id, Job.finished_at.is_not(None))
    last = session.scalars(select(Job).where(*same).order_by(Job.finished_at.desc()).limit(1).options(undefer(Job.warnings))).one_or_none()
    found = [] if last is None else [item for item in last.warnings if item["code"] in PAIR_WARNINGS]
    return [{**item, "step_index": None, "details": {**item.get("details", {}), "job_id": last.id}} for item in found if last is not None]


def _warning(code: str, message: str, step_index: int | None) -> dict[str, Any]:
    return {"code": code, "message": message, "step_index": step_index, "details": {}}
