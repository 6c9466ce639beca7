"""The parent's side of `engine.measuring.examiner.server`: starts the process, asks, and turns its death into a sentence."""

import contextlib
import json
import os
import signal
import subprocess
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from engine.contract.errors import EngineError
from engine.process import boot


class Examiner:
    """A fresh process that loads, scores and times published files.

    Requests are answered in order; `ask` returns a function that waits for the answer, so that the caller can go on meanwhile.
    """

    def __init__(self) -> None:
        """Start the process; it imports its libraries while the caller goes on."""
        self._process = subprocess.Popen(
            boot.command("engine.measuring.examiner.server", str(os.getpid())), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._waiting: deque[_Answer] = deque()

    def ask(self, do: str, **request: Any) -> Callable[[], Any]:
        """Send a request. The returned function waits for the answer and gives it, or raises the EngineError that happened there."""
        answer = _Answer(do)
        self._waiting.append(answer)
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the death is told when the answer is read
            self._process.stdin.write(json.dumps({"do": do, **request}, default=str).encode() + b"\n")
            self._process.stdin.flush()
        return lambda: self._wait(answer)

    def _wait(self, wanted: "_Answer") -> Any:
        assert self._process.stdout is not None
        while not wanted.given:
            line = self._process.stdout.readline()
            if not line:
                raise self._death(self._waiting[0].do)
            answer = self._waiting.popleft()
            answer.given, answer.body = True, json.loads(line)
        if "error" in wanted.body:
            error = wanted.body["error"]
            raise EngineError(error.pop("code"), error.pop("message"), **error)
        return wanted.body["result"]

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
        """End the process, at once where the caller failed."""
        if kind is not None:
            self._process.kill()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class _Answer:
    """A place for one answer."""

    def __init__(self, do: str) -> None:
        self.do = do
        self.given = False
        self.body: dict[str, Any] = {}
