"""Names and labels that clients give to models, datasets and artifacts, and change."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import delete
from sqlalchemy.orm import Session

from core.database.tables import Artifact, ArtifactLabel, Dataset, DatasetLabel, Model, ModelLabel
from core.errors import FieldError, LabelsInvalid

MOST_LABELS = 16
_TABLES: dict[type[Any], type[ModelLabel | DatasetLabel | ArtifactLabel]] = {
    Model: ModelLabel,
    Dataset: DatasetLabel,
    Artifact: ArtifactLabel,
}


def put(session: Session, row: Model | Dataset | Artifact, changes: Mapping[str, str | None]) -> None:
    """Give a row labels, or other values; None takes one away. The row must be locked, or new. Raises `labels_invalid`."""
    labels = {key: value for key, value in {**(row.labels or {}), **changes}.items() if value is not None}
    if len(labels) > MOST_LABELS:
        detail = f"{len(labels)} labels are more than {MOST_LABELS}"
        raise LabelsInvalid(detail, hint="take some away with null", errors=[FieldError("/labels", "too_many", detail)])
    row.labels = labels
    session.flush()
    table = _TABLES[type(row)]
    session.execute(delete(table).where(table.owner_id == row.id, table.key.in_(changes)))
    session.add_all(table(owner_id=row.id, key=key, value=value) for key, value in changes.items() if value is not None)
    session.flush()
