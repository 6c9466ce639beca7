"""What the steps of a compress job are given: data, a seed and a voice; where one trains, also a device, checkpoints and teachers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from engine.contract import events
from engine.contract.errors import EngineError
from engine.jobs.baseline import Baseline
from engine.jobs.comparison import check_import
from engine.jobs.inputs import JobInputs, read
from engine.measuring.outputs import stored_outputs
from engine.methods.step import StepContext, implementation
from engine.networks.network import Network
from engine.process.memory import keep_freed_memory

if TYPE_CHECKING:
    from engine.training.parallel.replicas import Replicas


def step_context(
    inputs: JobInputs,
    directory: Path,
    emit: Callable[[events.Event], None],
    *,
    baseline: Baseline | None,
    replicas: Replicas | None,
) -> StepContext:
    """What all steps are given; torch is loaded only where a step trains.

    All that takes seconds before the first step happens here, beside the scoring of the baseline.

    Args:
        inputs: The job's inputs.
        directory: Where checkpoints are written.
        emit: Takes the events.
        baseline: What is measured on the uploaded network, which the first process alone knows; the others only read checkpoints.
        replicas: The processes of this job, where there are several.

    Raises:
        EngineError: `device_unavailable`; whatever a checkpoint is refused with.
    """
    job, spec = inputs.job, inputs.spec
    common: dict[str, Any] = {
        "seed": spec.seed,
        "work": inputs.work,
        "emit": emit,
        "baseline": inputs.baseline,
        "data": inputs.data,
        "threads": job.threads,
        "evaluation_split": inputs.split,
    }
    if not any(step.needs.trainable for step in spec.steps):
        return StepContext(**common)
    import torch

    from engine.methods.context import Context
    from engine.training.checkpoints import Checkpoints

    keep_freed_memory()
    torch.set_num_threads(job.threads)
    torch.manual_seed(spec.seed)
    if job.device.startswith("cuda") and not torch.cuda.is_available():
        raise EngineError("device_unavailable", f"The device {job.device} is not there.", category="transient", retryable=True)
    checkpoints = Checkpoints(directory, spec.model_dump(mode="json"), emit, seconds=job.checkpoint_seconds, read_only=baseline is None)
    if job.resume is not None:
        checkpoints.resume(job.resume)
    device = torch.device(job.device)
    if replicas is not None:
        common["replicas"], device = replicas, replicas.device or device
    for step in spec.steps:
        implementation(step)
    with suppress(EngineError):  # The step that needs the module says what is wrong with it.
        inputs.baseline.module  # noqa: B018 - built on first use
    return Context(
        **common,
        device=device,
        load_teacher=partial(_teacher, inputs),
        checkpoints=checkpoints,
        outputs_of_file=partial(_outputs, inputs, baseline),
        check_import=cache(partial(check_import, inputs)),
    )


def _outputs(inputs: JobInputs, baseline: Baseline | None, split: str) -> Sequence[NDArray[Any]] | None:
    """What the examiner kept of the uploaded network's outputs, once it has scored them."""
    return None if baseline is None or split != inputs.split else stored_outputs(baseline.inputs.outputs)


def _teacher(inputs: JobInputs, name: str) -> Network:
    if name not in inputs.job.teachers:
        raise EngineError("model_not_found", f"The teacher {name} is not part of this job.", category="internal")
    return read(inputs.job.teachers[name], inputs.work)
