"""Lists page by key: newest first, `after` is the id of the last item seen, so that inserts move nothing.

A page is bounded in items and in bytes: the sizes of the rows are read first, and only what fits is read.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from operator import add
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, Integer, Select, Text, cast, func, literal, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session

from core.errors import MalformedRequest

Row = TypeVar("Row")
PAGE_CHARACTERS = 2**20
"""How much one page holds of the columns that may be long; a single row that is longer is a page of its own."""
CURSOR = r"^[a-z]{2,3}_[A-Za-z0-9]{1,64}$"
"""What a cursor looks like."""
_ID = re.compile(CURSOR.strip("^$"))


@dataclass(frozen=True)
class Page(Generic[Row]):
    """One page of a list; `next_cursor` is the `after` of the next one."""

    data: list[Row]
    has_more: bool
    next_cursor: str | None


@dataclass(frozen=True)
class Sort:
    """By which column a list is ordered; rows that are equal there, by their ids. None: by time, which is the order of ids."""

    column: InstrumentedAttribute[Any] | None = None
    """One that is never null."""
    descending: bool = True


@dataclass(frozen=True)
class Cut:
    """Where a list is cut into pages: at most `limit` rows behind the row with the id `after`, or fewer where they are long.

    `long` are the columns that make a row long, of those that are read.
    """

    limit: int
    after: str | None
    long: Sequence[ColumnElement[Any] | InstrumentedAttribute[Any]] = ()
    sort: Sort = Sort()


def page(session: Session, statement: Select[Row], key: InstrumentedAttribute[Any], cut: Cut) -> Page[Row]:
    """The first rows of `statement`, by default the newest. Raises `malformed_request` for a cursor that is no id, or that of a row which
    is not in the list any more where the list is ordered by another column."""
    chosen = statement
    columns = (key,) if cut.sort.column is None else (cut.sort.column, key)
    if cut.after is not None:
        if not _ID.fullmatch(cut.after):
            raise MalformedRequest(
                f"`after` is not a cursor of this list: {cut.after[:80]!r}", hint="take `next_cursor` of the page before"
            )
        chosen = chosen.where(_behind(session, statement, columns, cut))
    found = session.execute(
        chosen.with_only_columns(key, _length(tuple(cut.long))).order_by(*_order(columns, cut)).limit(cut.limit + 1)
    ).all()
    ids: list[str] = []
    characters = 0
    for row_id, row_length in found[: cut.limit]:
        characters += row_length
        if ids and characters > PAGE_CHARACTERS:
            break
        ids.append(row_id)
    rows = list(session.scalars(statement.where(key.in_(ids)).order_by(*_order(columns, cut)))) if ids else []
    more = len(found) > len(ids)
    return Page(rows, more, str(ids[-1]) if more else None)


def _order(columns: Sequence[InstrumentedAttribute[Any]], cut: Cut) -> list[ColumnElement[Any]]:
    return [column.desc() if cut.sort.descending else column.asc() for column in columns]


def _behind(session: Session, statement: Select[Any], columns: Sequence[InstrumentedAttribute[Any]], cut: Cut) -> ColumnElement[bool]:
    """What holds for the rows that follow the one of the cursor, which is looked up in this list alone."""
    *others, key = columns
    values: list[Any] = [cut.after]
    if others:
        place = session.execute(statement.with_only_columns(*others).where(key == cut.after)).one_or_none()
        if place is None:
            raise MalformedRequest("the row of the cursor `after` is not in this list any more", hint="begin again, without `after`")
        values = [*place, cut.after]
    here, there = tuple_(*columns), tuple_(*(literal(value, column.type) for value, column in zip(values, columns, strict=True)))
    return here < there if cut.sort.descending else here > there


@lru_cache(64)
def _length(columns: tuple[ColumnElement[Any] | InstrumentedAttribute[Any], ...]) -> ColumnElement[int]:
    """How long a row is. Made once: such expressions refer to themselves, so that each is left to the collector of garbage."""
    return reduce(add, (func.coalesce(func.length(cast(column, Text)), 0) for column in columns), cast(literal(0), Integer))
