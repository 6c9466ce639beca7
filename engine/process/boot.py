"""`python -P …/engine/process/boot.py MODULE ARGUMENT…`: runs a module of this engine in a fresh interpreter.

The interpreter of a confined job may read the engine's own folder and not the one above it, in which a source checkout may hold anything:
so the package is loaded from where it lies, and no folder is searched for it.
"""

import importlib.util
import runpy
import sys
from pathlib import Path


def command(module: str, *arguments: str) -> list[str]:
    """The command that runs `module` so."""
    # -P: the working directory holds strangers' files and must not be searched for modules.
    return [sys.executable, "-P", __file__, module, *arguments]


def main() -> None:
    """Load the package, then become the module."""
    folder = Path(__file__).resolve().parents[1]
    spec = importlib.util.spec_from_file_location("engine", folder / "__init__.py", submodule_search_locations=[str(folder)])
    assert spec is not None
    assert spec.loader is not None
    sys.modules["engine"] = package = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
