"""Starts a module of this package in a fresh interpreter that finds the same code as this one."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import engine


def start_python(module: str, *arguments: str, environment: dict[str, str] | None = None, **streams: Any) -> subprocess.Popen[bytes]:
    """Start `python -m module arguments`.

    Args:
        module: Found beside this package, or on PYTHONPATH.
        arguments: Its command line.
        environment: Variables beside those of this process.
        streams: `stdin`, `stdout` and whatever else `subprocess.Popen` takes.
    """
    home = str(Path(engine.__file__).parents[1])
    paths = os.pathsep.join(dict.fromkeys([home, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]))
    # -P and PYTHONSAFEPATH, for it and for what it starts: the working directory holds strangers' files and must not be searched.
    own = {**os.environ, "PYTHONPATH": paths, "PYTHONSAFEPATH": "1", **(environment or {})}
    return subprocess.Popen([sys.executable, "-P", "-m", module, *arguments], env=own, **streams)
