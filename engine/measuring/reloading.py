"""Reads a published file as a stranger's upload and writes it as ONNX: `python -m engine.measuring.reloading FORMAT FILE TARGET WORK PARENT`.

A process of its own, which has never seen the network in memory. Its one line on standard output is an `Answer`; what it found is the
signature of the network that was read (`Signature.to_json`). `Reloading` is the other side.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from engine.contract.errors import EngineError, translate
from engine.contract.metadata import ModelMetadata
from engine.measuring.examiner.messages import Answer
from engine.networks.network import Signature
from engine.process.linux import die_with_parent
from engine.process.python import start_python


class Reloading:
    """A process that reads one file; `signature` waits for it."""

    def __init__(self, format: str, file: Path, target: Path, work: Path) -> None:
        """Start to read the file and to write it to `target` as ONNX."""
        work.mkdir(parents=True, exist_ok=True)
        self._format = format
        arguments = (format, str(file), str(target), str(work), str(os.getpid()))
        self._process = start_python("engine.measuring.reloading", *arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)

    def signature(self) -> Signature:
        """Of the network that was read. Raises what was wrong with the file, `runtime_crashed`."""
        line, _ = self._process.communicate()
        if self._process.returncode or not line:
            raise EngineError(
                "runtime_crashed",
                f"The process that reads the {self._format} file again ended with status {self._process.returncode}.",
                category="internal",
            )
        answer = Answer.model_validate_json(line)
        if answer.error is not None:
            raise EngineError.of(answer.error)
        return Signature.from_json(answer.found)

    def close(self) -> None:
        """End the process, if it still runs."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def main() -> None:
    """Answer for one file. Stray prints of libraries go to standard error."""
    format, file, target, work = sys.argv[1], *map(Path, sys.argv[2:5])
    if sys.platform == "linux":
        die_with_parent(int(sys.argv[5]), signal.SIGKILL)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        import torch

        from engine.formats.loading import load_network

        torch.set_num_threads(1)
        network = load_network(file, format, ModelMetadata(), work)
        network.write_onnx(target)
        answer = Answer(found=network.signature.to_json())
    except Exception as error:
        answer = Answer(error=translate(error).described())
    print(answer.model_dump_json(), file=answers, flush=True)


if __name__ == "__main__":
    main()
