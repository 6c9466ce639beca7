"""Messages are written in the transaction of what they tell, so that there is none of what never happened, and one of all that did."""

from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from core import ids
from core.database import db
from core.database.clock import db_now, timestamp
from core.database.serialization import to_json
from core.database.tables import Job, JsonObject, Webhook, WebhookDelivery
from modelpress.resources.webhooks import MlflowTracker

BELL: Final = "webhooks"
"""What is rung for; `core.service` knows the queue."""
TYPES: Final = ("job.created", "job.started", "job.succeeded", "job.failed", "job.cancelled")
TEST: Final = "webhook.test"
_MOST_MESSAGE_CHARACTERS = 1000


def post(session: Session, job: Job, event: str) -> None:
    """Tell what happened to a job just now, in the transaction in which it does; `event` is the type of its latest event."""
    kind = f"job.{event}"
    if not job.shown or kind not in TYPES:
        return
    wanted = select(Webhook.id, Webhook.events, Webhook.mlflow)
    wanted = wanted.where(Webhook.project_id == job.project_id, Webhook.disabled_at.is_(None))
    webhooks = [row.id for row in session.execute(wanted) if kind in row.events and _takes(row.mlflow, job)]
    if not webhooks:
        return
    message_id = f"msg_{job.id.removeprefix('job_')}{job.event_seq:08d}"
    body = to_json({"type": kind, "timestamp": timestamp(_moment(job)), "data": _data(job)})
    for webhook_id in webhooks:
        put(session, webhook_id, message_id, kind, body, job_id=job.id)


def _takes(mlflow: JsonObject | None, job: Job) -> bool:
    return mlflow is None or MlflowTracker.model_validate(mlflow).wants(job.labels)


def put(session: Session, webhook_id: str, message_id: str, kind: str, body: str, *, job_id: str | None = None) -> WebhookDelivery:
    """One message for one address, due at once."""
    delivery = WebhookDelivery(
        id=ids.new("dlv"),
        webhook_id=webhook_id,
        message_id=message_id,
        type=kind,
        job_id=job_id,
        body=body,
        status="pending",
        attempts_count=0,
        round=0,
        next_attempt_at=db_now(),
    )
    session.add(delivery)
    db.ring(session, BELL)
    return delivery


def _moment(job: Job) -> Any:
    return job.finished_at or job.started_at or job.created_at


def _data(job: Job) -> dict[str, Any]:
    """What a receiver needs to decide whether to ask for more; never longer than a few kilobytes."""
    error = job.error and {name: job.error.get(name) for name in ("code", "category", "retryable")}
    if error and job.error:
        error["message"] = str(job.error.get("message", ""))[:_MOST_MESSAGE_CHARACTERS]
    return {
        "object": "job",
        "id": job.id,
        "name": job.name,
        "status": job.status,
        "outcome": job.outcome,
        "error": error,
        "labels": job.labels,
        "model_id": job.model_id,
        "dataset_id": job.dataset_id,
        "retry_of": job.retry_of,
        "created_at": timestamp(job.created_at),
        "started_at": timestamp(job.started_at),
        "finished_at": timestamp(job.finished_at),
        "urls": {"self": f"/v1/jobs/{job.id}", "report": f"/v1/jobs/{job.id}/report.json", "artifacts": f"/v1/jobs/{job.id}/artifacts"},
    }
