"""Artifacts: what jobs published."""

from dataclasses import astuple
from functools import partial
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from api.deps import ArtifactId, JobId, Reading, ReadsArtifacts, TheService, WritesJobs, WritesModels, Writing
from api.http import content, documents, intake, problems
from api.http.fields import fields_of
from api.http.idempotency import IdempotencyKey, asked_under, replayed_headers
from api.http.routing import ClosedRoute
from api.http.words import PRINTABLE, Labels, Word
from api.schemas.common import ORDER, After, Change, LabelFilter, Limit, Moment, Name, Sha256, page_of
from core import ids, jobs
from core.database.listing import Listing
from core.database.tables import Model as ModelRow
from core.errors import MalformedRequest
from core.jobs import idempotency
from core.library import artifacts, models, subnets
from modelpress.resources.common import Page
from modelpress.resources.jobs import Artifact
from modelpress.resources.library import Model

router = APIRouter(route_class=ClosedRoute, tags=["artifacts"])


class Promotion(BaseModel):
    """What the new model is called, and what is declared about it; both are taken from the artifact where they are missing."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"name": "smaller"}})

    name: str | None = Field(None, max_length=200, pattern=PRINTABLE)
    metadata: dict[str, Any] | None = None
    labels: Labels = {}
    """Pairs to find the model by."""
    setting: str | None = Field(None, max_length=64, pattern=PRINTABLE)
    """Of an artifact with several settings, the one that the model is cut to, such as `width 0.5`; by default the whole file."""


@router.get("/v1/jobs/{job_id}/artifacts", operation_id="list_artifacts", response_model=Page[Artifact], responses=problems.responses(404))
def list_artifacts(session: Reading, principal: ReadsArtifacts, job_id: JobId) -> Response:
    """Everything that a job published, in order; empty until it has ended."""
    rows = jobs.artifacts(session, principal.project_id, job_id)
    return JSONResponse({"object": "list", "data": [jobs.artifact_body(row) for row in rows], "has_more": False, "next_cursor": None})


def _asked(
    *,
    filename: Annotated[Word | None, Query(description="Exactly this file name.")] = None,
    name: Name | None = None,
    kind: Annotated[Word | None, Query(description="Such as `model` or `report`.")] = None,
    format: Annotated[Word | None, Query(description="Only this format.")] = None,
    sha256: Sha256 | None = None,
    job_id: Annotated[str | None, Query(pattern=r"^job_[A-Za-z0-9]{1,40}$")] = None,
    label: LabelFilter = [],  # noqa: B006 - FastAPI copies it
    created_after: Moment | None = None,
    created_before: Moment | None = None,
    sort: Annotated[
        Literal["created_at", "-created_at", "filename", "-filename", "size_bytes", "-size_bytes"], Query(description=ORDER)
    ] = "-created_at",
    limit: Limit = 20,
    after: After = None,
) -> Listing:
    equal = {"filename": filename, "kind": kind, "format": format, "blob_sha256": sha256, "job_id": job_id}
    return Listing(name, label, created_after, created_before, sort, limit, after, equal)


@router.get("/v1/artifacts", operation_id="search_artifacts", response_model=Page[Artifact], responses=problems.responses(400, 422))
def search_artifacts(request: Request, session: Reading, principal: ReadsArtifacts, asked: Annotated[Listing, Depends(_asked)]) -> Response:
    """Artifacts of all jobs, newest first unless another order is asked for."""
    return page_of(request, artifacts.search(session, principal.project_id, asked), jobs.artifact_body)


@router.get(
    "/v1/jobs/{job_id}/artifacts/{filename}",
    operation_id="download_named_artifact",
    response_class=Response,
    openapi_extra=content.HEADERS,
    responses=content.RESPONSES,
)
def download_named_artifact(
    *,
    request: Request,
    session: Reading,
    principal: ReadsArtifacts,
    service: TheService,
    job_id: JobId,
    filename: Annotated[str, Path(min_length=1, max_length=200, pattern=PRINTABLE, examples=["model.onnx"])],
) -> Response:
    """A published file by its name, such as `model.onnx`."""
    artifact = artifacts.named(session, principal.project_id, job_id, filename)
    return content.download(request, service, artifacts.content(session, principal.project_id, artifact.id)[1], artifact.filename)


@router.patch(
    "/v1/artifacts/{artifact_id}",
    operation_id="change_artifact",
    response_model=Artifact,
    responses=problems.responses(400, 404, 413, 415, 422),
)
def change_artifact(
    session: Writing, principal: WritesJobs, artifact_id: ArtifactId, wanted: Annotated[Change, Depends(fields_of(Change))]
) -> Response:
    """Give an artifact a name, and labels; its bytes never change."""
    name = wanted.name if "name" in wanted.model_fields_set else ...
    return JSONResponse(jobs.artifact_body(artifacts.change(session, principal.project_id, artifact_id, wanted.labels, name)))


@router.get("/v1/artifacts/{artifact_id}", operation_id="get_artifact", response_model=Artifact, responses=problems.responses(404))
def get_artifact(session: Reading, principal: ReadsArtifacts, artifact_id: ArtifactId) -> Response:
    """One artifact: size, hash, and the metrics measured on this very file."""
    return JSONResponse(jobs.artifact_body(artifacts.get(session, principal.project_id, artifact_id)))


@router.get(
    "/v1/artifacts/{artifact_id}/content",
    operation_id="download_artifact",
    response_class=Response,
    openapi_extra=content.HEADERS,
    responses=content.RESPONSES,
)
def download_artifact(
    request: Request, session: Reading, principal: ReadsArtifacts, service: TheService, artifact_id: ArtifactId
) -> Response:
    """The published file; every MiB is verified against its hash while it is sent."""
    artifact, blob = artifacts.content(session, principal.project_id, artifact_id)
    return content.download(request, service, blob, artifact.filename)


@router.get(
    "/v1/artifacts/{artifact_id}/subnet",
    operation_id="download_subnet",
    response_class=Response,
    openapi_extra=content.HEADERS,
    responses=content.RESPONSES | problems.responses(404, 412, 416, 422, 500, 507),
)
def download_subnet(
    request: Request,
    principal: ReadsArtifacts,
    service: TheService,
    artifact_id: ArtifactId,
    *,
    setting: Annotated[str | None, Query(max_length=64, pattern=PRINTABLE)] = None,
    width: Annotated[float | None, Query(gt=0, le=1)] = None,
    max_latency_ms: Annotated[float | None, Query(gt=0)] = None,
    max_macs: Annotated[float | None, Query(gt=0)] = None,
) -> Response:
    """One setting of an artifact with several as a plain ONNX file, bit for bit what was measured: by its name, by its width, or the most
    accurate one within a limit on the measured latency or on the multiply-accumulates of one example.
    """
    with service.database.reader() as session:
        artifact, blob = artifacts.content(session, principal.project_id, artifact_id)
    wanted = subnets.Wanted(setting, width, max_latency_ms, max_macs)
    if sum(value is not None for value in astuple(wanted)) != 1:
        raise MalformedRequest("which setting is meant is not clear", hint="give one of setting, width, max_latency_ms, max_macs")
    item = subnets.chosen(artifact, wanted)
    answer = content.download(request, service, service.subnets.blob(artifact, blob, item), subnets.file_name(artifact, item))
    answer.headers["Modelpress-Setting"] = quote(item["setting"]["name"])
    return answer


@router.post(
    "/v1/artifacts/{artifact_id}/promote",
    operation_id="promote_artifact",
    status_code=201,
    response_model=Model,
    responses=problems.responses(404, 415, 422, 429, 507),
)
def promote_artifact(
    principal: WritesModels,
    service: TheService,
    artifact_id: ArtifactId,
    wanted: Annotated[Promotion, Depends(fields_of(Promotion, documents.METADATA_BYTES))],
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Make a model of an artifact, to compress it further or to compare with; it remembers where it came from."""
    with service.database.reader() as session:
        artifact, blob = artifacts.content(session, principal.project_id, artifact_id)
    intake.check_format(artifact.format, intake.MODELS)
    metadata = None if wanted.metadata is None else intake.stored(intake.check_metadata(wanted.metadata, intake.MODELS))
    cut = None
    if wanted.setting is not None:
        item = subnets.chosen(artifact, subnets.Wanted(setting=wanted.setting))
        cut = wanted.setting, service.subnets.blob(artifact, blob, item)
    project_id = principal.project_id
    asked = asked_under(service, idempotency_key, "promote", artifact_id, wanted.model_dump(mode="json"))
    with service.database.unit_of_work() as session:

        def make(model_id: str) -> ModelRow:
            found = artifacts.get(session, project_id, artifact_id)
            return models.promote(
                session, service.settings, found, name=wanted.name, metadata=metadata, cut=cut, labels=wanted.labels, model_id=model_id
            )

        model, replayed = idempotency.once(
            session, project_id, asked, ids.new("mdl"), find=partial(models.get, session, project_id), make=make
        )
        body = models.body(model)
    return JSONResponse(body, 201, {"Location": body["urls"]["self"]} | replayed_headers(replayed))
