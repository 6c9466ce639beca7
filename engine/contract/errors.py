"""The one error of a job, from where it happens to the client: raised as `EngineError`, passed on and stored as `JobError`."""

import errno
import os
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict

Details = dict[str, Any]
"""What a program may want to know beside a sentence, as JSON types."""
Category = Literal["user", "resource", "transient", "internal"]


class JobError(BaseModel):
    """Why a job failed; `category` is `user`, `resource`, `transient` or `internal`."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    code: str
    category: Category
    message: str
    hint: str | None
    retryable: bool
    step_index: int | None
    details: Details

    @classmethod
    def of(
        cls,
        code: str,
        category: Category,
        message: str,
        *,
        hint: str | None = None,
        retryable: bool = False,
        step_index: int | None = None,
        details: Details | None = None,
    ) -> Self:
        """An error; what is not given stays empty."""
        return cls(
            code=code,
            category=category,
            message=message,
            hint=hint,
            retryable=retryable,
            step_index=step_index,
            details=details or {},
        )


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
        details: Details | None = None,
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


PAST_THE_END = "Are the dataset's tokens those of the network's own tokenizer? Its tables have a row for each token."


def translate(error: Exception) -> EngineError:
    """Any exception as an error of the engine: memory, disk, or a defect of ours."""
    if isinstance(error, EngineError):
        return error
    text = str(error)
    # torch reports exhausted memory as a RuntimeError, CUDA's as a subclass of it.
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in text or "out of memory" in text.lower() or "bad_alloc" in text:
        return EngineError(
            "out_of_memory",
            "The job needed more memory than it may use.",
            hint="Lower batch_size, or raise limits.memory_bytes.",
            category="resource",
        )
    # Libraries in C++ and Rust, such as safetensors, have errors of their own for it, with the system's sentence in them.
    numbers = (errno.ENOSPC, errno.EDQUOT)
    if (isinstance(error, OSError) and error.errno in numbers) or any(os.strerror(number) in text for number in numbers):
        return EngineError(
            "out_of_disk", "The disk is full.", hint="Free space on the worker, then retry.", category="resource", retryable=True
        )
    if isinstance(error, IndexError) and "index out of range in self" in text:  # torch's words for a number that its tables do not have
        return EngineError(
            "dataset_invalid", "A number in the dataset is past the end of the table that the network picks from.", hint=PAST_THE_END
        )
    return EngineError(
        "internal_error", f"{type(error).__name__}: {text[:500]}", hint="The job's log has the details.", category="internal"
    )
