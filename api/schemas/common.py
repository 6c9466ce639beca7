"""Parameters of lists, and their pages. The shapes of what is sent stand in `modelpress.resources`; a test holds them and `core` together."""

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field

from core.database import paging

Row = TypeVar("Row")

PRINTABLE = r"^[^\x00-\x1f\x7f]+$"
"""A pattern for words that clients choose: databases and terminals take no control characters."""
Word = Annotated[str, Field(max_length=400, pattern=PRINTABLE)]
Limit = Annotated[int, Query(ge=1, le=100, description="Entries on one page.")]
After = Annotated[str | None, Query(max_length=200, description="`next_cursor` of the page before.")]


def page_of(request: Request, rows: paging.Page[Row], body: Callable[[Row], dict[str, Any]]) -> Response:
    """One page as a response, with a `Link` to the next one."""
    headers = {}
    if rows.next_cursor is not None:
        following = request.url.include_query_params(after=rows.next_cursor)
        headers["Link"] = f'<{following.path}?{following.query}>; rel="next"'
    content = {"object": "list", "data": [body(row) for row in rows.data], "has_more": rows.has_more, "next_cursor": rows.next_cursor}
    return JSONResponse(content, headers=headers)
