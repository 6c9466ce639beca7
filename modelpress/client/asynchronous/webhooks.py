"""Webhooks: addresses that news of jobs go to."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from modelpress.client.asynchronous.transport import AsyncTransport
from modelpress.client.wire import Call
from modelpress.resources.webhooks import Delivery, DeliveryWithAttempts, EventType, MlflowTracker, Webhook, WebhookWithSecret


class AsyncWebhooks:
    """Webhooks of the project. A receiver checks what comes with `modelpress.verify_webhook`."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def create(
        self,
        url: str,
        *,
        events: Sequence[EventType] = (),
        description: str | None = None,
        mlflow: MlflowTracker | None = None,
        credentials: str | None = None,
    ) -> WebhookWithSecret:
        """Have news posted to an address; without `events`, how jobs end. The secret is shown this once.

        With `mlflow` the address is that of an MLflow server, which asks for `credentials` (`user:password`, or a token), and jobs
        become runs there.
        """
        body: dict[str, Any] = {"url": url, "description": description} | ({"events": [*events]} if events else {})
        if mlflow is not None:
            body |= {"mlflow": mlflow.model_dump(), "credentials": credentials}
        return await self._transport.fetch(WebhookWithSecret, Call.of("POST", "/v1/webhooks", body, repeatable=False))

    async def get(self, webhook_id: str) -> Webhook:
        """One webhook."""
        return await self._transport.fetch(Webhook, Call("GET", f"/v1/webhooks/{webhook_id}"))

    def list(self) -> AsyncIterator[Webhook]:
        """Those of the project, newest first."""
        return self._transport.every(Webhook, Call("GET", "/v1/webhooks", {"limit": 100}))

    async def change(self, webhook_id: str, **changes: Any) -> Webhook:
        """Change `url`, `events`, `description` or `enabled`."""
        return await self._transport.fetch(Webhook, Call.of("PATCH", f"/v1/webhooks/{webhook_id}", changes))

    async def rotate_secret(self, webhook_id: str) -> WebhookWithSecret:
        """A new secret; for a day messages are signed with the former one as well."""
        return await self._transport.fetch(WebhookWithSecret, Call("POST", f"/v1/webhooks/{webhook_id}/rotate_secret", repeatable=False))

    async def test(self, webhook_id: str) -> Delivery:
        """Send a message that tells nothing."""
        return await self._transport.fetch(Delivery, Call("POST", f"/v1/webhooks/{webhook_id}/test"))

    def deliveries(self, webhook_id: str, *, status: str | None = None) -> AsyncIterator[Delivery]:
        """What was sent there in thirty days, or is to be sent, newest first."""
        return self._transport.every(Delivery, Call("GET", f"/v1/webhooks/{webhook_id}/deliveries", {"status": status, "limit": 100}))

    async def delivery(self, webhook_id: str, delivery_id: str) -> DeliveryWithAttempts:
        """One delivery with its attempts."""
        return await self._transport.fetch(DeliveryWithAttempts, Call("GET", f"/v1/webhooks/{webhook_id}/deliveries/{delivery_id}"))

    async def redeliver(self, webhook_id: str, delivery_id: str) -> Delivery:
        """Send a message again, under the same id."""
        return await self._transport.fetch(Delivery, Call("POST", f"/v1/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver"))

    async def delete(self, webhook_id: str) -> None:
        """Forget a webhook, with its log."""
        await self._transport.remove(f"/v1/webhooks/{webhook_id}")
