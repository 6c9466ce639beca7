"""What both databases know and spell in two ways: `INSERT … ON CONFLICT`, and JSON objects without some of their keys."""

from typing import Any

from sqlalchemy import JSON, ColumnElement
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from core.database.tables import Base


def insert(session: Session, table: type[Base]) -> postgresql.Insert | sqlite.Insert:
    """An insert into `table` with the `on_conflict_…` methods."""
    return postgresql.insert(table) if session.get_bind().dialect.name == "postgresql" else sqlite.insert(table)


class json_without(FunctionElement[dict[str, Any] | None]):  # noqa: N801 - reads as the SQL function that it is
    """A JSON object without some of its keys, taken apart by the database: what is left out costs this process nothing."""

    type = JSON()
    inherit_cache = False
    name = "json_without"

    def __init__(self, column: Any, *keys: str) -> None:
        assert all(key.isidentifier() for key in keys), "keys stand in the statement's text"
        self.keys = keys
        super().__init__(column)

    @property
    def column(self) -> ColumnElement[Any]:
        """What it is taken from."""
        return next(iter(self.clauses))


@compiles(json_without, "postgresql")
def _postgresql(element: json_without, compiler: SQLCompiler, **kwargs: Any) -> str:
    keys = ", ".join(f"'{key}'" for key in element.keys)
    return f"(CAST({compiler.process(element.column, **kwargs)} AS jsonb) - ARRAY[{keys}])"


@compiles(json_without, "sqlite")
def _sqlite(element: json_without, compiler: SQLCompiler, **kwargs: Any) -> str:
    keys = ", ".join(f"'$.{key}'" for key in element.keys)
    return f"json_remove({compiler.process(element.column, **kwargs)}, {keys})"
