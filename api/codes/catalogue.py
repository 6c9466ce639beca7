"""Every stable code with what it means and what to do: the codes of requests and of jobs, and the statuses under which requests get them."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass

from api.codes.jobs import JOBS
from api.codes.requests import REQUESTS
from core.errors import ServiceError


@dataclass(frozen=True)
class Entry:
    """One code."""

    code: str
    title: str
    status: int | None
    """Of the answers that carry it; None for codes of jobs and of files."""
    meaning: str
    remedy: str

    @property
    def path(self) -> str:
        """The `type` of its problem documents."""
        return path_of(self.code)


_ELSEWHERE = {
    "host_not_allowed": 421,
    "method_not_allowed": 405,
    "not_local": 403,
    "request_header_fields_too_large": 431,
    "request_timeout": 408,
}
"""Statuses of what is refused before a route is reached."""


def path_of(code: str) -> str:
    """Where a code is explained."""
    return f"/problems/{code.replace('_', '-')}"


@functools.cache
def entries() -> dict[str, Entry]:
    """The catalogue, by code."""
    statuses = _ELSEWHERE | {kind.code: kind.status for kind in _kinds(ServiceError)}
    titles = {kind.code: kind.title for kind in _kinds(ServiceError)}
    found = {}
    for code, text in sorted((JOBS | REQUESTS).items()):
        title = titles.get(code, code.replace("_", " ").capitalize())
        found[code] = Entry(code, title, statuses.get(code) if code in REQUESTS else None, text.meaning, text.remedy)
    return found


def _kinds(kind: type[ServiceError]) -> Iterator[type[ServiceError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _kinds(below)
