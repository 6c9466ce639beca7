"""Models: upload, look at, download, delete."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from api.deps import ModelId, Reading, ReadsModels, TheService, WritesModels, Writing
from api.http import content, intake, problems
from api.http.fields import fields_of
from api.http.idempotency import IdempotencyKey
from api.http.inspection import found
from api.http.keeping import kept
from api.http.routing import ClosedRoute
from api.schemas.common import Change, GivenLabels, OfLibrary, page_of
from core.library import models
from engine.contract.file_format import ending_of
from modelpress.resources.common import Page
from modelpress.resources.library import Layer, Model

router = APIRouter(route_class=ClosedRoute, tags=["models"])


@router.post(
    "/v1/models",
    operation_id="create_model",
    status_code=201,
    response_model=Model,
    openapi_extra=intake.request_body(intake.MODELS),
    responses=intake.REFUSALS,
)
async def create_model(
    *,
    request: Request,
    principal: WritesModels,
    declared: Annotated[intake.Declared, Depends(intake.declared_as(intake.MODELS))],
    service: TheService,
    given: GivenLabels,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Upload a neural network: the file itself as the body, or JSON that names a finished upload or a builtin architecture to be trained.

    The answer comes when the file is stored; a sandboxed process inspects it afterwards (`status` is `inspecting`, then `ready` or
    `invalid`). `Content-Digest` is verified when it is sent. Nothing is kept of an upload that fails. Pickled modules and TorchScript
    are programs, not data: they are refused with `unsafe_format`.
    """
    taken = await intake.take(request, service, principal.project_id, intake.MODELS, declared.labelled(given))
    return await kept(service, principal.project_id, models, taken, idempotency_key)


@router.get("/v1/models", operation_id="list_models", response_model=Page[Model], responses=problems.responses(400, 422))
def list_models(request: Request, session: Reading, principal: ReadsModels, asked: OfLibrary) -> Response:
    """The project's models, newest first unless another order is asked for."""
    return page_of(request, models.search(session, principal.project_id, asked), models.body)


@router.get("/v1/models/{model_id}", operation_id="get_model", response_model=Model, responses=problems.responses(404))
def get_model(session: Reading, principal: ReadsModels, model_id: ModelId) -> Response:
    """One model, with what its inspection found."""
    return JSONResponse(models.body(models.get(session, principal.project_id, model_id)))


@router.get(
    "/v1/models/{model_id}/content",
    operation_id="download_model",
    response_class=Response,
    openapi_extra=content.HEADERS,
    responses=content.RESPONSES,
)
def download_model(request: Request, session: Reading, principal: ReadsModels, service: TheService, model_id: ModelId) -> Response:
    """The uploaded file, byte for byte."""
    model, blob = models.content(session, principal.project_id, model_id)
    return content.download(request, service, blob, model.name + ending_of(model.format))


@router.get(
    "/v1/models/{model_id}/layers", operation_id="list_layers", response_model=Page[Layer], responses=problems.responses(404, 409, 422)
)
def list_layers(session: Reading, principal: ReadsModels, model_id: ModelId) -> Response:
    """Every layer in order: names for `ignore` and `include`, shapes, costs, and what may be done to it."""
    layers = found(models.get(session, principal.project_id, model_id), "layers")
    return JSONResponse({"object": "list", "data": layers, "has_more": False, "next_cursor": None})


@router.patch(
    "/v1/models/{model_id}", operation_id="change_model", response_model=Model, responses=problems.responses(400, 404, 413, 415, 422)
)
def change_model(
    session: Writing, principal: WritesModels, model_id: ModelId, wanted: Annotated[Change, Depends(fields_of(Change))]
) -> Response:
    """Give a model another name, and other labels."""
    return JSONResponse(models.body(models.change(session, principal.project_id, model_id, name=wanted.name, labels=wanted.labels)))


@router.delete("/v1/models/{model_id}", operation_id="delete_model", status_code=204, responses=problems.responses(404, 409))
def delete_model(session: Writing, principal: WritesModels, model_id: ModelId) -> Response:
    """Remove a model that no unfinished job reads; its past jobs stay."""
    models.delete(session, principal.project_id, model_id)
    return Response(status_code=204)
