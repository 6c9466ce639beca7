"""API keys: `mp_<id>_<secret>`. The secret has 256 random bits, so that its SHA-256 is safe to keep; it is shown once."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from core import ids
from core.database.clock import db_now, now
from core.database.tables import ApiKey
from core.errors import FieldError, MalformedRequest, NotFound, ScopeMissing, Unauthenticated

_TOKEN = re.compile(r"mp_(?P<id>[0-9a-z]{26})_(?P<secret>[A-Za-z0-9_-]{43})")
_TOUCH_SECONDS = 60


class Scope(StrEnum):
    """What a key may do. `admin` may do everything, keys included."""

    MODELS_READ = "models:read"
    MODELS_WRITE = "models:write"
    DATASETS_READ = "datasets:read"
    DATASETS_WRITE = "datasets:write"
    JOBS_READ = "jobs:read"
    JOBS_WRITE = "jobs:write"
    ARTIFACTS_READ = "artifacts:read"
    WEBHOOKS_READ = "webhooks:read"
    WEBHOOKS_WRITE = "webhooks:write"
    METRICS_READ = "metrics:read"
    """Figures of the whole service, for a monitoring system."""
    ADMIN = "admin"


USER_SCOPES = frozenset(Scope) - {Scope.ADMIN, Scope.METRICS_READ}


@dataclass(frozen=True)
class Principal:
    """Who asks: a project, by a key (None where authentication is off), with scopes."""

    project_id: str
    key_id: str | None
    scopes: frozenset[Scope]

    def require(self, scope: Scope) -> None:
        """Raises `scope_missing` unless the scope, or `admin`, is there."""
        if not self.scopes & {scope, Scope.ADMIN}:
            raise ScopeMissing(f"the key lacks the scope {scope}", hint=f"make a key with --scope {scope}")

    def require_one(self, scopes: Sequence[Scope]) -> None:
        """Raises `scope_missing`, which names the first of the scopes, unless one of them, or `admin`, is there."""
        self.require(next((scope for scope in scopes if scope in self.scopes), scopes[0]))


def create(
    session: Session, project_id: str, name: str, *, scopes: Collection[str] = USER_SCOPES, valid_for: timedelta | None = None
) -> tuple[ApiKey, str]:
    """A new key and its token, which is known to nobody afterwards. Raises `malformed_request` for an unknown scope."""
    if unknown := sorted(set(scopes) - set(Scope)):
        detail = f"no such scope: {unknown[0]}"
        raise MalformedRequest(detail, hint=f"scopes: {', '.join(Scope)}", errors=[FieldError("/scopes", "unknown_scope", detail)])
    secret = secrets.token_urlsafe(32)
    key = ApiKey(
        id=ids.new("key"),
        project_id=project_id,
        name=name,
        secret_sha256=_hash(secret),
        scopes=sorted(scopes),
        expires_at=now(session) + valid_for if valid_for is not None else None,
    )
    session.add(key)
    session.flush()
    return key, f"mp_{key.id.removeprefix('key_')}_{secret}"


def verify(session: Session, token: str) -> Principal:
    """Who holds the token. Raises `unauthenticated` for one that is malformed, unknown, revoked or expired, saying the same for all."""
    match = _TOKEN.fullmatch(token)
    key = session.get(ApiKey, f"key_{match['id']}") if match else None
    stored = key.secret_sha256 if key is not None else bytes(32)
    same = hmac.compare_digest(stored, _hash(match["secret"] if match else ""))
    if key is None or not same or not is_valid(session, key):
        raise Unauthenticated(
            "the API key is not valid, or was revoked, or has expired",
            hint="modelpress keys list shows which are valid; modelpress keys create makes one",
        )
    return principal(key)


def is_valid(session: Session, key: ApiKey) -> bool:
    """Whether a key was neither revoked nor has expired."""
    return key.revoked_at is None and (key.expires_at is None or key.expires_at > now(session))


def principal(key: ApiKey) -> Principal:
    """Who asks by this key, with the scopes that this version knows."""
    return Principal(key.project_id, key.id, frozenset(Scope(scope) for scope in key.scopes if scope in set(Scope)))


def touch(session: Session, key_id: str) -> None:
    """Note that the key was used, at most once a minute; in a unit of work of its own, after the answer."""
    stale = or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < db_now(-_TOUCH_SECONDS))
    session.execute(update(ApiKey).where(ApiKey.id == key_id, stale).values(last_used_at=db_now()))


def find_all(session: Session, project_id: str) -> list[ApiKey]:
    """The project's keys, newest first."""
    return list(session.scalars(select(ApiKey).where(ApiKey.project_id == project_id).order_by(ApiKey.id.desc())))


def exist(session: Session) -> bool:
    """Whether any project has a key that can still be used."""
    alive = ApiKey.revoked_at.is_(None) & or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > db_now())
    return session.scalar(select(ApiKey.id).where(alive).limit(1)) is not None


def revoke(session: Session, project_id: str, key_id: str) -> None:
    """End a key; doing it twice changes nothing. Raises `not_found`."""
    mine = (ApiKey.id == key_id) & (ApiKey.project_id == project_id)
    session.execute(update(ApiKey).where(mine, ApiKey.revoked_at.is_(None)).values(revoked_at=db_now()))
    if session.scalar(select(ApiKey.id).where(mine)) is None:
        raise NotFound(f"there is no key {key_id!r} in this project")


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
