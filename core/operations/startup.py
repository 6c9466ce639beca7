"""Why the service cannot start, in one sentence; and whether its database is one that it may start on."""

import errno
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager

from alembic.util.exc import CommandError
from pydantic import ValidationError
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from core.database import wal
from core.database.db import sqlite_file
from core.database.errors import translated
from core.errors import ServiceError
from core.settings import Settings
from engine.contract.sentences import sentence

_MOST_CHECKED_BYTES = 4 * 2**30
"""A larger database is looked through without its indexes."""


class CannotStart(Exception):
    """One sentence for whoever started the service."""


@contextmanager
def explained() -> Iterator[None]:
    """Turns what keeps a service from starting into `CannotStart`; errors of the code itself are left alone."""
    try:
        with translated():
            yield
    except ServiceError as error:
        raise CannotStart(f"{error.message}. {error.hint or ''}".strip()) from error
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        name = "_".join(["MODELPRESS", *(str(part).upper() for part in found["loc"])])
        reason, _ = sentence(found)
        raise CannotStart(f"{name} cannot be used: {reason}." if found["loc"] else f"The settings cannot be used: {reason}.") from error
    except (ArgumentError, NoSuchModuleError) as error:
        raise CannotStart(f"MODELPRESS_DATABASE_URL names no database that is known here: {_first_line(error)}.") from error
    except CommandError as error:
        raise CannotStart(f"The database is not one of this version of Modelpress: {_first_line(error)}.") from error
    except (DBAPIError, sqlite3.Error) as error:
        raise CannotStart(f"The database cannot be used: {_first_line(getattr(error, 'orig', None) or error)}.") from error
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        raise CannotStart(f"{error.strerror or error}{where}.") from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")


def check_database(settings: Settings) -> None:
    """Look at an embedded database before anything is written to it; the caller holds the data folder.

    Raises CannotStart for a log that lost committed pages, for pages that are damaged, and for a disk on which SQLite cannot keep its
    promise. A database that was closed in good order is not looked through.
    """
    path = sqlite_file(settings)
    if path is None or not path.exists():
        return
    if lost := wal.lost_frames(path):
        raise CannotStart(
            f"{lost} pages that were committed are gone from {path.name}-wal: it was cut short or damaged, and jobs that were accepted "
            f"may be missing. Restore a backup, or remove {path.name}-shm to go on without them."
        )
    unclean = path.with_name(f"{path.name}-wal").exists()
    with closing(sqlite3.connect(path, timeout=settings.lock_wait_seconds)) as connection:
        mode, _ = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0], connection.execute("PRAGMA synchronous=FULL")
        if mode != "wal" or connection.execute("PRAGMA synchronous").fetchone() != (2,):
            raise CannotStart(f"SQLite cannot keep a write-ahead log beside {path}: use a disk of this machine, or PostgreSQL.")
        if unclean:
            look = "integrity_check" if path.stat().st_size <= _MOST_CHECKED_BYTES else "quick_check"
            found = str(connection.execute(f"PRAGMA {look}(1)").fetchone()[0])
            if found != "ok":
                raise CannotStart(f"The database {path} is damaged: {_first_line(Exception(found))}. Restore a backup.")


def listen(host: str, port: int) -> socket.socket:
    """The address that is served, taken before anything is started. Raises CannotStart where it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        reason = "another program listens there" if error.errno == errno.EADDRINUSE else (error.strerror or str(error))
        raise CannotStart(f"{host} port {port} cannot be served: {reason}. Choose another --port or --host.") from None
