"""The route class of every router: unknown query parameters are refused."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from api.http.errors import InvalidParameter
from api.http.problems import did_you_mean
from core.errors import FieldError

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


def _query_names(dependant: Dependant) -> set[str]:
    names = {field.alias for field in dependant.query_params}
    for below in dependant.dependencies:
        names |= _query_names(below)
    return names


class ClosedRoute(APIRoute):
    """A misspelt filter must not quietly select everything."""

    def get_route_handler(self) -> Handler:
        """FastAPI's handler, behind the check of the parameters' names."""
        handler = super().get_route_handler()
        known = _query_names(self.dependant)

        async def closed(request: Request) -> Response:
            errors = [
                FieldError(f"/query/{name}", "unknown_parameter", f"unknown parameter {name!r}", did_you_mean(name, known))
                for name in dict.fromkeys(request.query_params)
                if name not in known
            ]
            if errors:
                raise InvalidParameter(errors[0].detail, hint=errors[0].hint, errors=errors)
            return await handler(request)

        return closed
