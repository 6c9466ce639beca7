"""`python -P …/engine/process/boot.py MODULE ARGUMENT…`: runs a module of this engine in a fresh interpreter.

The interpreter of a confined job may read the folders of these packages and not the one above them, in which a source checkout may hold
anything: so each is loaded from where it lies, and no folder is searched for it.
"""

import importlib.util
import runpy
import signal
import sys
from pathlib import Path


def command(module: str, *arguments: str) -> list[str]:
    """The command that runs `module` so."""
    # -P: the working directory holds strangers' files and must not be searched for modules.
    return [sys.executable, "-P", __file__, module, *arguments]


def packages() -> tuple[Path, Path]:
    """Folders of the packages that a job's code is made of: the engine, and the runtime that reads what it writes."""
    root = Path(__file__).resolve().parents[2]
    return root / "engine", root / "modelpress"


def main() -> None:
    """Load the packages, then become the module. Ctrl-C is for whoever started it, with whom it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for folder in packages():
        spec = importlib.util.spec_from_file_location(folder.name, folder / "__init__.py", submodule_search_locations=[str(folder)])
        assert spec is not None
        assert spec.loader is not None
        sys.modules[folder.name] = package = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(package)
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
