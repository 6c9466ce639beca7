"""The addresses of a project."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core import egress, ids
from core.database.clock import db_now, now, timestamp
from core.database.paging import Cut, Page, page
from core.database.serialization import to_json
from core.database.tables import Webhook, WebhookDelivery
from core.errors import MalformedRequest, NotFound, QuotaExceeded, WebhookDisabled
from core.settings import Settings
from core.webhooks import outbox
from modelpress.resources import signatures
from modelpress.resources.webhooks import ENDINGS, MlflowTracker

MOST_WEBHOOKS = 20
"""Of one project."""
ROTATION_SECONDS = 86_400.0
"""How long messages are signed with the former secret as well."""


def create(
    session: Session,
    settings: Settings,
    project_id: str,
    *,
    url: str,
    events: Sequence[str],
    description: str | None = None,
    mlflow: MlflowTracker | None = None,
    credentials: str | None = None,
) -> Webhook:
    """Name an address, or an MLflow server; its `secret` is shown this once. Raises `egress_refused` and `quota_exceeded`."""
    egress.check_url(url, settings.egress)
    if (session.scalar(select(func.count()).where(Webhook.project_id == project_id)) or 0) >= MOST_WEBHOOKS:
        raise QuotaExceeded(f"a project has at most {MOST_WEBHOOKS} webhooks", hint="DELETE those that are not needed")
    webhook = Webhook(
        id=ids.new("whk"),
        project_id=project_id,
        url=url,
        description=description,
        events=sorted(set(events)),
        secret=signatures.new_secret(),
        mlflow=mlflow and mlflow.model_dump(),
        credentials=credentials,
    )
    session.add(webhook)
    session.flush()
    session.refresh(webhook)
    return webhook


def get(session: Session, project_id: str, webhook_id: str, *, lock: bool = False) -> Webhook:
    """One address of the project. Raises `not_found`."""
    statement = select(Webhook).where(Webhook.id == webhook_id, Webhook.project_id == project_id)
    row = session.scalars(statement.with_for_update() if lock else statement).one_or_none()
    if row is None:
        raise NotFound(f"there is no webhook {webhook_id!r} in this project")
    return row


def mlflow_of(webhook: Webhook) -> MlflowTracker | None:
    """How jobs are written to an MLflow server; None for an address that messages are posted to."""
    return None if webhook.mlflow is None else MlflowTracker.model_validate(webhook.mlflow)


def search(session: Session, project_id: str, *, limit: int, after: str | None) -> Page[Webhook]:
    """Addresses of the project, newest first."""
    return page(session, select(Webhook).where(Webhook.project_id == project_id), Webhook.id, Cut(limit, after, [Webhook.url]))


def change(session: Session, settings: Settings, project_id: str, webhook_id: str, changes: dict[str, Any]) -> Webhook:
    """Change `url`, `events`, `description` or `enabled`; what an address missed while it was disabled is not sent afterwards.

    Of an MLflow server also `mlflow` and `credentials`. Raises `not_found`, `egress_refused` and `malformed_request`.
    """
    webhook = get(session, project_id, webhook_id, lock=True)
    if webhook.mlflow is None and (changes.get("mlflow") is not None or changes.get("credentials") is not None):
        raise MalformedRequest(f"{webhook_id} is no MLflow server", hint="POST /v1/webhooks names one")
    if changes.get("mlflow") is not None:
        webhook.mlflow = MlflowTracker.model_validate(changes["mlflow"]).model_dump()
    if "credentials" in changes:
        webhook.credentials = changes["credentials"]
    if changes.get("url") is not None:
        egress.check_url(changes["url"], settings.egress)
        webhook.url = changes["url"]
    if changes.get("events") is not None:
        if webhook.mlflow is not None and not set(changes["events"]) <= set(ENDINGS):
            raise MalformedRequest(f"an MLflow server is told of {', '.join(ENDINGS)} alone")
        webhook.events = sorted(set(changes["events"]))
    if "description" in changes:
        webhook.description = changes["description"]
    if changes.get("enabled") is True:
        webhook.disabled_at = webhook.disabled_reason = None
    elif changes.get("enabled") is False and webhook.disabled_at is None:
        webhook.disabled_at, webhook.disabled_reason = now(session), "disabled by a client"
    session.flush()
    return webhook


def rotate(session: Session, project_id: str, webhook_id: str) -> Webhook:
    """A new secret, shown this once; messages are signed with the former one too for a day. Raises `not_found`."""
    webhook = get(session, project_id, webhook_id, lock=True)
    webhook.previous_secret, webhook.secret = webhook.secret, signatures.new_secret()
    webhook.previous_until = session.execute(select(db_now(ROTATION_SECONDS))).scalar_one()
    session.flush()
    return webhook


def ping(session: Session, project_id: str, webhook_id: str) -> WebhookDelivery:
    """Send a message that tells nothing. Raises `not_found` and `webhook_disabled`."""
    webhook = require_enabled(get(session, project_id, webhook_id))
    body = to_json({"type": outbox.TEST, "timestamp": timestamp(now(session)), "data": {"object": "webhook", "id": webhook.id}})
    delivery = outbox.put(session, webhook.id, ids.new("msg"), outbox.TEST, body)
    session.flush()
    session.refresh(delivery)
    return delivery


def require_enabled(webhook: Webhook) -> Webhook:
    """The address. Raises `webhook_disabled`."""
    if webhook.disabled_at is not None:
        raise WebhookDisabled(f"{webhook.id} is disabled: {webhook.disabled_reason}", hint='PATCH it with {"enabled": true}')
    return webhook


def delete(session: Session, project_id: str, webhook_id: str) -> None:
    """Forget an address, and what was to be sent there. Raises `not_found`."""
    session.delete(get(session, project_id, webhook_id))


def body(webhook: Webhook, *, secret: bool = False) -> dict[str, Any]:
    """The webhook object of the public contract; with its secret where it was made just now."""
    path = f"/v1/webhooks/{webhook.id}"
    return {
        "object": "webhook",
        "id": webhook.id,
        "url": webhook.url,
        "description": webhook.description,
        "events": webhook.events,
        "mlflow": webhook.mlflow,
        "enabled": webhook.disabled_at is None,
        "disabled_at": timestamp(webhook.disabled_at),
        "disabled_reason": webhook.disabled_reason,
        "previous_secret_until": timestamp(webhook.previous_until),
        "created_at": timestamp(webhook.created_at),
        "urls": {"self": path, "deliveries": f"{path}/deliveries", "test": f"{path}/test", "rotate_secret": f"{path}/rotate_secret"},
        **({"secret": webhook.secret} if secret else {}),
    }
