"""The parent's side of `engine.measuring.examiner.server`: starts the process, asks, and turns its death into a sentence."""

import contextlib
import os
import signal
import subprocess
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Generic, Self, TypeVar

from pydantic import TypeAdapter

from engine.contract.errors import EngineError
from engine.contract.figures import Timing
from engine.measuring.examiner import messages
from engine.measuring.examiner.messages import Answer, Counted, Difference, Request, Score, TensorDigest
from engine.process.python import start_python

T = TypeVar("T")
Waiting = Callable[[], T]
"""Waits for an answer and returns it, or raises the EngineError that happened there."""


class Examiner:
    """A fresh process that loads, scores and times published files.

    Requests are answered in order. Each returns a function that waits for the answer, so that the caller can go on meanwhile.
    """

    def __init__(self) -> None:
        """Start the process; it imports its libraries while the caller goes on."""
        self._process = start_python("engine.measuring.examiner.server", str(os.getpid()), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._waiting: deque[_Asked[object]] = deque()
        self._answered = 0

    def score(self, request: messages.ScoreRequest) -> Waiting[Score]:
        """Metrics of one file."""
        return self._ask(request, messages.SCORE)

    def time(self, request: messages.TimingRequest) -> Waiting[tuple[Timing, ...]]:
        """Speed of two files."""
        return self._ask(request, messages.TIMINGS)

    def count(self, request: messages.CountRequest) -> Waiting[Counted]:
        """What one file computes for the examples."""
        return self._ask(request, messages.COUNTED)

    def compare(self, request: messages.CompareRequest) -> Waiting[Difference]:
        """How far a file is from stored outputs."""
        return self._ask(request, messages.DIFFERENCE)

    def profile(self, request: messages.ProfileRequest) -> Waiting[dict[str, float]]:
        """Which nodes of a file take its time."""
        return self._ask(request, messages.SHARES)

    def digest(self, request: messages.DigestRequest) -> Waiting[dict[str, TensorDigest]]:
        """Digests of the tensors of a file."""
        return self._ask(request, messages.DIGESTS)

    def _ask(self, request: Request, answers: TypeAdapter[T]) -> Waiting[T]:
        asked = _Asked[T](request.do)
        self._waiting.append(asked)  # type: ignore[arg-type]  # the queue reads only what all have in common
        self._write(request)
        return lambda: answers.validate_python(self._wait(asked).found)

    def _write(self, message: Request | messages.Waits) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # reading the answer raises the reason
            self._process.stdin.write(message.model_dump_json().encode() + b"\n")
            self._process.stdin.flush()

    def _wait(self, wanted: "_Asked[T]") -> Answer:
        assert self._process.stdout is not None
        while wanted.answer is None:
            self._write(messages.Waits(answered=self._answered))
            line = self._process.stdout.readline()
            if not line:
                raise self._death(self._waiting[0].do)
            self._answered += 1
            self._waiting.popleft().answer = Answer.model_validate_json(line)
        if wanted.answer.error is not None:
            raise EngineError.of(wanted.answer.error)
        return wanted.answer

    def _death(self, do: str) -> EngineError:
        status = self._process.wait()
        if status == -signal.SIGKILL:
            return EngineError(
                "child_killed",
                f"The process that checks published files was ended from outside with SIGKILL ({do}).",
                hint="Where the machine ran out of memory: lower evaluation.batch_size, or raise limits.memory_bytes.",
                category="transient",
                retryable=True,
            )
        how = f"signal {-status}" if status < 0 else f"status {status}"
        return EngineError(
            "runtime_crashed",
            f"ONNX Runtime crashed on a file of this job ({do}, {how}).",
            category="internal",
            details={"signal": -status} if status < 0 else {},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End the process: what it wrote is written, and to give its memory back by itself takes long."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.kill()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


class _Asked(Generic[T]):
    """A request that was sent, and a place for its answer."""

    def __init__(self, do: str) -> None:
        self.do = do
        self.answer: Answer | None = None
