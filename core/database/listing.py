"""What every list can be asked for: a name, labels, a span of time, an order, a page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Select, exists
from sqlalchemy.orm import InstrumentedAttribute, Session

from core.database.paging import Cut, Page, Sort, page

Row = TypeVar("Row")


@dataclass(frozen=True)
class Listing:
    """What a client asks of a list; what is None or empty selects everything."""

    name: str | None = None
    label: Sequence[str] = ()
    """`key:value`, `key=value` or `key`; all must hold."""
    created_after: datetime | None = None
    created_before: datetime | None = None
    sort: str = "-created_at"
    """A column, with a minus where the largest comes first."""
    limit: int = 20
    after: str | None = None
    equal: Mapping[str, str | None] = field(default_factory=dict)
    """Further columns, with the value that they must have; None for any."""


ALL = Listing()


@dataclass(frozen=True)
class Listed:
    """A table that is listed."""

    table: Any
    owner: InstrumentedAttribute[str]
    """The column of its table of labels that holds the id of what has the label."""
    sorts: Mapping[str, InstrumentedAttribute[Any]] = field(default_factory=dict)
    """Columns that it can be ordered by beside the time; never null."""

    def page(self, session: Session, statement: Select[Row], asked: Listing, long: Sequence[Any]) -> Page[Row]:
        """A page of what is asked for of `statement`; `long`: see `Cut`. Raises `malformed_request` for a cursor that is none."""
        sort = Sort(self.sorts.get(asked.sort.removeprefix("-")), descending=asked.sort.startswith("-"))
        return page(session, self._chosen(statement, asked), self.table.id, Cut(asked.limit, asked.after, long, sort))

    def _chosen(self, statement: Select[Row], asked: Listing) -> Select[Row]:
        for name, value in {"name": asked.name, **asked.equal}.items():
            if value is not None:
                statement = statement.where(getattr(self.table, name) == value)
        for item in asked.label:
            statement = statement.where(self._labelled(item))
        if asked.created_after is not None:
            statement = statement.where(self.table.created_at > asked.created_after)
        if asked.created_before is not None:
            statement = statement.where(self.table.created_at < asked.created_before)
        return statement

    def _labelled(self, item: str) -> ColumnElement[bool]:
        labels = self.owner.class_
        separator = ":" if ":" in item else "="
        key, stated, value = item.partition(separator)
        wanted = (labels.key == key) & (labels.value == value) if stated else labels.key == item
        # A key may itself have an equals sign in it.
        return exists().where((self.owner == self.table.id) & (wanted if separator == ":" else wanted | (labels.key == item)))
