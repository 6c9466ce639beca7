"""The service's HTTP as tests need it, over the published client: one request, one connection, one answer, and nothing is tried again."""

from pathlib import Path
from typing import Any

import httpx

import modelpress
from modelpress import ApiError
from modelpress.resources.jobs import TERMINAL

__all__ = ["TERMINAL", "ApiError", "Client"]


class Client:
    """Calls one service at `base_url`. Raises ApiError for 4xx and 5xx, OSError where nothing answers or an answer is cut off."""

    def __init__(self, base_url: str, api_key: str | None = None) -> None:
        own = httpx.Client(limits=httpx.Limits(max_keepalive_connections=0), trust_env=False)
        self.typed = modelpress.Client(base_url, api_key, retries=0, timeout_seconds=120, http=own)
        self.base_url = self.typed.base_url

    def send(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> httpx.Response:
        """One request."""
        return self.typed.request(method, path, content=body, headers=headers)

    def json(self, method: str, path: str, document: Any = None, headers: dict[str, str] | None = None) -> Any:
        """Send JSON, receive JSON."""
        response = self.typed.request(method, path, document=document, headers=headers)
        return response.json() if response.content else None

    def upload(self, kind: str, file: Path, format: str, metadata: dict[str, Any] | None = None) -> Any:
        """Send a file to `/v1/models` or `/v1/datasets`."""
        made = (self.typed.models if kind == "models" else self.typed.datasets).upload(file, format=format, metadata=metadata)
        return self.json("GET", made.urls["self"])

    def end(self, job_id: str) -> Any:
        """The job once it has ended."""
        self.typed.jobs.wait(job_id)
        return self.json("GET", f"/v1/jobs/{job_id}")

    def download(self, path: str, target: Path) -> None:
        """Save the body of a GET."""
        self.typed.save(path, target)
