"""Uploads from a page: the file is the body, as with `POST /v1/models`, and the form's token stands in a header."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request
from fastapi.responses import JSONResponse, Response

from api.deps import TheService, WritesDatasets, WritesModels
from api.front import browser
from api.http import intake
from api.http.routing import ClosedRoute
from api.pages.change import change
from core.access.keys import Principal
from core.library import datasets, models

router = APIRouter(route_class=ClosedRoute, include_in_schema=False)


async def _ours(request: Request, x_form_token: Annotated[str, Header(max_length=200)] = "") -> None:
    """Raises `cross_origin_refused` for what no page of this service sent."""
    scope = request.scope
    principal: Principal = scope["state"]["principal"]
    if principal.key_id is None or "browser" in scope["state"]:
        browser.check_form(scope, scope["state"].get("browser") or browser.cookie(scope, browser.ANYONE), x_form_token)


Ours = Annotated[None, Depends(_ours)]


@router.post("/models/upload")
async def upload_model(
    request: Request,
    principal: WritesModels,
    ours: Ours,
    declared: Annotated[intake.Declared, Depends(intake.declared_as(intake.MODELS))],
    service: TheService,
) -> Response:
    """A model's file."""
    taken = await intake.take(request, service, principal.project_id, intake.MODELS, declared)
    return await _kept(request, principal.project_id, taken, models)


@router.post("/datasets/upload")
async def upload_dataset(
    request: Request,
    principal: WritesDatasets,
    ours: Ours,
    declared: Annotated[intake.Declared, Depends(intake.declared_as(intake.DATASETS))],
    service: TheService,
) -> Response:
    """A dataset's file."""
    taken = await intake.take(request, service, principal.project_id, intake.DATASETS, declared)
    return await _kept(request, principal.project_id, taken, datasets)


async def _kept(request: Request, project_id: str, taken: intake.Taken, library: Any) -> Response:
    settings = request.app.state.settings
    fields = {"name": taken.name, "format": taken.format, "metadata": taken.metadata, "blob": taken.blob}
    row = await change(request, lambda session: library.create(session, settings, project_id, **fields))
    kind = "models" if library is models else "datasets"
    return JSONResponse({"id": row.id}, 201, {"Location": f"/{kind}/{row.id}"})
