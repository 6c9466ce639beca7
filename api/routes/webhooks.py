"""Webhooks: addresses that a project's news go to, and the log of what was sent there."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from api.deps import DeliveryId, Reading, ReadsWebhooks, TheService, WebhookId, WritesWebhooks, Writing
from api.http import problems
from api.http.fields import fields_of
from api.http.routing import ClosedRoute
from api.http.words import PRINTABLE
from api.routes.jobs import NoFields
from api.schemas.common import After, Limit, page_of
from core.webhooks import deliveries, endpoints
from modelpress.resources.common import Page
from modelpress.resources.webhooks import (
    ENDINGS,
    Delivery,
    DeliveryWithAttempts,
    EventType,
    MlflowTracker,
    Webhook,
    WebhookWithSecret,
)

router = APIRouter(route_class=ClosedRoute, tags=["webhooks"])
URL = r"^https?://[!-~]{1,2000}$"
"""For the documentation; `core.egress` says what is wrong with an address."""
Events = Annotated[list[EventType], Field(min_length=1, max_length=16)]


Credentials = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[!-~]+$")]


class GivenTracker(MlflowTracker):
    """How jobs are written to an MLflow server."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class NewWebhook(BaseModel):
    """Where news go, and which."""

    model_config = ConfigDict(
        extra="forbid", use_attribute_docstrings=True, json_schema_extra={"example": {"url": "https://hooks.example/modelpress"}}
    )

    url: str = Field(max_length=2048, json_schema_extra={"pattern": URL})
    """`https:`, at a public address; redirects are not followed."""
    events: Events = [*ENDINGS]
    description: str | None = Field(None, max_length=200, pattern=PRINTABLE)
    mlflow: GivenTracker | None = None
    """The address is that of an MLflow server: jobs that end are written there as runs, and nothing is posted."""
    credentials: Credentials | None = None
    """What the MLflow server asks for: `user:password`, or a token. Never shown."""

    @model_validator(mode="after")
    def _fits(self) -> "NewWebhook":
        if self.mlflow is None and self.credentials is not None:
            raise ValueError("`credentials` are for an MLflow server: add `mlflow`")
        if self.mlflow is not None and not set(self.events) <= set(ENDINGS):
            raise ValueError(f"an MLflow server is told of {', '.join(ENDINGS)} alone")
        return self

    def given(self) -> dict[str, Any]:
        """The fields, as `core.webhooks.endpoints.create` takes them."""
        return {name: getattr(self, name) for name in type(self).model_fields}


class WebhookChange(BaseModel):
    """What is left out stays as it is."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, json_schema_extra={"example": {"enabled": True}})

    url: str | None = Field(None, max_length=2048, json_schema_extra={"pattern": URL})
    events: Events | None = None
    description: str | None = Field(None, max_length=200, pattern=PRINTABLE)
    """null takes it away."""
    mlflow: GivenTracker | None = None
    """Of an MLflow server, as a whole."""
    credentials: Credentials | None = None
    """Of an MLflow server; null takes them away."""
    enabled: bool | None = None
    """What an address misses while it is disabled is not sent afterwards."""


@router.post(
    "/v1/webhooks",
    operation_id="create_webhook",
    status_code=201,
    response_model=WebhookWithSecret,
    responses=problems.responses(400, 413, 415, 422, 429),
)
def create_webhook(
    session: Writing, principal: WritesWebhooks, service: TheService, wanted: Annotated[NewWebhook, Depends(fields_of(NewWebhook))]
) -> Response:
    """Have news of the project's jobs posted to an address. The answer holds the secret that signs them, this once."""
    webhook = endpoints.create(session, service.settings, principal.project_id, **wanted.given())
    body = endpoints.body(webhook, secret=True)
    return JSONResponse(body, 201, {"Location": body["urls"]["self"]})


@router.get("/v1/webhooks", operation_id="list_webhooks", response_model=Page[Webhook], responses=problems.responses(400, 422))
def list_webhooks(request: Request, session: Reading, principal: ReadsWebhooks, limit: Limit = 20, after: After = None) -> Response:
    """The project's webhooks, newest first."""
    return page_of(request, endpoints.search(session, principal.project_id, limit=limit, after=after), endpoints.body)


