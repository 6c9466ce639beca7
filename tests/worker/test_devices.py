"""GPUs of a machine, as NVML tells of them; what NVML says is set at the border of its library."""

import socket
from types import SimpleNamespace

import pynvml
import pytest

from cli.serve import _programs
from core.settings import Settings
from worker import devices
from worker.devices import NoDevice

GIB = 2**30
CARDS = [("GPU-a", "NVIDIA A", 24 * GIB), ("GPU-b", "NVIDIA A", 24 * GIB), ("GPU-c", "NVIDIA C", 80 * GIB)]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A machine with three GPUs; returns the calls that open and close the library."""
    calls: list[str] = []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: calls.append("init"))
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: calls.append("shutdown"))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: len(CARDS))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda index: CARDS[index])
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUUID", lambda card: card[0])
    monkeypatch.setattr(pynvml, "nvmlDeviceGetName", lambda card: card[1])
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", lambda card: SimpleNamespace(total=card[2]))
    return calls


def test_every_gpu_is_found_and_the_library_closed(machine: list[str]) -> None:
    assert [(gpu.name, gpu.gpus, gpu.memory_bytes) for gpu in devices.gpus()] == [
        ("NVIDIA A (GPU-a)", ("GPU-a",), 24 * GIB),
        ("NVIDIA A (GPU-b)", ("GPU-b",), 24 * GIB),
        ("NVIDIA C (GPU-c)", ("GPU-c",), 80 * GIB),
    ]
    assert machine == ["init", "shutdown"]


def test_a_machine_without_a_driver_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", fail)
    assert devices.gpus() == []


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(("visible", "found"), [("GPU-b", ("GPU-b",)), ("2", ("GPU-c",)), ("0,GPU-c", ("GPU-a", "GPU-c"))])
def test_a_worker_has_the_gpus_that_it_is_told(monkeypatch: pytest.MonkeyPatch, visible: str, found: tuple[str, ...]) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    device = devices.assigned_gpus()
    assert device.gpus == found
    assert device.torch == "cuda:0"
    assert device.capacity.devices == len(found)
    assert device.environment(1) == {"CUDA_VISIBLE_DEVICES": found[0]}
    assert device.environment(len(found)) == {"CUDA_VISIBLE_DEVICES": ",".join(found)}


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("visible", [None, "", "GPU-x", "0,7"])
def test_a_worker_that_cannot_know_its_gpus_does_not_start(monkeypatch: pytest.MonkeyPatch, visible: str | None) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(NoDevice, match="needs one GPU and finds"):
        devices.assigned_gpus()


@pytest.mark.usefixtures("machine")
def test_gpus_are_grouped_and_the_smallest_counts() -> None:
    first, rest = devices.grouped(devices.gpus(), 2)
    assert (first.name, first.gpus) == ("2 x NVIDIA A (GPU-a)", ("GPU-a", "GPU-b"))
    assert rest.gpus == ("GPU-c",)
    (all_,) = devices.grouped(devices.gpus(), 8)
    assert (all_.capacity.devices, all_.capacity.memory_bytes) == (3, 24 * GIB)


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(("size", "visible"), [(1, ["GPU-a", "GPU-b", "GPU-c"]), (2, ["GPU-a,GPU-b", "GPU-c"])])
def test_serve_starts_one_worker_for_each_group(size: int, visible: list[str]) -> None:
    with socket.socket() as listener:
        programs = [program for program in _programs(Settings(gpus_per_worker=size), listener, 1) if "gpu" in program.command]
    assert [program.environment["CUDA_VISIBLE_DEVICES"] for program in programs] == visible


def test_the_processor_hides_every_gpu_and_takes_any_number_of_processes() -> None:
    assert devices.cpu().environment(2) == {"CUDA_VISIBLE_DEVICES": ""}
    assert devices.cpu().capacity.fits(16, 80 * GIB)
