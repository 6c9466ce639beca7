"""Parameters of lists, and their pages. The shapes of what is sent stand in `modelpress.resources`; a test holds them and `core` together."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar

from fastapi import Depends, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

from api.http.errors import InvalidParameter
from api.http.words import PRINTABLE, LabelChanges, Word
from core.database import paging
from core.database.listing import Listing
from core.errors import FieldError

Row = TypeVar("Row")
_DATE_AND_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d([.,]\d+)?)?([Zz]|[+-]\d\d:?\d\d)?$")

Limit = Annotated[int, Query(ge=1, le=100, description="Entries on one page.")]
After = Annotated[
    str | None, Query(max_length=200, description="`next_cursor` of the page before.", json_schema_extra={"pattern": paging.CURSOR})
]


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("the time is out of range") from None


def _is_written_out(given: Any) -> Any:
    """Numbers are no dates: they would be read as seconds since 1970."""
    if isinstance(given, str) and not _DATE_AND_TIME.match(given):
        raise ValueError("a date and a time with its offset from UTC, such as 2026-05-04T03:02:01Z")
    return given


Moment = Annotated[
    AwareDatetime, BeforeValidator(_is_written_out), AfterValidator(_in_utc), Query(description="RFC 3339, with its offset from UTC.")
]
Name = Annotated[str, Query(max_length=200, pattern=PRINTABLE, description="Exactly this name.")]
LabelFilter = Annotated[
    list[Word], Query(max_length=16, description="`key:value`, `key=value` or `key`; all must hold.", examples=[["team:vision"]])
]
Sha256 = Annotated[str, Query(pattern=r"^[0-9a-f]{64}$", description="Exactly these bytes.")]
ORDER = "Oldest first, or with a minus newest first; by name, file name or size where a list has them."


def _library(
    *,
    name: Name | None = None,
    sha256: Sha256 | None = None,
    format: Annotated[Word | None, Query(description="Only this format.")] = None,
    label: LabelFilter = [],  # noqa: B006 - FastAPI copies it
    created_after: Moment | None = None,
    created_before: Moment | None = None,
    sort: Annotated[
        Literal["created_at", "-created_at", "name", "-name", "size_bytes", "-size_bytes"], Query(description=ORDER)
    ] = "-created_at",
    limit: Limit = 20,
    after: After = None,
) -> Listing:
    return Listing(name, label, created_after, created_before, sort, limit, after, {"sha256": sha256, "format": format})


OfLibrary = Annotated[Listing, Depends(_library)]
"""What is asked of a list of models or datasets."""


def _given(
    label: Annotated[list[Word], Query(max_length=16, description="`key=value`, to find it by; may be repeated.")] = [],  # noqa: B006 - FastAPI copies it
) -> dict[str, str]:
    """Labels of a new thing. Raises `invalid_parameter`."""
    pairs = [item.partition("=") for item in label]
    for (key, stated, value), item in zip(pairs, label, strict=True):
        if not stated or not 1 <= len(key) <= 63 or len(value) > 255:
            detail = f"{item[:80]!r} is no label: write key=value, with at most 63 and 255 characters"
            raise InvalidParameter(detail, errors=[FieldError("/query/label", "invalid_label", detail)])
    return {key: value for key, _, value in pairs}


GivenLabels = Annotated[dict[str, str], Depends(_given)]


class Change(BaseModel):
    """A new name, and labels to give, to change, or with null to take away. What is left out stays as it is."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, json_schema_extra={"example": {"labels": {"team": "vision"}}})

    name: str | None = Field(None, min_length=1, max_length=200, pattern=PRINTABLE)
    """null is as good as nothing; of an artifact it takes the name away."""
    labels: LabelChanges = {}


def page_of(request: Request, rows: paging.Page[Row], body: Callable[[Row], dict[str, Any]]) -> Response:
    """One page as a response, with a `Link` to the next one."""
    headers = {}
    if rows.next_cursor is not None:
        following = request.url.include_query_params(after=rows.next_cursor)
        headers["Link"] = f'<{following.path}?{following.query}>; rel="next"'
    content = {"object": "list", "data": [body(row) for row in rows.data], "has_more": rows.has_more, "next_cursor": rows.next_cursor}
    return JSONResponse(content, headers=headers)
