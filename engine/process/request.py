"""What a supervisor asks of the parent of job children."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class Limits:
    """Bounds on one child; the wall clock and the group's memory are the supervisor's to watch."""

    memory_bytes: int | None = None
    """Private memory that the job may take on top of interpreter and libraries (RLIMIT_DATA)."""
    cpu_seconds: int | None = None
    """CPU time of one process; SIGXCPU at the limit, SIGKILL five seconds later."""
    file_bytes: int = 64 << 30
    """Largest file that may be written."""
    processes: int = 512
    """Processes and threads that may be started on top of those that the user has. The kernel does not hold root to it."""
    open_files: int = 4096


NAMESPACES = "namespaces"
"""The layer that makes tier 2 of the others."""


@dataclass(frozen=True)
class Kind:
    """What a process is made ready for."""

    enclosed: bool
    """Whether it has namespaces of its own."""
    gpu: bool
    """Whether NVIDIA's device files are reachable."""
    group: str | None = None
    """File of the control group that it enters first of all; None for that of its parent."""


@dataclass(frozen=True)
class Request:
    """One child: where it lives, what it runs, and what confines it."""

    directory: Path
    """Its private directory, mode 0700; becomes its working directory, HOME, and the only place that it can write."""
    entry: str = "engine.jobs.run:run_job"
    """`module:function`, called with the directory and a function that emits events; returns the exit status."""
    layers: tuple[str, ...] = ()
    """Of `engine.process.sandbox.isolation.LAYERS`; the rest of the confinement is not optional."""
    limits: Limits = field(default_factory=Limits)
    environment: dict[str, str] = field(default_factory=dict)
    """Variables for this child beside those of the allow-list, such as CUDA_VISIBLE_DEVICES."""
    gpu: bool = False
    """Whether NVIDIA's device files are reachable."""
    group: str | None = None
    """File of the control group that it enters first of all; None for that of its parent."""
    next_group: str | None = None
    """That of the child to make ready for the next request: the kernel takes ten milliseconds and more to move a process into a group."""
    sockets: Literal["none", "private", "shared"] = "none"
    """Whether the processes of a job may connect by TCP: not at all; on the loopback device of a network namespace of their own; or,
    where there are no such namespaces, on the machine's."""

    @property
    def kind(self) -> "Kind":
        """What must be known of it to make its process ready before it comes."""
        return Kind(enclosed=NAMESPACES in self.layers, gpu=self.gpu, group=self.group)

    def to_json(self, number: int) -> bytes:
        """One message for the parent, whose answers will bear the number."""
        return json.dumps({"number": number, "request": {**asdict(self), "directory": str(self.directory)}}).encode()

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Request":
        """The request in a message of the supervisor."""
        return cls(
            **{
                **fields,
                "directory": Path(fields["directory"]),
                "layers": tuple(fields["layers"]),
                "limits": Limits(**fields["limits"]),
            }
        )
