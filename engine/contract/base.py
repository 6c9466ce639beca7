"""What every part of a spec is made of: the base class, and shares that are no percentages."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Params(BaseModel):
    """Frozen, closed and documented: the base of everything that comes from a spec."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


def _refuse_percentages(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool) and 1 < value <= 100:
        raise ValueError(f"ratios are 0..1, got {value:g}; did you mean {value / 100:g}?")
    return value


NotAPercentage = BeforeValidator(_refuse_percentages)
OpenRatio = Annotated[float, Field(gt=0, lt=1), NotAPercentage]
"""A share strictly between nothing and everything."""
Ratio = Annotated[float, Field(ge=0, le=1), NotAPercentage]
"""A share from 0 to 1 inclusive."""
