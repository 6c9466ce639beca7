"""Uploaded neural networks."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from sqlalchemy.orm import Session

from core import ids
from core.blobs.digest import Blob
from core.database.listing import ALL, Listing
from core.database.paging import Page
from core.database.tables import Artifact, Job, Model
from core.library import inputs
from core.settings import Settings

PREFIX: ids.Prefix = "mdl"
"""How ids begin."""


def create(
    session: Session,
    settings: Settings,
    project_id: str,
    *,
    name: str,
    format: str,
    metadata: dict[str, Any],
    blob: Blob,
    labels: Mapping[str, str] = MappingProxyType({}),
    row_id: str | None = None,
) -> Model:
    """A model of bytes that are in the blob store, and the job that inspects it. Raises `quota_exceeded`."""
    model = Model(id=row_id or ids.new(PREFIX), project_id=project_id, name=name, format=format, declared=metadata)
    return inputs.add(session, settings, model, blob, labels)


def promote(
    session: Session,
    settings: Settings,
    artifact: Artifact,
    *,
    name: str | None = None,
    metadata: dict[str, Any] | None = None,
    cut: tuple[str, Blob] | None = None,
    labels: Mapping[str, str] = MappingProxyType({}),
    model_id: str | None = None,
) -> Model:
    """Make a model of an artifact; it remembers the job and the model that it came from.

    `cut` is the name of one setting of the artifact, and the file that was cut out of it.
    """
    job = session.get_one(Job, artifact.job_id)
    source = session.get_one(Model, job.model_id)
    model = Model(
        id=model_id or ids.new(PREFIX),
        project_id=artifact.project_id,
        name=name or " · ".join((source.name, artifact.filename, *([] if cut is None else [cut[0]]))),
        format=artifact.format,
        declared=source.declared if metadata is None else metadata,
        source_artifact_id=artifact.id,
        source_job_id=job.id,
        source_model_id=source.id,
    )
    return inputs.add(session, settings, model, inputs.content(session, artifact) if cut is None else cut[1], labels)


def get(session: Session, project_id: str, model_id: str) -> Model:
    """One model with its inspection. Raises `not_found`."""
    return inputs.find(session, Model, project_id, model_id)


def search(session: Session, project_id: str, asked: Listing = ALL) -> Page[Model]:
    """Models of the project, newest first unless another order is asked for."""
    return inputs.search(session, Model, project_id, asked)


def change(session: Session, project_id: str, model_id: str, *, name: str | None, labels: Mapping[str, str | None]) -> Model:
    """Give a model another name, and other labels; a label of None is taken away. Raises `not_found` and `labels_invalid`."""
    return inputs.change(session, get(session, project_id, model_id), name=name, given=labels)


def content(session: Session, project_id: str, model_id: str) -> tuple[Model, Blob]:
    """A model and its bytes. Raises `not_found`."""
    model = get(session, project_id, model_id)
    return model, inputs.content(session, model)


def delete(session: Session, project_id: str, model_id: str) -> None:
    """Remove a model. Raises `resource_in_use` while a job that has not ended reads it."""
    inputs.remove(session, get(session, project_id, model_id))


def body(model: Model) -> dict[str, Any]:
    """The model object of the public contract; layers are asked for apart, as there may be thousands."""
    found = model.findings or {}
    path = f"/v1/models/{model.id}"
    common = inputs.body(model, "model", path)
    return {
        **common,
        "signature": found.get("signature"),
        "params_count": found.get("params_count"),
        "nonzero_params_count": found.get("nonzero_params_count"),
        "macs_count": found.get("macs_count"),
        "activation_bytes": found.get("activation_bytes"),
        "opset": found.get("opset"),
        "operators": found.get("operators"),
        "trainable": found.get("trainable"),
        "untrainable_reason": found.get("untrainable_reason"),
        "lineage": {"artifact_id": model.source_artifact_id, "job_id": model.source_job_id, "model_id": model.source_model_id},
        "urls": {**common["urls"], "layers": f"{path}/layers"},
    }
