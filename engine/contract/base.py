"""What every part of a spec is made of: the base class, and shares that are no percentages."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, LiteralString

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetCoreSchemaHandler
from pydantic_core import PydanticCustomError, core_schema


def _of_json(schema: Any) -> Any:
    """A part of pydantic's schema with strict truth values and numbers."""
    if isinstance(schema, list):
        return [_of_json(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("type") == "function-before" and schema["function"]["function"] in _NUMBERS.values():
        return schema  # of a part that has been here
    schema = {name: _of_json(value) for name, value in schema.items()}
    if schema.get("type") == "bool":
        return {**schema, "strict": True}
    if schema.get("type") in _NUMBERS:
        return core_schema.no_info_before_validator_function(_NUMBERS[schema["type"]], schema)
    return schema


def _number(error: LiteralString, value: Any) -> Any:
    """A number, or what pydantic refuses in its own words."""
    if isinstance(value, bool) or (isinstance(value, str) and _is_number(value)):
        raise PydanticCustomError(error, "Input should be a number")
    return value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


_NUMBERS: Mapping[str, Callable[[Any], Any]] = {"int": partial(_number, "int_type"), "float": partial(_number, "float_type")}


class Params(BaseModel):
    """Frozen, closed and documented: the base of everything that comes from a spec.

    Values have the types of JSON: `"3"` and `true` are no numbers, `0` and `"yes"` no truth values; 3.0 is a whole number.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """The model's schema, whose scalars take no other type's values."""
        found: core_schema.CoreSchema = _of_json(handler(source))
        return found


def _refuse_percentages(value: Any) -> Any:
    value = _number("float_type", value)
    if isinstance(value, int | float) and 1 < value <= 100:
        raise ValueError(f"ratios are 0..1, got {value:g}; did you mean {value / 100:g}?")
    return value


NotAPercentage = BeforeValidator(_refuse_percentages)
OpenRatio = Annotated[float, Field(gt=0, lt=1), NotAPercentage]
"""A share strictly between nothing and everything."""
Ratio = Annotated[float, Field(ge=0, le=1), NotAPercentage]
"""A share from 0 to 1 inclusive."""
