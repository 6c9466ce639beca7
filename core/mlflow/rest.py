"""Requests to an MLflow server (REST API 2.0)."""

import base64
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from pydantic import BaseModel, ConfigDict, ValidationError

from core import egress
from core.egress import EgressFailed, Policy

_MOST_ANSWER_BYTES = 16 * 2**20
_CALL_SECONDS = 30.0
_API = "api/2.0/mlflow"
SERVED = "mlflow-artifacts:"
"""How the URI of an artifact begins that the server serves itself."""
_FILES = "api/2.0/mlflow-artifacts/artifacts"


class Answered(BaseModel):
    """Base of what a server answers: open to whatever else it holds."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Nothing(Answered):
    """An answer that is of no interest."""


class MlflowRefused(EgressFailed):
    """The server answered with an error."""

    def __init__(self, status_code: int, error_code: str, message: str) -> None:
        super().__init__(f"MLflow answered {status_code} {error_code}: {message}"[:300], hint="see the MLflow server's log")
        self.status_code = status_code
        self.error_code = error_code


class Stopped(EgressFailed):
    """Whoever asked has to end: another one goes on where this one stopped."""


@dataclass(frozen=True)
class Server:
    """Where it is, and what it asks for: `user:password`, or a token."""

    url: str
    credentials: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        """What identifies this service there."""
        if not self.credentials:
            return {}
        if ":" in self.credentials:
            return {"Authorization": f"Basic {base64.b64encode(self.credentials.encode()).decode()}"}
        return {"Authorization": f"Bearer {self.credentials}"}

    def file_url(self, path: str) -> str:
        """Where the server serves an artifact, by its path below the root of its artifacts."""
        return f"{self.url.rstrip('/')}/{_FILES}/{quote(path)}"


Answer = TypeVar("Answer", bound=Answered)


class Rest:
    """One conversation, which ends after `seconds`, or as soon as `stopped` says so."""

    def __init__(self, server: Server, policy: Policy, *, seconds: float, stopped: Callable[[], bool] = lambda: False) -> None:
        self._server = server
        self._policy = policy
        self._deadline = time.monotonic() + seconds
        self._stopped = stopped

    def get(self, model: type[Answer], path: str, /, **fields: str) -> Answer:
        """Ask for something. Raises MlflowRefused, `egress_failed` and `egress_refused`, as every method here."""
        return self._call(model, "GET", f"{_API}/{path}?{urlencode(fields)}", b"", {})

    def files(self, model: type[Answer], folder: str) -> Answer:
        """What lies in a folder below the root of the server's artifacts."""
        return self._call(model, "GET", f"{_FILES}?{urlencode({'path': folder})}", b"", {})

    def post(self, model: type[Answer], path: str, /, **fields: Any) -> Answer:
        """Have something made or changed."""
        return self._call(model, "POST", f"{_API}/{path}", json.dumps(fields).encode(), {"Content-Type": "application/json"})

    def put_file(self, path: str, size_bytes: int, content: Iterable[bytes]) -> None:
        """Store an artifact under its path below the root of the server's artifacts."""
        headers = {"Content-Length": str(size_bytes), "Content-Type": "application/octet-stream"}
        self._exchange("PUT", self._server.file_url(path), self._until_stopped(content), headers, self._left())

    def _call(self, model: type[Answer], method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        url = f"{self._server.url.rstrip('/')}/{path}"
        content = self._exchange(method, url, body, headers, min(_CALL_SECONDS, self._left()))
        try:
            return model.model_validate_json(content)
        except ValidationError as error:
            raise EgressFailed("the server does not answer as MLflow does", hint="check the address of the MLflow server") from error

    def _exchange(self, method: str, url: str, body: bytes | Iterable[bytes], headers: Mapping[str, str], seconds: float) -> bytes:
        given = {**self._server.headers, **headers}
        with egress.request(
            method, url, policy=self._policy, limit_bytes=_MOST_ANSWER_BYTES, seconds=seconds, headers=given, body=body
        ) as answer:
            content = answer.read()
            if answer.status == 200:
                return content
            raise _refusal(answer.status, content)

    def _left(self) -> float:
        if self._stopped():
            raise Stopped("this process has to end", hint="another one goes on")
        return max(1.0, self._deadline - time.monotonic())

    def _until_stopped(self, content: Iterable[bytes]) -> Iterable[bytes]:
        for part in content:
            self._left()
            yield part


def artifact_path(artifact_uri: str) -> str:
    """Where artifacts lie below the root of the server's: the URI may hold the server's name."""
    path = artifact_uri.removeprefix(SERVED)
    return path[2:].partition("/")[2] if path.startswith("//") else path.strip("/")


class _Error(Answered):
    error_code: str = ""
    message: str = ""


def _refusal(status_code: int, content: bytes) -> MlflowRefused:
    try:
        error = _Error.model_validate_json(content)
    except ValidationError:
        error = _Error(message=content[:200].decode(errors="replace"))
    return MlflowRefused(status_code, error.error_code, error.message)
