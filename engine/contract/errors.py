"""The one error that the engine raises on purpose; it crosses the process border as a `failed` event."""

from typing import Any, Literal

Category = Literal["user", "resource", "transient", "internal"]


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
