"""Is the service alive, ready, and what is it?"""

import platform
import time
from typing import Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from api.deps import ReadsMetrics, TheService
from api.front import metrics
from api.http.routing import ClosedRoute
from core.operations import health
from engine import __version__
from engine.contract.method import catalogue
from modelpress.resources.common import Resource

router = APIRouter(route_class=ClosedRoute, tags=["service"])
_CHECK_SECONDS = 1.0


class Alive(Resource):
    """The process answers."""

    status: Literal["ok"]


class Check(Resource):
    """One part of the service."""

    status: Literal["ok", "degraded", "failed"]
    detail: str | None


class Readiness(Resource):
    """`degraded` still serves: a broker that is away only delays jobs."""

    status: Literal["ok", "degraded", "failed"]
    checks: dict[str, Check]


class Version(Resource):
    """What runs here."""

    service: str
    api: str
    """Version of this contract; it stands in every path."""
    engine: str
    python: str
    methods: list[str]
    """Methods that can be run here."""


@router.get("/livez", operation_id="livez", response_model=Alive)
async def livez() -> Response:
    """Whether this process answers at all."""
    return JSONResponse({"status": "ok"})


@router.get("/readyz", operation_id="readyz", response_model=Readiness, responses={503: {"description": "Not ready", "model": Readiness}})
def readyz(request: Request, service: TheService) -> Response:
    """Whether requests can be served, and which part is broken where they cannot."""
    # Anyone may ask, so that the parts are not asked more than once a second.
    checked_at, found = getattr(request.app.state, "readiness", (0.0, None))
    if found is None or time.monotonic() - checked_at > _CHECK_SECONDS:
        found = health.check(service)
        request.app.state.readiness = time.monotonic(), found
    return JSONResponse(found, 503 if found["status"] == "failed" else 200)


@router.get("/v1/version", operation_id="get_version", response_model=Version)
def get_version() -> Response:
    """The versions of the service, of this API and of the engine, and the methods that can be run here."""
    methods = [name for name, method in catalogue().items() if method.available()]
    return JSONResponse(
        {"service": __version__, "api": "v1", "engine": __version__, "python": platform.python_version(), "methods": methods}
    )


@router.get(
    "/metrics",
    operation_id="get_prometheus_metrics",
    response_class=Response,
    responses={200: {"description": "Prometheus' text format", "content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def get_prometheus_metrics(request: Request, principal: ReadsMetrics, service: TheService) -> Response:
    """Figures for Prometheus: requests of this process, jobs by status and method, waiting and step times."""
    return Response(request.app.state.metrics.exposition(service), media_type=metrics.CONTENT_TYPE)
