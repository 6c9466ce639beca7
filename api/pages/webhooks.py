"""Webhooks for people: addresses that news go to, what was sent there, and sending it again."""

from functools import partial

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from api.deps import DeliveryId, ReadsWebhooks, TheService, WebhookId, WritesWebhooks
from api.http.routing import ClosedRoute
from api.http.validation import checked
from api.pages.change import change
from api.pages.forms import Sent
from api.pages.rendering import Content, View, framed, render, show
from api.routes.webhooks import NewWebhook
from api.schemas.common import After
from core.database.db import Session
from core.errors import MalformedRequest
from core.webhooks import deliveries, endpoints, outbox

router = APIRouter(route_class=ClosedRoute, include_in_schema=False)
MOST_SHOWN, PAGE = 100, 30
_MOST_CHARACTERS = 200


@router.get("/webhooks")
async def webhooks_page(request: Request, principal: ReadsWebhooks) -> Response:
    """The addresses."""
    return await show(request, principal, _list)


def _list(view: View) -> Content:
    found = endpoints.search(view.session, view.project_id, limit=MOST_SHOWN, after=None)
    return view.page("webhooks.html", "Webhooks", "webhooks", rows=found.data, types=list(outbox.TYPES))


@router.get("/webhooks/{webhook_id}")
async def webhook_page(request: Request, principal: ReadsWebhooks, webhook_id: WebhookId, after: After = None) -> Response:
    """One address with the log of what was sent there."""
    return await show(request, principal, partial(_webhook, webhook_id=webhook_id, after=after))


def _webhook(view: View, *, webhook_id: str, after: str | None) -> Content:
    webhook = endpoints.get(view.session, view.project_id, webhook_id)
    found = deliveries.search(view.session, view.project_id, webhook_id, status=None, limit=PAGE, after=after)
    return view.page("webhook.html", "Webhook", "webhooks", webhook=webhook, rows=found.data, following=found.next_cursor)


@router.get("/webhooks/{webhook_id}/{delivery_id}")
async def delivery_page(request: Request, principal: ReadsWebhooks, webhook_id: WebhookId, delivery_id: DeliveryId) -> Response:
    """One message with its attempts."""
    return await show(request, principal, partial(_delivery, webhook_id=webhook_id, delivery_id=delivery_id))


def _delivery(view: View, *, webhook_id: str, delivery_id: str) -> Content:
    delivery = deliveries.get(view.session, view.project_id, webhook_id, delivery_id)
    return view.page(
        "delivery.html",
        "Delivery",
        "webhooks",
        delivery=delivery,
        webhook=endpoints.get(view.session, view.project_id, webhook_id),
        attempts=deliveries.attempts(view.session, delivery_id),
    )


@router.post("/webhooks")
async def create_webhook(request: Request, principal: WritesWebhooks, form: Sent, service: TheService) -> Response:
    """A new address; its secret is shown on this page and never again."""
    url, description = form.text("url"), form.text("description")[:_MOST_CHARACTERS]
    events = [name for name in form.get("event", []) if name in outbox.TYPES]
    if not events:
        raise MalformedRequest("a webhook needs an event", hint="choose which news are sent")

    fields: dict[str, object] = {"url": url, "events": events, "description": description or None}
    if experiment := form.text("experiment"):
        fields |= {"mlflow": {"experiment": experiment}, "credentials": form.text("credentials") or None}
    wanted = checked(NewWebhook, fields, MalformedRequest)

    def make(session: Session) -> str:
        return endpoints.create(session, service.settings, principal.project_id, **wanted.given()).secret

    secret = await change(request, make)
    return RedirectResponse("/webhooks", 303) if wanted.mlflow else _secret(request, url, secret)


@router.post("/webhooks/{webhook_id}/rotate")
async def rotate(request: Request, principal: WritesWebhooks, form: Sent, webhook_id: WebhookId) -> Response:
    """Another secret; the former one signs too for a day."""

    def make(session: Session) -> tuple[str, str]:
        webhook = endpoints.rotate(session, principal.project_id, webhook_id)
        return webhook.url, webhook.secret

    return _secret(request, *await change(request, make))


def _secret(request: Request, url: str, secret: str) -> Response:
    return framed(request, Content("Secret of the webhook", render("secret.html", url=url, secret=secret), "webhooks"))


@router.post("/webhooks/{webhook_id}/enabled")
async def enable(request: Request, principal: WritesWebhooks, form: Sent, service: TheService, webhook_id: WebhookId) -> Response:
    """Send there again, or not any more."""
    changes = {"enabled": form.text("enabled") == "true"}
    await change(request, lambda session: endpoints.change(session, service.settings, principal.project_id, webhook_id, changes))
    return RedirectResponse(f"/webhooks/{webhook_id}", 303)


@router.post("/webhooks/{webhook_id}/test")
async def test(request: Request, principal: WritesWebhooks, form: Sent, webhook_id: WebhookId) -> Response:
    """Send a message that tells nothing."""
    await change(request, lambda session: endpoints.ping(session, principal.project_id, webhook_id))
    return RedirectResponse(f"/webhooks/{webhook_id}", 303)


@router.post("/webhooks/{webhook_id}/delete")
async def delete(request: Request, principal: WritesWebhooks, form: Sent, webhook_id: WebhookId) -> Response:
    """Forget the address."""
    await change(request, lambda session: endpoints.delete(session, principal.project_id, webhook_id))
    return RedirectResponse("/webhooks", 303)


@router.post("/webhooks/{webhook_id}/{delivery_id}/redeliver")
async def redeliver(request: Request, principal: WritesWebhooks, form: Sent, webhook_id: WebhookId, delivery_id: DeliveryId) -> Response:
    """Send a message once more, under its id."""
    await change(request, lambda session: deliveries.redeliver(session, principal.project_id, webhook_id, delivery_id))
    return RedirectResponse(f"/webhooks/{webhook_id}/{delivery_id}", 303)
