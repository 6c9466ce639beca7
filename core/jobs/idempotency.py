"""One job for one `Idempotency-Key`: the key's row is written in the transaction that makes the job."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy import delete, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from core.database.clock import db_now
from core.database.dialect import insert
from core.database.serialization import to_json
from core.database.tables import IdempotencyKey
from core.errors import IdempotencyInProgress, IdempotencyKeyReused, MalformedRequest

Made = TypeVar("Made")
_LOCK_NOT_AVAILABLE = "55P03"
PATTERN = r"^[\x21-\x7e]{1,255}$"
_KEY = re.compile(PATTERN.strip("^$"))


@dataclass(frozen=True)
class Request:
    """A client's key and the hash of what it asked for under it."""

    key: str
    sha256: str
    keep_seconds: float = 86_400


def request(key: str, *parts: object, keep_seconds: float = 86_400) -> Request:
    """The request identified by `parts` (JSON types). Raises `malformed_request` for a key that is empty, long or not printable."""
    if not _KEY.fullmatch(key):
        raise MalformedRequest("Idempotency-Key must be 1 to 255 printable ASCII characters", hint="a UUID does well")
    return Request(key, hashlib.sha256(to_json(parts).encode()).hexdigest(), keep_seconds)


def reserve(session: Session, project_id: str, asked: Request, resource_id: str) -> str:
    """Bind the key to `resource_id`, or return the id that it was bound to before.

    A concurrent request with the same key waits here until the first one has committed or rolled back.
    Raises `idempotency_key_reused` when the key came with another body, and `idempotency_in_progress` when the wait is too long.
    """
    mine = (IdempotencyKey.project_id == project_id) & (IdempotencyKey.key == asked.key)
    session.execute(delete(IdempotencyKey).where(mine, IdempotencyKey.expires_at < db_now()))
    statement = insert(session, IdempotencyKey).values(
        project_id=project_id,
        key=asked.key,
        request_sha256=asked.sha256,
        resource_id=resource_id,
        expires_at=db_now(asked.keep_seconds),
    )
    try:
        session.execute(statement.on_conflict_do_nothing())
    except OperationalError as error:
        if getattr(error.orig, "sqlstate", None) != _LOCK_NOT_AVAILABLE:
            raise
        message = f"another request with the Idempotency-Key {asked.key!r} is being answered"
        raise IdempotencyInProgress(message, hint="try again", retry_after_seconds=2) from error
    row = session.scalars(select(IdempotencyKey).where(mine)).one()
    if row.request_sha256 != asked.sha256:
        raise IdempotencyKeyReused(
            f"Idempotency-Key {asked.key!r} was used for another request", hint="use a fresh key for each different request"
        )
    return row.resource_id


def once(
    session: Session, project_id: str, asked: Request | None, new_id: str, *, find: Callable[[str], Made], make: Callable[[str], Made]
) -> tuple[Made, bool]:
    """What `make` makes under `new_id`, or `find` finds where an earlier request made it under the same key; and whether it did.

    Raises what `reserve` raises, and `not_found` where what was made then is gone.
    """
    bound = new_id if asked is None else reserve(session, project_id, asked, new_id)
    return (make(new_id), False) if bound == new_id else (find(bound), True)


def expire(session: Session) -> int:
    """Forget keys past their time; returns how many."""
    return session.execute(delete(IdempotencyKey).where(IdempotencyKey.expires_at < db_now())).rowcount  # type: ignore[attr-defined,no-any-return]  # of a DELETE
