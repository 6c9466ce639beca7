"""One job, from its directory to its last event. Never raises: whatever goes wrong becomes a `failed` event."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from engine.contract import events
from engine.contract.errors import EngineError, translate
from engine.contract.files import FileRef
from engine.contract.job import FILE_NAME, RESULT, Job

if TYPE_CHECKING:
    from engine.training.parallel.replicas import Replicas

Emit = Callable[[events.Event], None]


def run_job(directory: Path, emit: Emit, replicas: Replicas | None = None) -> int:
    """Do the job that `job.json` in `directory` describes.

    Args:
        directory: Private directory of the job; receives `out/` (what will be published) and `tmp/` (scratch).
        emit: Takes every event; the last one is `done` or `failed`.
        replicas: Of a job in several processes, in each of them; left out, they are started where the job asks for them.

    Returns:
        The exit status: 0 after `done`, 1 after `failed`. A missed constraint is an outcome of a job that was done.
    """
    current: list[int | None] = [None]

    def tracking(event: events.Event) -> None:
        if isinstance(event, events.StepStarted | events.StepFinished):
            current[0] = event.step_index if isinstance(event, events.StepStarted) else None
        elif isinstance(event, events.Phase) and event.step_index is None:
            current[0] = None  # what the job itself does, even if a step waits for it
        emit(event)

    try:
        directory = directory.absolute()
        for name in ("out", "tmp"):
            (directory / name).mkdir(mode=0o700, exist_ok=True)
        job = Job.read(directory)
        if replicas is None and job.spec is not None and job.spec.processes > 1:
            from engine.jobs.parallel.launch import run_processes

            return run_processes(job, directory, tracking)
        _do(job, directory, tracking, replicas)
        return 0
    except Exception as error:
        translated = translate(error)
        if translated.category == "internal":
            emit(events.Log(level="error", message=traceback.format_exc(), step_index=current[0]))
        emit(events.Failed(error=translated.described(current[0])))
        return 1


def _do(job: Job, directory: Path, emit: Emit, replicas: Replicas | None) -> None:
    """Import what the job needs, and nothing else: quantizing an ONNX file must not wait for torch."""
    if job.kind == "compress":
        from engine.jobs.compression import compress

        compress(job, directory, emit, replicas)
        return
    from engine.jobs import dataset_inspection, inspection

    emit(events.Phase(phase="inspecting"))
    work = directory / "tmp"
    if job.kind == "inspect_model" and job.model is not None:
        looked = inspection.inspect_model(job.model.path, job.model.format, job.model.metadata, work)
        if job.dataset is not None:
            from engine.jobs.pair import inspect_pair

            looked = looked.model_copy(update={"pair": inspect_pair(job.model, job.dataset, work)})
        found: BaseModel = looked
    elif job.kind == "inspect_dataset" and job.dataset is not None:
        found = dataset_inspection.inspect_dataset(job.dataset.path, job.dataset.format, job.dataset.metadata, work)
    else:
        raise EngineError("job_invalid", f"{FILE_NAME} names no file to inspect.", category="internal")
    emit(events.Done(result=FileRef.write(directory, RESULT, found.model_dump_json().encode())))
