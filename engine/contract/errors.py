"""The one error of a job, from where it happens to the client: raised as `EngineError`, passed on and stored as `JobError`."""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict

Category = Literal["user", "resource", "transient", "internal"]


class JobError(BaseModel):
    """Why a job failed; `category` is `user`, `resource`, `transient` or `internal`."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    code: str
    category: Category
    message: str
    hint: str | None = None
    retryable: bool = False
    step_index: int | None = None
    details: dict[str, Any] = {}


class EngineError(Exception):
    """What was wrong, where, and what to do about it, under a stable `code`."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        hint: str | None = None,
        category: Category = "user",
        retryable: bool = False,
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.category: Category = category
        self.retryable = retryable
        self.details = details or {}

    def described(self, step_index: int | None = None) -> JobError:
        """The error as it crosses a process border and is stored."""
        return JobError(
            code=self.code,
            category=self.category,
            message=self.message,
            hint=self.hint,
            retryable=self.retryable,
            step_index=step_index,
            details=self.details,
        )

    @classmethod
    def of(cls, error: JobError) -> Self:
        """The exception that `described` described in another process."""
        return cls(
            error.code,
            error.message,
            hint=error.hint,
            category=error.category,
            retryable=error.retryable,
            details=error.details,
        )
