"""Pydantic's findings in the words of the API: a pointer, a code, a sentence, and the closest known field."""

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from api.http.problems import did_you_mean, pointer
from core.errors import MOST_ERRORS, FieldError, ServiceError, bounded
from engine.contract.metadata import BY_INPUT, ONE

Checked = TypeVar("Checked", bound=BaseModel)


def checked(model: type[Checked], document: Any, error_class: type[ServiceError], base: str = "") -> Checked:
    """The document as `model`. Raises `error_class` with the place, below the pointer `base`, of everything that is wrong."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        found = error.errors(include_url=False)
        errors = bounded([_field_error(item, model, base) for item in found[:MOST_ERRORS]], total=len(found))
        raise error_class(f"{errors[0].pointer or '/'}: {errors[0].detail}", hint=errors[0].hint, errors=errors) from None


def _field_error(item: Any, model: type[BaseModel], base: str) -> FieldError:
    location = [part for part in item["loc"] if part not in (ONE, BY_INPUT)]
    if item["type"] != "extra_forbidden":
        return FieldError(base + pointer(location), item["type"], item["msg"].removeprefix("Value error, "))
    hint = did_you_mean(str(location[-1]), model.model_fields) if len(location) == 1 else None
    return FieldError(base + pointer(location), "unknown_field", f"unknown field {str(location[-1])[:80]!r}", hint)
