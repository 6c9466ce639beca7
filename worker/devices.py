"""What this worker runs jobs on. GPUs are found through NVML, so that no CUDA context is made and torch is not imported."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from core.errors import ServiceError


class NoDevice(ServiceError):
    """The device that the worker was told to use is not there."""

    code = "no_device"
    title = "No device"


@dataclass(frozen=True)
class Device:
    """One device of one worker."""

    name: str
    """As it stands in the job."""
    torch: str
    """As the child's torch calls it: `cpu` or `cuda:0`."""
    memory_bytes: int = 0
    """Of the device itself; 0 for the CPU."""
    environment: dict[str, str] = field(default_factory=dict)
    """What makes it the only one that the child sees."""

    @property
    def gpu(self) -> bool:
        """Whether it is one."""
        return self.torch != "cpu"


def cpu() -> Device:
    """The processor, with every GPU hidden."""
    return Device("cpu", "cpu", environment={"CUDA_VISIBLE_DEVICES": ""})


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


def assigned_gpu() -> Device:
    """The one GPU of this worker: that of CUDA_VISIBLE_DEVICES (UUID or index), or the only one. Raises NoDevice."""
    found = gpus()
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is not None:
        found = [gpu for index, gpu in enumerate(found) if wanted in (gpu.environment["CUDA_VISIBLE_DEVICES"], str(index))]
    if len(found) != 1:
        raise NoDevice(f"a GPU worker needs one GPU and finds {len(found)}", hint="Set CUDA_VISIBLE_DEVICES to the UUID of one.")
    return found[0]


def machine_memory_bytes() -> int:
    """Memory of this machine, or of the control group that the process is confined to."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(limit).read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            total = min(total, int(text))
    return total


def _gpu(uuid: str, name: str, memory_bytes: int) -> Device:
    return Device(f"{name} ({uuid})"[:64], "cuda:0", memory_bytes, {"CUDA_VISIBLE_DEVICES": uuid})
