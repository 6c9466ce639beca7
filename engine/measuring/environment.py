"""What the figures were measured on: processor, runtimes, versions. Imports neither torch nor onnxruntime."""

import functools
import importlib.metadata
import os
import platform
from pathlib import Path

import engine
from engine.contract.report import Environment

_SHOWN_FLAGS = ("avx", "avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimd", "asimddp", "i8mm", "sve")
_SHOWN_PACKAGES = ("torch", "onnx", "onnxruntime", "numpy", "safetensors")


@functools.cache
def _processor() -> tuple[str, frozenset[str]]:
    """Name and feature flags of the processor, as the kernel lists them; no flags where it lists none."""
    name, flags = platform.processor() or platform.machine(), frozenset[str]()
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return name, flags
    for line in lines:
        key, _, value = (part.strip() for part in line.partition(":"))
        if key == "model name" and value:
            name = value
        elif key in ("flags", "Features"):
            return name, frozenset(value.split())
    return name, flags


def has_safe_int8() -> bool:
    """Whether 8-bit kernels of this processor add up products without saturation.

    x86 without VNNI (or AMX) multiplies unsigned by signed bytes into 16 bits (`vpmaddubsw`), where two products of full-range
    weights overflow: about 7 points of accuracy were lost on a ResNet-18. ARM's kernels widen first.
    """
    if platform.machine().lower() not in ("x86_64", "amd64", "i386", "i686"):
        return True
    return bool(_processor()[1] & {"avx512_vnni", "avx_vnni", "amx_int8"})


def package_version(name: str) -> str | None:
    """Version of an installed package without importing it; None where it is absent."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def runtime_name() -> str:
    """The runtime that measures published files, as it stands in every latency figure."""
    return f"onnxruntime {package_version('onnxruntime')} CPUExecutionProvider"


def describe(*, threads: int, seed: int, device: str) -> Environment:
    """The environment block of the report."""
    name, flags = _processor()
    return Environment(
        engine_version=engine.__version__,
        cpu_model=name,
        cpu_count=os.cpu_count(),
        cpu_flags=tuple(flag for flag in _SHOWN_FLAGS if flag in flags),
        machine=platform.machine(),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        packages={package: version for package in _SHOWN_PACKAGES if (version := package_version(package))},
        threads=threads,
        device=device,
        seed=seed,
    )
