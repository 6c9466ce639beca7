"""An interpreter that can import the standard library, numpy, onnxruntime and `modelpress`, and nothing else that is installed here."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import modelpress

ALLOWED = ("numpy", "onnxruntime")


def run_alone(code: str, folder: Path, *arguments: object) -> str:
    """What a script prints that runs with the packages `ALLOWED` and what they require; it fails the test where it fails."""
    packages = folder / "only_packages"
    if not packages.exists():
        packages.mkdir(parents=True)
        for distribution in _required():
            _link(distribution, packages)
        (packages / "modelpress").symlink_to(Path(modelpress.__file__).parent, target_is_directory=True)
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(packages), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    # -S: no site-packages; what the interpreter has of its own is the standard library.
    command = [sys.executable, "-S", "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _required() -> set[str]:
    found: set[str] = set()
    waiting = list(ALLOWED)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            requires = importlib.metadata.distribution(name).requires or ()
            waiting += [_name_of(item) for item in requires if "extra ==" not in item]
    return found


def _name_of(requirement: str) -> str:
    for place, letter in enumerate(requirement):
        if not (letter.isalnum() or letter in "-_."):
            return requirement[:place]
    return requirement


def _link(distribution: str, packages: Path) -> None:
    found = importlib.metadata.distribution(distribution)
    tops = {file.parts[0] for file in found.files or () if file.parts[0] not in ("..", "__pycache__")}
    for top in tops:
        if not (packages / top).exists():
            (packages / top).symlink_to(Path(str(found.locate_file(top))))
