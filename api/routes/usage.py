"""What a project uses, and what it may use."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from api.deps import IsAdmin, Reading, Writing
from api.http import problems
from api.http.fields import fields_of
from api.http.routing import ClosedRoute
from api.http.words import NO_TRUTH
from core.access import quotas
from core.access.keys import Principal
from modelpress.resources.common import Resource

router = APIRouter(route_class=ClosedRoute, tags=["service"])


Count = Annotated[int, Field(ge=0, lt=2**63), NO_TRUTH]


class Quota(Resource):
    """One quota; `limit` is null where there is none."""

    used: float
    limit: float | None


class Usage(Resource):
    """What the key's project uses."""

    object: Literal["usage"]
    project: str
    quotas: dict[str, Quota]
    """`stored_bytes` (unfinished uploads included), `models`, `queued_jobs`, `running_jobs`, `compute_seconds`."""
    compute_window_seconds: int
    """How far back `compute_seconds` reaches."""


class NewQuotas(BaseModel):
    """Quotas to change; null lifts one, and what is left out stays as it is."""

    model_config = ConfigDict(
        extra="forbid", use_attribute_docstrings=True, json_schema_extra={"example": {"stored_bytes": 10_000_000_000}}
    )

    stored_bytes: Count | None = None
    """Models, datasets, artifacts and uploads, those that are not finished included."""
    models: Count | None = None
    queued_jobs: Count | None = None
    running_jobs: Count | None = None
    compute_seconds: Annotated[float, Field(ge=0), NO_TRUTH] | None = None
    """Time that jobs ran in the last thirty days."""


@router.get("/v1/usage", operation_id="get_usage", response_model=Usage)
def get_usage(request: Request, session: Reading) -> Response:
    """What the key's project uses of its quotas."""
    asking: Principal = request.state.principal
    return JSONResponse(quotas.usage(session, asking.project_id))


@router.patch("/v1/quotas", operation_id="change_quotas", response_model=Usage, responses=problems.responses(400, 413, 415, 422))
def change_quotas(session: Writing, principal: IsAdmin, wanted: Annotated[NewQuotas, Depends(fields_of(NewQuotas))]) -> Response:
    """Change the quotas of the key's own project. What is above a new limit stays; nothing is added to it."""
    quotas.change(session, principal.project_id, **wanted.model_dump(exclude_unset=True))
    return JSONResponse(quotas.usage(session, principal.project_id))
