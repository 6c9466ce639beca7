"""Uploaded examples."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from sqlalchemy.orm import Session

from core import ids
from core.blobs.digest import Blob
from core.database.listing import ALL, Listing
from core.database.paging import Page
from core.database.tables import Dataset
from core.library import inputs
from core.settings import Settings

PREFIX: ids.Prefix = "ds"
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
) -> Dataset:
    """A dataset of bytes that are in the blob store, and the job that inspects it. Raises `quota_exceeded`."""
    dataset = Dataset(id=row_id or ids.new(PREFIX), project_id=project_id, name=name, format=format, declared=metadata)
    return inputs.add(session, settings, dataset, blob, labels)


def get(session: Session, project_id: str, dataset_id: str) -> Dataset:
    """One dataset with its inspection. Raises `not_found`."""
    return inputs.find(session, Dataset, project_id, dataset_id)


def search(session: Session, project_id: str, asked: Listing = ALL) -> Page[Dataset]:
    """Datasets of the project, newest first unless another order is asked for."""
    return inputs.search(session, Dataset, project_id, asked)


def change(session: Session, project_id: str, dataset_id: str, *, name: str | None, labels: Mapping[str, str | None]) -> Dataset:
    """Give a dataset another name, and other labels; a label of None is taken away. Raises `not_found` and `labels_invalid`."""
    return inputs.change(session, get(session, project_id, dataset_id), name=name, given=labels)


def content(session: Session, project_id: str, dataset_id: str) -> tuple[Dataset, Blob]:
    """A dataset and its bytes. Raises `not_found`."""
    dataset = get(session, project_id, dataset_id)
    return dataset, inputs.content(session, dataset)


def delete(session: Session, project_id: str, dataset_id: str) -> None:
    """Remove a dataset. Raises `resource_in_use` while a job that has not ended reads it."""
    inputs.remove(session, get(session, project_id, dataset_id))


def body(dataset: Dataset) -> dict[str, Any]:
    """The dataset object of the public contract; the preview is asked for apart."""
    found = dataset.findings or {}
    path = f"/v1/datasets/{dataset.id}"
    common = inputs.body(dataset, "dataset", path)
    return {
        **common,
        "splits": found.get("splits"),
        "columns": found.get("columns"),
        "classes": found.get("classes"),
        "labels": found.get("labels"),
        "histogram": found.get("histogram"),
        "leaks": found.get("leaks"),
        "notes": found.get("notes"),
        "standardization": found.get("standardization"),
        "urls": {**common["urls"], "preview": f"{path}/preview"},
    }
