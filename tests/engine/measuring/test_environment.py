import importlib.metadata
from pathlib import Path

import pytest

from engine.measuring import environment


@pytest.mark.parametrize(
    ("machine", "flags", "safe"),
    [("x86_64", "fpu avx2 fma", False), ("x86_64", "avx2 avx512_vnni", True), ("AMD64", "avx2 avx_vnni", True), ("aarch64", "asimd", True)],
)
def test_eight_bit_kernels_saturate_on_x86_without_vnni(monkeypatch: pytest.MonkeyPatch, machine: str, flags: str, safe: bool) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(environment, "_processor", lambda: ("Some CPU", frozenset(flags.split())))
    assert environment.has_safe_int8() is safe


def test_the_description_is_what_is_installed() -> None:
    found = environment.describe(threads=2, seed=7, device="cpu")
    assert found.packages["onnxruntime"] == importlib.metadata.version("onnxruntime")
    assert (found.threads, found.seed, found.device) == (2, 7, "cpu")
    assert found.cpu_model
    listed = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    assert all(flag in listed for flag in found.cpu_flags)


def test_an_absent_package_has_no_version() -> None:
    assert environment.package_version("no-such-package-here") is None
