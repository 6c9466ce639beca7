"""The engine without a service: `python -m engine run` and `python -m engine inspect`."""

import os
import shutil
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; returns the exit status, see `engine.command_line`."""
    from engine.command_line import main as run

    return run(arguments)


def _end(*_: object) -> None:
    """End at once and without a traceback. An exception would not do: a library that is being loaded makes an error of its own of it."""
    scratch = getattr(sys.modules.get("engine.command_line"), "SCRATCH", ())
    for directory in tuple(scratch):
        shutil.rmtree(directory, ignore_errors=True)
    with suppress(Exception):  # it may have been about to write
        sys.stdout.flush()
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as it is in the background of a shell
        signal.signal(signal.SIGINT, _end)
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    sys.exit(main())
