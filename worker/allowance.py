"""What the processes of a job may take: memory, processor time, disk, devices."""

import math
import os
from dataclasses import dataclass
from pathlib import Path

from core import jobs
from core.blobs.staged import free_bytes
from core.settings import Settings
from engine.process.request import Limits, Request
from engine.process.sandbox.probe import Isolation
from worker.cgroups import JobGroups
from worker.devices import Device
from worker.supervision import Bounds
from worker.usage import folder_usage

MOST_TASKS = 4096
"""Processes and threads of a job, where its control group counts them; processes alone are bounded to fewer."""
_OWN_BYTES = 512 << 20
"""Memory that each process of a job takes before it does anything: libraries, of which a fresh interpreter loads its own."""
_LEAST_DISK_BYTES = 64 << 20


@dataclass(frozen=True)
class Allowance:
    """What one job may take on this worker."""

    settings: Settings
    claim: jobs.Claim
    device: Device
    isolation: Isolation
    memory_bytes: int
    """What the job may have; the libraries of its processes come on top."""

    @property
    def bound_bytes(self) -> int:
        """Memory of all its processes together."""
        return self.memory_bytes + self.claim.devices * _OWN_BYTES

    def request(self, entry: str, directory: Path, groups: JobGroups) -> Request:
        """The child that runs `entry`, confined."""
        return Request(
            directory,
            entry=entry,
            layers=self.isolation.layers,
            limits=Limits(
                # CUDA maps more private memory than it uses: on a GPU the supervisor's own count must do
                memory_bytes=None if self.device.gpus else self.memory_bytes,
                cpu_seconds=math.ceil(self.claim.timeout_seconds * (os.cpu_count() or 1)) + 60,
            ),
            environment=self.device.environment(self.claim.devices),
            gpu=bool(self.device.gpus),
            sockets=self.isolation.sockets,
            group=None if groups.own is None else str(groups.own.entrance),
            next_group=None if groups.following is None else str(groups.following.entrance),
        )

    def bounds(self, directory: Path, groups: JobGroups) -> Bounds:
        """What the supervisor watches, on top of what lies in the directory before the child starts."""
        disk_bytes = self.settings.job_disk_bytes or max(_LEAST_DISK_BYTES, free_bytes(directory) // 2)
        before = folder_usage(directory, group=None)
        return Bounds(
            self.claim.timeout_seconds,
            self.bound_bytes,
            directory=directory,
            disk_bytes=before.size_bytes + disk_bytes,
            files=before.count + self.settings.job_files,
            group=groups.own,
        )
