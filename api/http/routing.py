"""The route class of every router: rights before anything else, and unknown query parameters are refused."""

from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, get_origin

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.routing import Match
from starlette.types import Scope as Asked

from api.http.errors import InvalidParameter
from core.access.keys import Principal, Scope
from core.errors import MOST_ERRORS, FieldError, bounded
from engine.contract.sentences import suggestion

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


def _query_names(dependant: Dependant) -> set[str]:
    names = {field.alias for field in dependant.query_params}
    for below in dependant.dependencies:
        names |= _query_names(below)
    return names


def _names_of_lists(dependant: Dependant) -> set[str]:
    """Parameters that may be given several times."""
    names = {field.alias for field in dependant.query_params if get_origin(field.field_info.annotation) is list}
    return names.union(*map(_names_of_lists, dependant.dependencies))


def _refuse_repeated(request: Request, several: set[str]) -> None:
    """Raises `invalid_parameter` where one value is meant and two are given: whichever were taken would be wrong for somebody."""
    given = Counter(name for name, _ in request.query_params.multi_items())
    errors = [
        FieldError(f"/query/{name[:80]}", "repeated_parameter", f"{name[:80]!r} stands {count} times in the address", "give it once")
        for name, count in given.items()
        if count > 1 and name not in several
    ]
    if errors:
        raise InvalidParameter(errors[0].detail, hint=errors[0].hint, errors=bounded(errors))


def scopes_of(dependant: Dependant) -> tuple[Scope, ...]:
    """The scopes of which a route wants one; none for a route that any key may use."""
    own: tuple[Scope, ...] = getattr(dependant.call, "scopes", ())
    return own + tuple(scope for below in dependant.dependencies for scope in scopes_of(below))


class ClosedRoute(APIRoute):
    """A key without the right is refused before its request's body is read; a misspelt filter must not quietly select everything.

    FastAPI reads a body that it knows of whole, and before any dependency is asked. So these routes declare none: they read their
    bodies by `api.http.documents`, within a bound.
    """

    def matches(self, scope: Asked) -> tuple[Match, Asked]:
        """As any route; a path that some route states whole (`/v1/jobs/validate`) is none of the ids that another one takes (`/v1/jobs/{job_id}`)."""
        match, found = super().matches(scope)
        return (Match.NONE, {}) if self.param_convertors and scope["path"] in scope["app"].state.whole_paths else (match, found)

    def get_route_handler(self) -> Handler:
        """FastAPI's handler, behind the check of the key's rights and the parameters' names."""
        assert self.body_field is None, f"{self.path}: read the body with api.http.documents, which bounds it"
        handler = super().get_route_handler()
        known = _query_names(self.dependant)
        several = _names_of_lists(self.dependant)
        wanted = scopes_of(self.dependant)

        async def closed(request: Request) -> Response:
            if wanted:
                asking: Principal = request.state.principal
                asking.require_one(wanted)
            unknown = [name for name in dict.fromkeys(request.query_params) if name not in known]
            if unknown:
                errors = [
                    FieldError(f"/query/{name[:80]}", "unknown_parameter", f"unknown parameter {name[:80]!r}", suggestion(name, known))
                    for name in unknown[:MOST_ERRORS]
                ]
                raise InvalidParameter(errors[0].detail, hint=errors[0].hint, errors=bounded(errors, total=len(unknown)))
            _refuse_repeated(request, several)
            return await handler(request)

        return closed
