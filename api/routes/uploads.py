"""Uploads in numbered parts, for files of any size over connections that break."""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from api.deps import TheService, TheUploads, UploadId, UploadsFiles
from api.http import problems
from api.http.conditional import Digests
from api.http.fields import fields_of
from api.http.headers import documented
from api.http.routing import ClosedRoute
from api.http.words import NO_TRUTH, PRINTABLE
from core.blobs import Staged
from core.database.tables import UploadPart
from core.library import uploads
from core.library.uploads import MOST_PARTS
from modelpress.resources.uploads import Part, Upload

router = APIRouter(route_class=ClosedRoute, tags=["uploads"])


class NewUpload(BaseModel):
    """What is known of the whole file before it is sent; all of it is optional, and checked at the end where it is given."""

    model_config = ConfigDict(
        extra="forbid", use_attribute_docstrings=True, json_schema_extra={"example": {"filename": "model.onnx", "size_bytes": 1_580_159}}
    )

    filename: str | None = Field(None, max_length=200, pattern=PRINTABLE)
    size_bytes: Annotated[int, Field(ge=1, lt=2**63), NO_TRUTH] | None = None
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")


@router.post(
    "/v1/uploads", operation_id="create_upload", status_code=201, response_model=Upload, responses=problems.responses(413, 422, 507)
)
def create_upload(principal: UploadsFiles, parts: TheUploads, known: Annotated[NewUpload, Depends(fields_of(NewUpload))]) -> Response:
    """Begin an upload in parts."""
    state = parts.create(principal.project_id, filename=known.filename, size_bytes=known.size_bytes, sha256=known.sha256)
    body = uploads.body(state)
    return JSONResponse(body, 201, {"Location": body["urls"]["self"]})


@router.get("/v1/uploads/{upload_id}", operation_id="get_upload", response_model=Upload, responses=problems.responses(404))
def get_upload(principal: UploadsFiles, parts: TheUploads, upload_id: UploadId) -> Response:
    """Which parts have arrived: where to go on after a broken connection."""
    return JSONResponse(uploads.body(parts.get(principal.project_id, upload_id)))


@router.put(
    "/v1/uploads/{upload_id}/parts/{number}",
    operation_id="put_part",
    response_model=Part,
    openapi_extra={
        **documented("Content-Digest"),
        "requestBody": {"required": True, "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}},
    },
    responses=problems.responses(400, 404, 409, 413, 422, 507),
)
async def put_part(
    *,
    request: Request,
    principal: UploadsFiles,
    service: TheService,
    parts: TheUploads,
    upload_id: UploadId,
    number: Annotated[int, Path(ge=1, le=MOST_PARTS, examples=[1])],
) -> Response:
    """Send one part, in any order; sending it again replaces it. `Content-Digest` is verified when it is sent."""
    digests = Digests.sent(request.headers)
    announced = request.headers.get("content-length")
    await run_in_threadpool(parts.get, principal.project_id, upload_id)
    with request.state.held.upload():
        staged = await service.blobs.receive(
            request.stream(), limit_bytes=service.settings.max_upload_bytes, size_bytes=int(announced) if announced else None
        )
    put = partial(parts.put_part, principal.project_id, upload_id, number)
    return JSONResponse(await run_in_threadpool(_keep, staged, digests, put))


def _keep(staged: Staged, digests: Digests, put: Callable[[Staged], UploadPart]) -> dict[str, Any]:
    with staged:
        digests.check(staged.finish().sha256, staged.path)
        return uploads.part_body(put(staged))


@router.post(
    "/v1/uploads/{upload_id}/complete",
    operation_id="complete_upload",
    response_model=Upload,
    responses=problems.responses(404, 409, 422, 507),
)
def complete_upload(principal: UploadsFiles, parts: TheUploads, upload_id: UploadId) -> Response:
    """Join the parts into one file, which `POST /v1/models` and `POST /v1/datasets` then name as `upload_id`."""
    return JSONResponse(uploads.body(parts.complete(principal.project_id, upload_id)))


@router.delete("/v1/uploads/{upload_id}", operation_id="delete_upload", status_code=204, responses=problems.responses(404))
def delete_upload(principal: UploadsFiles, parts: TheUploads, upload_id: UploadId) -> Response:
    """Forget an upload; models and datasets that were made of it stay."""
    parts.drop(principal.project_id, upload_id)
    return Response(status_code=204)
