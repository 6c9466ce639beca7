"""The HTTP front door: `python -m api.server`, or `create_app(settings)`. Loads neither torch nor onnx."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial

from anyio import to_thread
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from api.documentation import openapi
from api.front.allocation import keep_buffers
from api.front.authentication import Authenticator, Gate
from api.front.cors import Cors
from api.front.limits import Limits
from api.front.metrics import Metrics
from api.front.middleware import Front
from api.http import problems
from api.http.coding import Coding
from api.live.hot import HotJobs
from api.live.watch import Watch
from api.pages import compare, graph, job, library, new, rendering, signin, upload
from api.pages import errors as pages_errors
from api.pages import jobs as pages_of_jobs
from api.pages import keys as pages_of_keys
from api.pages import methods as pages_of_methods
from api.pages import problems as pages_of_problems
from api.pages import webhooks as pages_of_webhooks
from api.routes import artifacts, datasets, docs, health, history, jobs, methods, models, reports, templates, uploads, usage, webhooks
from core import logging, tracing
from core.access import keys, projects, sessions
from core.access.keys import Principal, Scope
from core.jobs import Mark, marks
from core.operations.reconciler import Reconciler
from core.service import Service
from core.settings import Settings
from engine import __version__

THREADS = 16
"""Threads that wait for database and disk. Python runs one at a time: more of them that compute would only delay the event loop."""


class Application(FastAPI):
    """FastAPI with this project's own layers outside of all of its: what is answered from memory passes none of them."""

    def build_middleware_stack(self) -> ASGIApp:
        """Called once, before the first request."""
        self.add_exception_handler(Exception, _hand_up)
        state = self.state
        gate = Gate(super().build_middleware_stack(), hot=state.hot, limits=state.limits)
        settings: Settings = state.settings
        return Front(gate, only_local=settings.auth == "off", cors=Cors(settings.cors_origins), metrics=state.metrics)


def _hand_up(_: Request, error: Exception) -> Response:
    """What nobody foresaw is answered and logged by the outermost layer."""
    raise error


def create_app(settings: Settings) -> Application:
    """The application; its parts are opened when it starts and closed when it ends. The database must have been migrated."""
    app = Application(
        title="Modelpress",
        version=__version__,
        description=openapi.DESCRIPTION,
        openapi_tags=openapi.TAGS,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        lifespan=_lifespan,
        separate_input_output_schemas=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # core.tracing and api.front.metrics are this project's
    )
    app.state.settings = settings
    app.state.metrics = Metrics()
    app.state.hot = HotJobs()
    app.state.limits = Limits(settings)
    problems.install(app)
    for resource in (uploads, models, datasets, methods, jobs, templates, history, artifacts, reports, webhooks, usage, health, docs):
        # Flat, as no router has a prefix or dependencies of its own: a request is then matched against one list.
        app.router.routes.extend(resource.router.routes)
    app.state.pages = rendering.Pages()
    for page in (
        signin,
        graph,
        pages_of_jobs,
        job,
        upload,
        library,
        new,
        pages_of_methods,
        compare,
        pages_of_keys,
        pages_of_webhooks,
        pages_of_problems,
    ):
        app.router.routes.extend(page.router.routes)
    app.state.whole_paths = frozenset(
        route.path for route in app.router.routes if isinstance(route, APIRoute) and not route.param_convertors
    )
    pages_errors.install(app)
    openapi.install(app)
    app.add_middleware(Coding)
    return app


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings: Settings = app.state.settings
    keep_buffers()
    to_thread.current_default_thread_limiter().total_tokens = THREADS
    with Service.open(settings) as service, tracing.traces(settings, "modelpress-api"):
        app.state.service = service
        anyone = await run_in_threadpool(_anyone, service) if settings.auth == "off" else None
        app.state.authenticate = Authenticator(
            partial(_verify, service), partial(_verify_session, service), partial(_touch, service), anyone, app.state.limits
        )
        app.state.watch = Watch(partial(_marks, service), partial(history.news, service), app.state.hot)
        await run_in_threadpool(app.state.metrics.begin, service)
        reconciler = Reconciler(settings, service.database, service.blobs, service.doorbell)
        reconciler.start()
        polling = asyncio.create_task(app.state.watch.run())
        try:
            yield
        finally:
            polling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await polling
            await run_in_threadpool(reconciler.stop)


def _anyone(service: Service) -> Principal:
    """Who asks where authentication is off."""
    with service.database.reader() as session:
        return Principal(projects.default(session).id, None, frozenset(Scope))


def _verify(service: Service, token: str) -> Principal:
    with service.database.reader() as session:
        return keys.verify(session, token)


def _verify_session(service: Service, secret: str) -> Principal:
    with service.database.reader() as session:
        return sessions.verify(session, secret)


def _touch(service: Service, key_id: str) -> None:
    with service.database.unit_of_work() as session:
        keys.touch(session, key_id)


def _marks(service: Service, job_ids: list[str]) -> dict[str, Mark]:
    with service.database.reader() as session:
        return marks(session, job_ids)


def __getattr__(name: str) -> FastAPI:
    """`api.app:app` reads the environment when a server asks for it, not when somebody imports this module."""
    if name != "app":
        raise AttributeError(name)
    settings = Settings()
    logging.configure(settings)
    return create_app(settings)
