"""What an inspection found, or why there is nothing."""

from typing import Any

from api.http.errors import NotInspected, Refused
from core.database.tables import Dataset, Model
from core.errors import NotFound


def found(row: Model | Dataset, key: str) -> Any:
    """One finding of an upload's inspection.

    Raises `not_inspected` (409, with `Retry-After`) while it runs, and the inspection's own error where it failed.
    """
    if row.status == "inspecting":
        raise NotInspected(f"{row.id} is being inspected", hint="try again in a second", retry_after_seconds=1)
    if row.error is not None:
        raise Refused(row.error["code"], row.error["message"], hint=row.error.get("hint"))
    if row.inspection is None or row.inspection.get(key) is None:
        raise NotFound(f"the inspection of {row.id} did not find its {key}")
    return row.inspection[key]
