"""`python -m engine.jobs.parallel.agent PARENT_PID DEVICES DIRECTORY`: `torch.distributed.run` for the processes of one job.

When one of them fails, all are ended. In a sandbox none of them can leave the job's process group, so that torch's way of ending them
finds nobody; they then end with this process, and with the group.
"""

import os
import signal
import sys
import uuid
from collections.abc import Sequence

from engine.process import boot
from engine.process.linux import die_with_parent

_LOOPBACK = "127.0.0.1"


def main(arguments: Sequence[str]) -> int:
    """Run until the last process has ended; 0 if all did well."""
    parent, devices, directory = arguments
    die_with_parent(int(parent), signal.SIGKILL)
    # Without these, gloo and NCCL look the host's name up and may choose another interface.
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo", "NCCL_CUMEM_ENABLE": "0"}
    os.environ.setdefault("OMP_NUM_THREADS", "1")

    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    options = run.parse_args(
        [
            *("--nnodes", "1", "--nproc-per-node", devices, "--max-restarts", "0", "--shutdown-timeout", "5"),
            *("--rdzv-backend", "c10d", "--rdzv-endpoint", f"{_LOOPBACK}:0", "--rdzv-id", uuid.uuid4().hex, "--local-addr", _LOOPBACK),
            *(boot.__file__, "engine.jobs.parallel.rank", str(os.getpid()), directory),
        ]
    )
    try:
        run.run(options)
    except (ChildFailedError, ProcessLookupError, PermissionError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201 - for the job's log
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
