"""Starts a module of this package in a fresh interpreter that finds the same code as this one."""

import os
import subprocess
from typing import Any

from engine.process import boot


def start_python(module: str, *arguments: str, environment: dict[str, str] | None = None, **streams: Any) -> subprocess.Popen[bytes]:
    """Start `python -m module arguments`, by way of `engine.process.boot`.

    Args:
        module: Of this package.
        arguments: Its command line.
        environment: Variables beside those of this process.
        streams: `stdin`, `stdout` and whatever else `subprocess.Popen` takes.
    """
    # -P and PYTHONSAFEPATH, for it and for what it starts: the working directory holds strangers' files and must not be searched.
    own = {**os.environ, "PYTHONSAFEPATH": "1", **(environment or {})}
    return subprocess.Popen(boot.command(module, *arguments), env=own, **streams)
