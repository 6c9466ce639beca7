"""The client: one object a service, with a part for each kind of resource."""

import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from modelpress.client.asynchronous.jobs import AsyncJobs, AsyncTemplates
from modelpress.client.asynchronous.library import AsyncArtifacts, AsyncDatasets, AsyncModels, AsyncUploads
from modelpress.client.asynchronous.transport import AsyncTransport
from modelpress.client.asynchronous.webhooks import AsyncWebhooks
from modelpress.client.wire import DEFAULT_URL, Call, Json


class AsyncClient:
    """Calls one Modelpress service.

    Attributes:
        models, datasets, uploads: What is compressed, and with what.
        jobs, templates: Compressions, and what they are made of.
        artifacts: What they published.
        webhooks: Addresses that news of them go to.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        retries: int = 5,
        timeout_seconds: float = 60.0,
        http: httpx.AsyncClient | None = None,
    ) -> None:
        """Open no connection yet.

        Args:
            base_url: Of the service; by default `MODELPRESS_URL`, or http://127.0.0.1:8000.
            api_key: By default `MODELPRESS_API_KEY`; none where the service asks for none.
            retries: How often a request that may be repeated is sent again after a failure of the connection or of the service.
            timeout_seconds: How long one answer may take.
            http: Connections of the program's own (proxies, certificates); this client adds the address and the key to them.
        """
        url = (base_url or os.environ.get("MODELPRESS_URL") or DEFAULT_URL).rstrip("/")
        key = api_key or os.environ.get("MODELPRESS_API_KEY")
        self._http = http or httpx.AsyncClient()
        self._http.base_url = httpx.URL(url)
        self._http.headers["User-Agent"] = "modelpress-python"
        if key:
            self._http.headers["Authorization"] = f"Bearer {key}"
        self.base_url = url
        self._transport = AsyncTransport(self._http, retries=retries, timeout_seconds=timeout_seconds)
        self.uploads = AsyncUploads(self._transport)
        self.models = AsyncModels(self._transport, self.uploads)
        self.datasets = AsyncDatasets(self._transport, self.uploads)
        self.jobs = AsyncJobs(self._transport)
        self.templates = AsyncTemplates(self._transport, self.jobs)
        self.artifacts = AsyncArtifacts(self._transport)
        self.webhooks = AsyncWebhooks(self._transport)

    async def methods(self) -> list[dict[str, Any]]:
        """What this installation can do, with the schema of every method's parameters."""
        found: list[dict[str, Any]] = (await self._transport.document(Call("GET", "/v1/methods")))["data"]
        return found

    async def ready(self) -> None:
        """Return where the service and all its parts are there. Raises ApiError and ConnectionFailed, at once, where they are not."""
        await self._transport.send(Call("GET", "/readyz"), retries=0)

    async def version(self) -> dict[str, Any]:
        """Versions of the service and of what it runs with."""
        found: dict[str, Any] = await self._transport.document(Call("GET", "/v1/version"))
        return found

    async def usage(self) -> dict[str, Any]:
        """What the project uses of its quotas."""
        found: dict[str, Any] = await self._transport.document(Call("GET", "/v1/usage"))
        return found

    async def request(
        self,
        method: str,
        path: str,
        *,
        document: Json = None,
        content: bytes | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Any request of the API, for what has no method here. It is sent again only where the verb promises that this does no harm.

        Raises ApiError and ConnectionFailed.
        """
        sent = dict(headers or {})
        repeatable = method != "POST" or "Idempotency-Key" in sent
        call = Call.of(method, path, document, params=params or {}, headers=sent, repeatable=repeatable)
        if content is not None:
            call = Call(method, path, params or {}, sent, content, repeatable)
        return await self._transport.send(call)

    async def save(self, path: str, target: str | Path, *, params: Mapping[str, Any] | None = None) -> Path:
        """Save the body of any GET; what was cut off goes on where it ended. Raises ApiError, ConnectionFailed and TransferError."""
        return await self._transport.save(path, Path(target), params=dict(params or {}))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()
