"""What routes ask for: the service's parts, a session, the project that asks."""

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Path, Request

from api.examples import EXAMPLES
from api.live.hot import HotJobs
from api.live.watch import Watch
from core.access.keys import Principal, Scope
from core.database.db import Session
from core.library.uploads import Uploads
from core.service import Service


async def _service(request: Request) -> Service:
    """The parts of the service, as this process opened them."""
    opened: Service = request.app.state.service
    return opened


TheService = Annotated[Service, Depends(_service)]


@dataclass(frozen=True)
class Live:
    """The service, with this process's poller and the jobs that it answers from memory."""

    service: Service
    watch: Watch
    hot: HotJobs

    def changed(self, job_id: str) -> None:
        """This process has changed a job: forget what was known, and look at once."""
        self.hot.changed(job_id)
        self.watch.nudge()


async def _live(request: Request, service: TheService) -> Live:
    state = request.app.state
    return Live(service, state.watch, state.hot)


TheLive = Annotated[Live, Depends(_live)]


async def check_key(request: Request) -> None:
    """Whether the request's key is still valid, after it has waited. Raises `unauthenticated`, and `rate_limited` where that is asked too often."""
    client = request.client.host if request.client else ""
    await request.app.state.authenticate(request.headers.get("authorization", "").encode("latin-1"), client)


def _reading(service: TheService) -> Iterator[Session]:
    with service.database.reader() as session:
        yield session


def _writing(service: TheService) -> Iterator[Session]:
    with service.database.unit_of_work() as session:
        yield session


Reading = Annotated[Session, Depends(_reading, scope="function")]
"""A session that reads."""
Writing = Annotated[Session, Depends(_writing, scope="function")]
"""A unit of work; it has committed before the first byte of the answer is sent."""


async def _uploads(service: TheService) -> Uploads:
    return service.uploads


TheUploads = Annotated[Uploads, Depends(_uploads)]


def _holder_of(*scopes: Scope) -> Callable[[Request], Awaitable[Principal]]:
    """A dependency that wants one of the scopes; the route class and `api.documentation.openapi` read them from it."""

    async def principal(request: Request) -> Principal:
        asking: Principal = request.state.principal
        asking.require_one(scopes)
        return asking

    principal.scopes = scopes  # type: ignore[attr-defined]  # read by `api.http.routing.scopes_of`
    return principal


ReadsModels = Annotated[Principal, Depends(_holder_of(Scope.MODELS_READ))]
WritesModels = Annotated[Principal, Depends(_holder_of(Scope.MODELS_WRITE))]
ReadsDatasets = Annotated[Principal, Depends(_holder_of(Scope.DATASETS_READ))]
WritesDatasets = Annotated[Principal, Depends(_holder_of(Scope.DATASETS_WRITE))]
ReadsJobs = Annotated[Principal, Depends(_holder_of(Scope.JOBS_READ))]
WritesJobs = Annotated[Principal, Depends(_holder_of(Scope.JOBS_WRITE))]
ReadsWebhooks = Annotated[Principal, Depends(_holder_of(Scope.WEBHOOKS_READ))]
WritesWebhooks = Annotated[Principal, Depends(_holder_of(Scope.WEBHOOKS_WRITE))]
ReadsArtifacts = Annotated[Principal, Depends(_holder_of(Scope.ARTIFACTS_READ))]
UploadsFiles = Annotated[Principal, Depends(_holder_of(Scope.MODELS_WRITE, Scope.DATASETS_WRITE))]
ReadsMetrics = Annotated[Principal, Depends(_holder_of(Scope.METRICS_READ))]
IsAdmin = Annotated[Principal, Depends(_holder_of(Scope.ADMIN))]


def _id(kind: str) -> Any:
    prefix = EXAMPLES[kind].partition("_")[0]
    return Path(pattern=rf"^{prefix}_[A-Za-z0-9]{{1,40}}$", examples=[EXAMPLES[kind]])


ModelId = Annotated[str, _id("model")]
DatasetId = Annotated[str, _id("dataset")]
JobId = Annotated[str, _id("job")]
ArtifactId = Annotated[str, _id("artifact")]
UploadId = Annotated[str, _id("upload")]
TemplateId = Annotated[str, _id("template")]
WebhookId = Annotated[str, _id("webhook")]
DeliveryId = Annotated[str, _id("delivery")]
