"""API keys: what opens, what does not, and that the secret is not kept."""

from datetime import timedelta

import pytest
from sqlalchemy import select, update

from core.access import keys, projects
from core.access.keys import Scope
from core.database.clock import db_now
from core.database.tables import ApiKey
from core.errors import MalformedRequest, NotFound, ScopeMissing, Unauthenticated
from core.service import Service


def test_a_key_opens_its_project(service: Service) -> None:
    with service.database.unit_of_work() as session:
        project = projects.create(session, "vision")
        key, token = keys.create(session, project.id, "ci", scopes=[Scope.JOBS_READ])
    with service.database.reader() as session:
        principal = keys.verify(session, token)
    assert principal == keys.Principal(project.id, key.id, frozenset({Scope.JOBS_READ}))
    principal.require(Scope.JOBS_READ)
    with pytest.raises(ScopeMissing, match="jobs:write"):
        principal.require(Scope.JOBS_WRITE)
    keys.Principal("p", None, frozenset({Scope.ADMIN})).require(Scope.JOBS_WRITE)


def test_the_secret_is_nowhere_in_the_database(service: Service) -> None:
    with service.database.unit_of_work() as session:
        _, token = keys.create(session, projects.default(session).id, "ci")
        row = session.scalars(select(ApiKey)).one()
        secret = token.split("_", 2)[2]
        assert all(secret not in str(getattr(row, column.key)) for column in ApiKey.__table__.columns)
        assert len(secret) >= 43


def test_what_does_not_open(service: Service) -> None:
    with service.database.unit_of_work() as session:
        project = projects.default(session).id
        key, token = keys.create(session, project, "ci")
        _, other = keys.create(session, project, "other")
        expired, old = keys.create(session, project, "old", valid_for=timedelta(seconds=60))
        session.execute(update(ApiKey).where(ApiKey.id == expired.id).values(expires_at=db_now(-1)))
    messages = set()
    mixed = token[: len("mp_") + 26] + other[len("mp_") + 26 :]
    for bad in ("", "mp_", token[:-1], token + "x", mixed, "mp_" + "0" * 26 + "_" + "A" * 43, old, token.upper()):
        with service.database.reader() as session, pytest.raises(Unauthenticated) as error:
            keys.verify(session, bad)
        messages.add(error.value.message)
    assert len(messages) == 1, "the answer tells nothing about why"
    with service.database.unit_of_work() as session:
        keys.revoke(session, project, key.id)
        keys.revoke(session, project, key.id)
    with service.database.reader() as session:
        with pytest.raises(Unauthenticated):
            keys.verify(session, token)
        assert keys.verify(session, other)


def test_keys_are_listed_and_revoked_within_a_project(service: Service) -> None:
    with service.database.unit_of_work() as session:
        mine, other = projects.default(session).id, projects.create(session, "other").id
        key, _ = keys.create(session, mine, "ci")
        assert [row.id for row in keys.find_all(session, mine)] == [key.id]
        assert keys.find_all(session, other) == []
        with pytest.raises(NotFound):
            keys.revoke(session, other, key.id)
        with pytest.raises(MalformedRequest, match="jobs:fly"):
            keys.create(session, mine, "bad", scopes=["jobs:fly"])


def test_use_is_noted_at_most_once_a_minute(service: Service) -> None:
    with service.database.unit_of_work() as session:
        key, _ = keys.create(session, projects.default(session).id, "ci")
    seen = []
    for _ in range(2):
        with service.database.unit_of_work() as session:
            keys.touch(session, key.id)
        with service.database.reader() as session:
            seen.append(session.scalar(select(ApiKey.last_used_at)))
    assert seen[0] is not None
    assert seen[0] == seen[1]
