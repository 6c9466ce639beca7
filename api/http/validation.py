"""A document checked against its model: what is wrong with it becomes fields of the answer."""

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from core.errors import FieldError, ServiceError
from engine.contract.findings import problems_of

Checked = TypeVar("Checked", bound=BaseModel)


def checked(model: type[Checked], document: Any, error_class: type[ServiceError], base: str = "") -> Checked:
    """The document as `model`. Raises `error_class` with the place, below the pointer `base`, of everything that is wrong."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        code = {"extra_forbidden": "unknown_field"}
        found = problems_of(error, model, document)
        errors = [FieldError(base + item.pointer, code.get(item.code, item.code), item.detail, item.hint) for item in found]
        raise error_class(f"{errors[0].pointer or '/'}: {errors[0].detail}", hint=errors[0].hint, errors=errors) from None
