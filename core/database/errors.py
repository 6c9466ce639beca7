"""What a database that does not answer, or has no room left, means for the service. Errors of the code itself are left alone."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, TimeoutError

from core.errors import ServiceError, StorageFull, Unavailable

_SQLITE_AWAY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}
# Connection lost, resources short, operator intervention, serialization and deadlock, lock not available, idle for too long.
_POSTGRES_AWAY = ("08", "53", "57", "40", "55P03", "25P03")
_POSTGRES_FULL = "53100"


@contextmanager
def translated() -> Iterator[None]:
    """Turns an outage of the database into `service_unavailable` or `storage_full`.

    After a commit whose answer was lost nobody knows whether it happened: the caller reads again, or repeats the request under the
    same idempotency key.
    """
    try:
        yield
    except TimeoutError as error:
        raise _away("every connection is in use") from error
    except DBAPIError as error:
        meaning = _meaning(error.orig)
        if meaning is None:
            raise
        raise meaning from error


def _meaning(error: BaseException | None) -> ServiceError | None:
    if isinstance(error, sqlite3.Error):
        # The low byte is the primary code; the rest specifies it.
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            return _full()
        return _away(str(error)) if code in _SQLITE_AWAY else None
    import psycopg  # where a driver's error came up, the driver is loaded; SQLite alone does not need it

    if isinstance(error, psycopg.Error):
        state = error.sqlstate
        if state == _POSTGRES_FULL:
            return _full()
        if state is None:
            # Without a state the error is not the server's: the connection was refused or lost.
            return _away("the connection was lost") if isinstance(error, psycopg.OperationalError) else None
        return _away(type(error).__name__) if state.startswith(_POSTGRES_AWAY) else None
    return None


def _away(why: str) -> Unavailable:
    return Unavailable(f"the database does not answer: {why}", hint="try again, with the same Idempotency-Key", retry_after_seconds=2)


def _full() -> StorageFull:
    return StorageFull("the disk of the database is full", hint="free some space, or add a disk")
