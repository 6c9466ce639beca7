"""What a spec would do, without doing it: plan, warnings, and a rough estimate from what the inspections found.

The estimate counts multiply-accumulate operations and divides by a rate that one core of a common CPU reaches, which is higher on large
networks; `benchmarks.peers.real_size` holds it against whole jobs. It is meant to be right within a factor of two, on a machine of its own.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, undefer

from core.database.tables import Job
from core.errors import FieldError, NotFound, ServiceError
from core.jobs import placement
from core.jobs.check import Checked, Submission, check
from core.jobs.fit import wrong_labels
from core.jobs.layers import layer_warnings
from core.settings import Settings
from engine.contract.cost import Facts
from engine.contract.method import MethodParams
from engine.contract.spec import Spec

RATES = ((1e8, 1.5e10), (1e9, 5e10))
"""Operations of one example, and those that one core does in a second: a ResNet-50 (4.1e9) comes to 5.3e10, a ViT-B/16 (1.75e10) to
4.8e10, networks of a few million to 1e10 or 2e10. In between, along a line in logarithms."""
START_SECONDS = 3.0
"""Loading, exporting and verifying, whatever the size."""
WEIGHT_BYTES_PER_SECOND = 5e7
"""Reading, checking, compressing, writing and loading of the weights."""
BATCH_SIZE_SECONDS = 2.0
"""Time that the latency of each batch size is measured for."""
STATES = 5
"""Copies of the weights while training: weights, gradients, two moments, the baseline."""
LEAST_FILE_BYTES, LEAST_NODE_BYTES = 64, 12
"""What an ONNX file and each of its nodes take at least."""
PROCESS_BYTES = 450 * 2**20
"""A process that has loaded torch and ONNX Runtime."""


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
    facts = _Facts.of(checked) if checked is not None else _Facts()
    costs = [facts.step_macs(step) for step in spec.steps] if spec is not None else []
    estimated = None if spec is None else facts.duration_seconds(spec, costs)
    return {
        "valid": not errors,
        "normalized_spec": None if spec is None else spec.normalized(),
        "spec_hash": None if spec is None else spec.spec_hash(),
        "plan": [] if spec is None else [_planned(index, step, facts, costs[index]) for index, step in enumerate(spec.steps)],
        "warnings": []
        if spec is None
        else [
            *_warnings(spec, facts),
            *_out_of_reach(spec, checked, estimated),
            *placement.warnings(session, settings, spec),
            *(_warning(*found) for found in (layer_warnings(spec, checked.model) if checked is not None else ())),
            *_known_of_dataset(checked),
            *_known_of_pair(session, checked),
        ],
        "estimate": {
            "duration_seconds": estimated,
            "peak_memory_bytes": None if spec is None else facts.peak_memory_bytes(spec),
        },
        "errors": [vars(error) for error in errors],
    }


_POINTERS = {"model_invalid": "/model", "dataset_invalid": "/dataset", "shape_mismatch": "/dataset"}


def _planned(index: int, step: MethodParams, facts: "_Facts", macs: float | None) -> dict[str, Any]:
    return {
        "index": index,
        "id": step.id,
        "method": step.wire_name(),
        "title": step.title,
        "summary": (type(step).__doc__ or "").strip().partition("\n\n")[0],
        "needs": {**step.needs.model_dump(), "teachers": list(step.teachers())},
        "effect": step.effect.model_dump(),
        "duration_seconds": None if macs is None else _rounded(facts.seconds(macs)),
    }


def _warnings(spec: Spec, facts: "_Facts") -> Iterator[dict[str, Any]]:
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


def _out_of_reach(spec: Spec, checked: Checked | None, seconds: float | None) -> Iterator[dict[str, Any]]:
    """Limits that the steps, the file or the clock put beyond what the job can come to."""
    if seconds is not None and seconds > spec.limits.timeout_seconds:
        message = f"the job is estimated to take {seconds:g} s, and limits.timeout_seconds ends it after {spec.limits.timeout_seconds} s"
        yield _warning("timeout_below_estimate", message, None)
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


@dataclass(frozen=True)
class _Facts:
    """What the inspections found; None where one has not ended."""

    macs: int | None = None
    params: int | None = None
    train_examples: int | None = None
    test_examples: int | None = None
    dataset_bytes: int = 0
    waiting: tuple[str, ...] = ()

    @classmethod
    def of(cls, checked: Checked) -> "_Facts":
        model = checked.model.inspection or {}
        dataset = checked.dataset.inspection or {} if checked.dataset is not None else {"splits": {}}
        splits = dataset.get("splits")
        counts = None if splits is None else {name: int(split["examples_count"]) for name, split in splits.items()}
        waiting = [f"{row.id} has" for row in (checked.model, checked.dataset) if row is not None and row.status != "ready"]
        return cls(
            macs=model.get("macs_count"),
            params=model.get("params_count"),
            train_examples=None if counts is None else counts.get("train", 0),
            test_examples=None if counts is None else counts.get(checked.spec.evaluation.split, 0),
            dataset_bytes=checked.dataset.size_bytes if checked.dataset is not None else 0,
            waiting=tuple(waiting),
        )

    @property
    def known(self) -> Facts:
        """What methods state their costs by; one example stands for a number that is not known."""
        return Facts(train_examples=1 if self.train_examples is None else self.train_examples)

    def step_macs(self, step: MethodParams) -> float | None:
        """Multiply-accumulate operations of one step."""
        if self.macs is None or self.train_examples is None:
            return None
        return self.macs * step.cost(self.known).passes(self.known)

    def duration_seconds(self, spec: Spec, costs: list[float | None]) -> float | None:
        """Wall-clock time of the whole job on one core."""
        if self.macs is None or self.test_examples is None:
            return None
        evaluated = (len(spec.steps) + 2) * self.test_examples * self.macs
        measured = BATCH_SIZE_SECONDS * len(spec.evaluation.latency.batch_sizes)
        files = 4 * (self.params or 0) / WEIGHT_BYTES_PER_SECOND
        return _rounded(START_SECONDS + measured + files + self.seconds(sum(cost or 0 for cost in costs) + evaluated))

    def seconds(self, macs: float) -> float:
        """How long so many operations of this network take on one core."""
        (small, slow), (large, fast) = RATES
        share = min(1.0, max(0.0, math.log(max(1, self.macs or 1) / small) / math.log(large / small)))
        return macs / (slow * math.pow(fast / slow, share))

    def peak_memory_bytes(self, spec: Spec) -> int | None:
        """Resident memory of the job's process."""
        if self.params is None:
            return None
        costs = [step.cost(self.known) for step in spec.steps]
        weights = 4 * self.params * (STATES if any(cost.trained_examples for cost in costs) else 2)
        return PROCESS_BYTES + weights + 2 * self.dataset_bytes + max((cost.activation_bytes for cost in costs), default=0)


def _rounded(seconds: float) -> float:
    """Two significant digits: more would be a promise."""
    return float(f"{seconds:.2g}")