@router.get("/v1/webhooks/{webhook_id}", operation_id="get_webhook", response_model=Webhook, responses=problems.responses(404))
def get_webhook(session: Reading, principal: ReadsWebhooks, webhook_id: WebhookId) -> Response:
    """One webhook, without its secret."""
    return JSONResponse(endpoints.body(endpoints.get(session, principal.project_id, webhook_id)))


@router.patch(
    "/v1/webhooks/{webhook_id}",
    operation_id="change_webhook",
    response_model=Webhook,
    responses=problems.responses(400, 404, 413, 415, 422),
)
def change_webhook(
    *,
    session: Writing,
    principal: WritesWebhooks,
    service: TheService,
    webhook_id: WebhookId,
    wanted: Annotated[WebhookChange, Depends(fields_of(WebhookChange))],
) -> Response:
    """Change a webhook, disable it or enable it again."""
    changes = wanted.model_dump(exclude_unset=True)
    return JSONResponse(endpoints.body(endpoints.change(session, service.settings, principal.project_id, webhook_id, changes)))


@router.post(
    "/v1/webhooks/{webhook_id}/rotate_secret",
    operation_id="rotate_webhook_secret",
    response_model=WebhookWithSecret,
    responses=problems.responses(404, 413, 422),
)
def rotate_webhook_secret(session: Writing, principal: WritesWebhooks, fields: NoFields, webhook_id: WebhookId) -> Response:
    """A new secret, shown this once; for a day messages are signed with the former one as well."""
    return JSONResponse(endpoints.body(endpoints.rotate(session, principal.project_id, webhook_id), secret=True))


@router.post(
    "/v1/webhooks/{webhook_id}/test",
    operation_id="test_webhook",
    status_code=202,
    response_model=Delivery,
    responses=problems.responses(404, 409, 413, 422),
)
def test_webhook(session: Writing, principal: WritesWebhooks, fields: NoFields, webhook_id: WebhookId) -> Response:
    """Send a message of the type `webhook.test`."""
    return JSONResponse(deliveries.body(endpoints.ping(session, principal.project_id, webhook_id)), 202)


@router.delete("/v1/webhooks/{webhook_id}", operation_id="delete_webhook", status_code=204, responses=problems.responses(404))
def delete_webhook(session: Writing, principal: WritesWebhooks, webhook_id: WebhookId) -> Response:
    """Forget a webhook, with what was to be sent there and the log of what was."""
    endpoints.delete(session, principal.project_id, webhook_id)
    return Response(status_code=204)


@router.get(
    "/v1/webhooks/{webhook_id}/deliveries",
    operation_id="list_deliveries",
    response_model=Page[Delivery],
    responses=problems.responses(400, 404, 422),
)
def list_deliveries(
    *,
    request: Request,
    session: Reading,
    principal: ReadsWebhooks,
    webhook_id: WebhookId,
    status: Annotated[Literal["pending", "delivered", "failed"] | None, Query(description="Only these.")] = None,
    limit: Limit = 20,
    after: After = None,
) -> Response:
    """What was sent to an address in the last thirty days, or is to be sent, newest first."""
    rows = deliveries.search(session, principal.project_id, webhook_id, status=status, limit=limit, after=after)
    return page_of(request, rows, deliveries.body)


@router.get(
    "/v1/webhooks/{webhook_id}/deliveries/{delivery_id}",
    operation_id="get_delivery",
    response_model=DeliveryWithAttempts,
    responses=problems.responses(404),
)
def get_delivery(session: Reading, principal: ReadsWebhooks, webhook_id: WebhookId, delivery_id: DeliveryId) -> Response:
    """One delivery with its attempts."""
    delivery = deliveries.get(session, principal.project_id, webhook_id, delivery_id)
    attempts = [deliveries.attempt_body(item) for item in deliveries.attempts(session, delivery_id)]
    return JSONResponse({**deliveries.body(delivery), "attempts": attempts})


@router.post(
    "/v1/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver",
    operation_id="redeliver",
    status_code=202,
    response_model=Delivery,
    responses=problems.responses(404, 409, 413, 422),
)
def redeliver(session: Writing, principal: WritesWebhooks, fields: NoFields, webhook_id: WebhookId, delivery_id: DeliveryId) -> Response:
    """Send a message again, under the same id, whatever came of it before."""
    return JSONResponse(deliveries.body(deliveries.redeliver(session, principal.project_id, webhook_id, delivery_id)), 202)
