"""What this worker runs jobs on. GPUs are found through NVML, so that no CUDA context is made and torch is not imported."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from core.errors import ServiceError
from core.jobs import UNBOUNDED_MEMORY
from core.jobs.worker_registry import Capacity
from engine.contract.spec import MOST_DEVICES


class NoDevice(ServiceError):
    """The device that the worker was set to use is not there."""

    code = "no_device"
    title = "No device"


@dataclass(frozen=True)
class Device:
    """What one worker runs its jobs on: the processor, or one or more GPUs of its own."""

    name: str
    """As it stands in the job."""
    gpus: tuple[str, ...] = ()
    """UUIDs; none for the processor."""
    memory_bytes: int = UNBOUNDED_MEMORY
    """Of the smallest of the GPUs; no job asks for memory of the processor."""

    @property
    def torch(self) -> str:
        """As the child's torch calls it: `cpu` or `cuda:0`."""
        return "cuda:0" if self.gpus else "cpu"

    @property
    def capacity(self) -> Capacity:
        """The largest job that fits. On the processor any does: more processes than cores are slower, not wrong."""
        return Capacity(len(self.gpus) or MOST_DEVICES, self.memory_bytes)

    def environment(self, devices: int) -> dict[str, str]:
        """What makes the first so many GPUs, or none, the only ones that a child sees."""
        return {"CUDA_VISIBLE_DEVICES": ",".join(self.gpus[:devices])}


def cpu() -> Device:
    """The processor, with every GPU hidden."""
    return Device("cpu")


def gpus() -> list[Device]:
    """Every NVIDIA GPU of this machine, by its UUID; none where there is no driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return [
            _gpu(
                str(pynvml.nvmlDeviceGetUUID(handle)),
                str(pynvml.nvmlDeviceGetName(handle)),
                int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
            )
            for handle in handles
        ]
    finally:
        pynvml.nvmlShutdown()


def grouped(found: Sequence[Device], size: int) -> list[Device]:
    """The GPUs as devices of workers that own `size` of them each; what is left over makes a smaller one."""
    return [_joined(found[start : start + size]) for start in range(0, len(found), size)]


def assigned_gpus() -> Device:
    """The GPUs of this worker: those of CUDA_VISIBLE_DEVICES (UUIDs or indices), or the only one there is. Raises NoDevice."""
    found = gpus()
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is None:
        if len(found) != 1:
            raise NoDevice(f"a GPU worker needs one GPU and finds {len(found)}", hint="Set CUDA_VISIBLE_DEVICES to the UUIDs of its own.")
        return found[0]
    known = {name: gpu for index, gpu in enumerate(found) for name in (str(index), *gpu.gpus)}
    asked = [name.strip() for name in wanted.split(",") if name.strip()]
    chosen = [known[name] for name in dict.fromkeys(asked) if name in known]
    if not chosen or len(chosen) != len(asked):
        raise NoDevice(
            f"a GPU worker needs one GPU and finds {len(chosen)} of those in CUDA_VISIBLE_DEVICES={wanted!r}",
            hint="Set CUDA_VISIBLE_DEVICES to the UUIDs of its own; nvidia-smi -L lists them.",
        )
    return _joined(chosen)


def _gpu(uuid: str, name: str, memory_bytes: int) -> Device:
    return Device(f"{name} ({uuid})"[:64], (uuid,), memory_bytes)


def _joined(parts: Sequence[Device]) -> Device:
    if len(parts) == 1:
        return parts[0]
    uuids = tuple(uuid for part in parts for uuid in part.gpus)
    return Device(f"{len(parts)} x {parts[0].name}"[:64], uuids, min(part.memory_bytes for part in parts))
