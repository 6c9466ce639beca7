"""Is a spec meaningful for the models and datasets of a project?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, undefer

from core.database.tables import Dataset, Model
from core.errors import DatasetInvalid, DatasetRequired, FieldError, MethodUnavailable, ModelInvalid, NotFound, SpecInvalid
from core.jobs.fit import misfit
from core.jobs.layers import layer_errors
from engine.contract.findings import Problem
from engine.contract.metadata import SELF_SUPERVISED
from engine.contract.metric import catalogue
from engine.contract.spec import Spec, parse


@dataclass(frozen=True)
class Submission:
    """A spec as it was sent (JSON types), and what reading it gave: the spec, or every problem with it."""

    document: Any
    spec: Spec | None
    problems: Sequence[Problem]

    @classmethod
    def read(cls, document: Any) -> "Submission":
        """Read a document once, before any transaction begins: that may take processor time."""
        return cls(document, *parse(document))


@dataclass(frozen=True)
class Checked:
    """A spec that holds, with the rows that it names."""

    spec: Spec
    model: Model
    dataset: Dataset | None
    teachers: list[Model]


def check(session: Session, project_id: str, submission: Submission) -> Checked:
    """Validate a spec, also against what is known of its model and dataset.

    Raises `spec_invalid` or `dataset_required` with every problem, `not_found` for an id that the project does not have,
    `model_invalid` and `dataset_invalid` for an upload that cannot be used, `shape_mismatch` for two that do not fit.
    """
    spec = submission.spec
    if spec is None:
        errors = [FieldError(problem.pointer, problem.code, problem.detail, problem.hint) for problem in submission.problems]
        raise _refusal(errors)
    model = _find(session, Model, project_id, spec.model, "/model")
    dataset = _find(session, Dataset, project_id, spec.dataset, "/dataset") if spec.dataset else None
    teachers = [
        _find(session, Model, project_id, teacher, f"/steps/{index}/teacher")
        for index, step in enumerate(spec.steps)
        for teacher in step.teachers()
    ]
    for row in (model, *teachers):
        if _unusable(row):
            raise ModelInvalid(f"{row.id} cannot be used: {_reason(row)}", hint="GET /v1/models/{id} says what was found")
    if dataset is not None and _unusable(dataset):
        raise DatasetInvalid(f"{dataset.id} cannot be used: {_reason(dataset)}", hint="GET /v1/datasets/{id} says what was found")
    errors = [
        *_unavailable_errors(spec),
        *_label_errors(spec, model, dataset),
        *_training_errors(spec, model),
        *layer_errors(spec, model),
    ]
    if errors:
        raise _refusal(errors)
    if (error := misfit(model, dataset, trained=_needs_targets(spec))) is not None:
        raise error
    return Checked(spec, model, dataset, list({teacher.id: teacher for teacher in teachers}.values()))


def _refusal(errors: list[FieldError]) -> SpecInvalid:
    codes = {error.code for error in errors}
    kind = {"dataset_required": DatasetRequired, "method_unavailable": MethodUnavailable}.get(
        codes.pop() if len(codes) == 1 else "", SpecInvalid
    )
    count = "one problem" if len(errors) == 1 else f"{len(errors)} problems"
    return kind(f"the spec has {count}: {'; '.join(error.detail for error in errors)}"[:2000], errors=errors)


def _find(session: Session, table: type[Any], project_id: str, row_id: str, pointer: str) -> Any:
    statement = select(table).where(table.id == row_id, table.project_id == project_id, table.deleted_at.is_(None))
    row = session.scalars(statement.options(undefer(table.inspection))).one_or_none()
    if row is None:
        detail = f"there is no {table.__name__.lower()} {row_id!r} in this project"
        raise NotFound(detail, errors=[FieldError(pointer, "not_found", detail)])
    return row


def _unusable(row: Model | Dataset) -> bool:
    """Whether the inspection found fault with the upload itself; one that failed for want of disk, say, is repeated for the next job."""
    return row.status == "invalid" and not (row.error or {}).get("retryable")


def _reason(row: Model | Dataset) -> str:
    return str(row.error["message"]) if row.error else "its inspection did not succeed"


def _unavailable_errors(spec: Spec) -> list[FieldError]:
    return [
        FieldError(f"/steps/{index}/method", "method_unavailable", f"this installation cannot run {step.wire_name()}")
        for index, step in enumerate(spec.steps)
        if not step.available()
    ]


def _needs_targets(spec: Spec) -> bool:
    """Whether the spec cannot do without targets: labels of any kind stand in the way of no other."""
    accuracy = spec.constraints.accuracy if spec.constraints else None
    named = (*spec.evaluation.metrics, *([accuracy.metric] if accuracy else []))
    return any(step.needs.labels for step in spec.steps) or any(catalogue()[name].needs == "targets" for name in named)


def _label_errors(spec: Spec, model: Model, dataset: Dataset | None) -> list[FieldError]:
    if dataset is None or dataset.inspection is None or dataset.inspection.get("labels") is not False:
        return []
    tasks = {model.declared.get("task"), *(output.get("task") for output in model.declared.get("outputs") or ())}
    if tasks & SELF_SUPERVISED:
        return []
    errors = [
        FieldError(f"/steps/{index}", "labels_required", f"steps[{index}] ({step.wire_name()}) needs labels, and {dataset.id} has none")
        for index, step in enumerate(spec.steps)
        if step.needs.labels
    ]
    known = catalogue()
    hint = f"{', '.join(name for name, metric in known.items() if metric.needs == 'baseline')} need no labels"
    errors += [
        FieldError(f"/evaluation/metrics/{index}", "labels_required", f"{metric} needs labels, and {dataset.id} has none", hint)
        for index, metric in enumerate(spec.evaluation.metrics)
        if known[metric].needs == "targets"
    ]
    accuracy = spec.constraints.accuracy if spec.constraints else None
    if accuracy is not None and known[accuracy.metric].needs == "targets":
        detail = f"{accuracy.metric} needs labels, and {dataset.id} has none"
        errors.append(FieldError("/constraints/accuracy/metric", "labels_required", detail, hint))
    return errors


def _training_errors(spec: Spec, model: Model) -> list[FieldError]:
    if model.inspection is None or model.inspection.get("trainable") is not False:
        return []
    reason = model.inspection.get("untrainable_reason") or "it holds operators that cannot be trained"
    return [
        FieldError(
            f"/steps/{index}",
            "unsupported_operator",
            f"steps[{index}] ({step.wire_name()}) changes weights, which this model does not allow: {reason}",
            "static_quantization and dynamic_quantization work on the graph itself",
        )
        for index, step in enumerate(spec.steps)
        if step.needs.trainable
    ]
