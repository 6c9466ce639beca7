"""Sessions of the pages: a browser that showed a key holds a secret of its own, with exactly that key's rights, for as long as the key is valid.

The secret has 256 random bits and only its SHA-256 is kept, as with keys.
"""

import hashlib
import secrets

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from core.access import keys
from core.access.keys import Principal
from core.database.clock import db_now
from core.database.tables import ApiKey, WebSession
from core.errors import Unauthenticated

MOST_OF_A_KEY = 100
"""Sessions that one key may have; a further one ends the oldest."""


def begin(session: Session, key_id: str, seconds: float) -> str:
    """A new session of a key that was verified; returns its secret, which is known to nobody afterwards."""
    secret = secrets.token_urlsafe(32)
    session.add(WebSession(secret_sha256=_hash(secret), key_id=key_id, expires_at=db_now(seconds)))
    session.flush()
    newest = select(WebSession.secret_sha256).where(WebSession.key_id == key_id).order_by(WebSession.expires_at.desc()).limit(MOST_OF_A_KEY)
    kept = list(session.scalars(newest))
    session.execute(delete(WebSession).where(WebSession.key_id == key_id, WebSession.secret_sha256.not_in(kept)))
    return secret


def verify(session: Session, secret: str) -> Principal:
    """Whose session it is. Raises `unauthenticated` for one that has ended, and where its key was revoked or has expired."""
    alive = (WebSession.secret_sha256 == _hash(secret), WebSession.expires_at > db_now())
    key = session.scalars(select(ApiKey).join(WebSession, WebSession.key_id == ApiKey.id).where(*alive)).one_or_none()
    if key is None or not keys.is_valid(session, key):
        raise Unauthenticated("the session has ended", hint="log in with an API key")
    return keys.principal(key)


def end(session: Session, secret: str) -> None:
    """Log out; doing it twice changes nothing."""
    session.execute(delete(WebSession).where(WebSession.secret_sha256 == _hash(secret)))


def expire(session: Session) -> int:
    """Forget the sessions that have run out; returns how many."""
    gone = session.execute(delete(WebSession).where(WebSession.expires_at <= db_now()))
    return gone.rowcount  # type: ignore[attr-defined, no-any-return]  # of a DELETE


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
