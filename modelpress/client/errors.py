"""What can go wrong between a program and the service."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pydantic import ValidationError

from modelpress.resources.common import Problem, ProblemDetail

if TYPE_CHECKING:
    import httpx

    from modelpress.resources.jobs import Job


class ModelpressError(Exception):
    """Base of everything that the client raises about the service."""


class ApiError(ModelpressError):
    """The service refused. `code` is stable; `errors` say where, and what to do."""

    def __init__(self, status: int, problem: Problem) -> None:
        self.status = status
        self.problem = problem
        lines = [f"{status} {problem.code}: {problem.detail}", *([f"  {problem.hint}"] if problem.hint else [])]
        lines += [f"  {item.pointer}: {item.detail} {item.hint or ''}".rstrip() for item in problem.errors]
        super().__init__("\n".join(lines))

    @property
    def code(self) -> str:
        """Stable, machine-readable."""
        return self.problem.code

    @property
    def errors(self) -> list[ProblemDetail]:
        """Everything that is wrong with the request, and where."""
        return self.problem.errors

    @classmethod
    def of(cls, response: httpx.Response) -> ApiError:
        """The problem in an answer; one that is made up where something else than the service answered."""
        try:
            problem = Problem.model_validate_json(response.content)
        except ValidationError:
            phrase = response.reason_phrase or "no problem document"
            problem = Problem(
                type="about:blank",
                title=phrase,
                status=max(400, min(599, response.status_code)),
                detail=_shown(response),
                code=phrase.lower().replace(" ", "_"),
                request_id=response.headers.get("x-request-id", ""),
            )
        return cls(response.status_code, problem)


def _shown(response: httpx.Response) -> str:
    """The beginning of an answer that is no problem document."""
    text = response.text[:300].strip()
    try:
        found = json.loads(response.content)
    except ValueError:
        return text or "the answer is empty"
    return str(found.get("detail", text)) if isinstance(found, dict) else text


class ConnectionFailed(ModelpressError, OSError):
    """Nothing answered, also not when it was tried again."""


class UploadInterrupted(ConnectionFailed):
    """The connection failed within an upload in parts: the same call with `upload_id` goes on where it ended."""

    def __init__(self, message: str, upload_id: str) -> None:
        super().__init__(message)
        self.upload_id = upload_id


class TransferError(ModelpressError, OSError):
    """The bytes that arrived are not those that were sent."""


class WaitTimeout(ModelpressError, TimeoutError):
    """The job had not ended in time; it goes on."""


class JobFailed(ModelpressError):
    """The job ended without a result."""

    def __init__(self, job: Job) -> None:
        self.job = job
        error = job.error
        why = f"{error.code}: {error.message} {error.hint or ''}".rstrip() if error is not None else job.status
        super().__init__(f"{job.id} {job.status}" + (f": {why}" if error is not None else ""))
