"""Shapes that every resource shares."""

from typing import Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Item = TypeVar("Item")


class Resource(BaseModel):
    """Base of what is sent out. A reader leaves out what it does not know: later versions add fields."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class Page(Resource, Generic[Item]):
    """One page of a list, newest first; pass `next_cursor` as `after` to go on."""

    object: Literal["list"] = "list"
    data: list[Item]
    has_more: bool
    next_cursor: str | None = None


class ProblemDetail(BaseModel):
    """One thing that is wrong, and where."""

    pointer: str = Field(description="JSON pointer into the body; `/query/<name>` or `/header/<name>`.", examples=["/steps/0/sparsity"])
    code: str = Field(examples=["greater_than"])
    detail: str
    hint: str | None = None


class Problem(BaseModel):
    """An error as RFC 9457 describes it; `code` is stable, sentences may change."""

    type: str = Field(description="A URI reference that identifies the kind of problem.", examples=["/problems/spec-invalid"])
    title: str
    status: int = Field(ge=400, le=599)
    detail: str
    code: str = Field(description="Stable, machine-readable.", examples=["spec_invalid"])
    request_id: str
    hint: str | None = None
    errors: list[ProblemDetail] = []
