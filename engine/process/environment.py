"""What a job child may know of its supervisor's environment: an allow-list, so that no credential is ever on it."""

import os
from collections.abc import Mapping
from pathlib import Path

import engine
from engine.contract import plugins

_NAMES = frozenset({"PATH", "PYTHONPATH", "LANG", "LANGUAGE", "TZ", "LD_LIBRARY_PATH", "CUBLAS_WORKSPACE_CONFIG"})
_PREFIXES = ("LC_", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "CUDA_", "NVIDIA_", "TORCH_", "ATEN_", "DNNL_")


def scrubbed(environment: Mapping[str, str]) -> dict[str, str]:
    """The part of `environment` that finds and tunes libraries."""
    return {name: value for name, value in environment.items() if name in _NAMES or name.startswith(_PREFIXES)}


def of_parent(environment: Mapping[str, str]) -> dict[str, str]:
    """Environment of the parent of job children, readable by them in /proc.

    No library may start a thread when it is imported (NumPy's pool, ONNX Runtime's telemetry, the allocator of pyarrow): it would
    neither survive a fork nor be confined with its process.
    """
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"}
    one_thread["JE_ARROW_MALLOC_CONF"] = "background_thread:false"
    python = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": "1"}
    root = Path(engine.__file__).parent.parent
    if root.name not in ("site-packages", "dist-packages"):  # a source checkout: not on the path by itself
        python["PYTHONPATH"] = os.pathsep.join([str(root), *filter(None, [environment.get("PYTHONPATH")])])
    return {**scrubbed(environment), **plugins.environment(environment), **one_thread, **python}


def of_child(environment: Mapping[str, str], directory: Path, extra: Mapping[str, str]) -> dict[str, str]:
    """Environment of one job child: everything that a library may want to write goes below its own `tmp/`."""
    scratch = str(directory / "tmp")
    places = dict.fromkeys(("TMPDIR", "XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "CUDA_CACHE_PATH"), scratch)
    return {**of_parent(environment), "HOME": str(directory), "USER": "job", "LOGNAME": "job", **places, **extra}
