"""`python -m engine.jobs.parallel.rank AGENT_PID DIRECTORY`: one process of a job; started by `torch.distributed.run`."""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel

from engine.contract import events
from engine.contract.errors import translate
from engine.contract.job import Job
from engine.jobs.parallel.launch import last_word
from engine.jobs.run import run_job
from engine.process.linux import die_with_parent


def main(arguments: Sequence[str]) -> int:
    """Take part in the job; the first process emits all events, the others only their own failure."""
    agent, directory = int(arguments[0]), Path(arguments[1])
    die_with_parent(agent, signal.SIGKILL)
    channel = _channel()
    rank = int(os.environ["LOCAL_RANK"])

    def emit(event: BaseModel) -> None:
        if rank == 0:
            events.write_event(channel, event)
        elif isinstance(event, events.Failed):
            last_word(directory, rank).write_text(event.model_dump_json())
        elif isinstance(event, events.Log) and event.level == "error":
            print(f"process {rank}: {event.message}", file=sys.stderr)  # noqa: T201 - for the job's log

    try:
        import torch

        from engine.training.parallel.replicas import DistributedReplicas

        job = Job.read(directory)
        device = torch.device("cuda", rank) if job.device.startswith("cuda") else torch.device("cpu")
        torch.set_num_threads(job.threads)
        replicas = DistributedReplicas(device)
    except Exception as error:
        emit(events.Failed(error=translate(error).described()))
        raise
    return run_job(directory, emit, replicas)


def _channel() -> int:
    """The pipe that came as standard input, out of the way of whoever reads that."""
    channel = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return channel


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
