"""One process that takes part in several jobs, one after the other: `python -m torch.distributed.run … in_turn.py DIRECTORY…`.

A job's own processes import torch for that job alone, which takes longer than a small training.
"""

import sys
from pathlib import Path

import torch

from engine.contract.events import Event, Failed
from engine.jobs.run import run_job
from engine.training.parallel.replicas import DistributedReplicas


def tell(event: Event) -> None:
    """Say what failed."""
    if isinstance(event, Failed):
        sys.stderr.write(f"{event.error}\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    replicas = DistributedReplicas(torch.device("cpu"))
    sys.exit(any(run_job(Path(directory), tell, replicas) for directory in sys.argv[1:]))
