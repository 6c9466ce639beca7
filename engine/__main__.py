"""The engine without a service: `python -m engine run` and `python -m engine inspect`."""

import os
import signal
import sys
from collections.abc import Sequence

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; returns the exit status, see `engine.command_line`."""
    from engine.command_line import main as run

    return run(arguments)


def _end(*_: object) -> None:
    """Ctrl-C needs no traceback, least of all of a library that is being loaded; what is open is closed on the way."""
    sys.exit(INTERRUPTED)


if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as it is in the background of a shell
        signal.signal(signal.SIGINT, _end)
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    sys.exit(main())
