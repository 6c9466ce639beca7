"""Lists page by key: newest first, `after` is the id of the last item seen, so that inserts move nothing."""

import re
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import Select
from sqlalchemy.orm import InstrumentedAttribute, Session

from core.errors import MalformedRequest

Row = TypeVar("Row")
_ID = re.compile(r"[a-z]{2,3}_[A-Za-z0-9]{1,64}")


@dataclass(frozen=True)
class Page(Generic[Row]):
    """One page of a list; `next_cursor` is the `after` of the next one."""

    data: list[Row]
    has_more: bool
    next_cursor: str | None


def page(session: Session, statement: Select[Row], key: InstrumentedAttribute[Any], *, limit: int, after: str | None) -> Page[Row]:
    """The `limit` newest rows of `statement` below the id `after`. Raises `malformed_request` for a cursor that is no id."""
    if after is not None:
        if not _ID.fullmatch(after):
            raise MalformedRequest(f"`after` is not a cursor of this list: {after[:80]!r}", hint="take `next_cursor` of the page before")
        statement = statement.where(key < after)
    rows = list(session.scalars(statement.order_by(key.desc()).limit(limit + 1)))
    more = len(rows) > limit
    rows = rows[:limit]
    return Page(rows, more, str(getattr(rows[-1], key.key)) if more else None)
