"""Knowledge distillation (Hinton, Vinyals, Dean, 2015): the network learns the softened answers of a teacher."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.contract.errors import EngineError
from engine.methods.context import Context
from engine.methods.distillation.spec import Distillation
from engine.networks import masks
from engine.networks.network import Network
from engine.training.batches import Batch, ClassHead, Examples, Outputs

CACHE_BYTES = 512 * 2**20
"""Answers of the teacher are kept while they take no more memory than this."""


def apply(network: Network, params: Distillation, context: Context) -> Network:
    """Train a copy of the network with (1 - alpha)·CE + alpha·T²·KL(teacher at T ‖ student at T).

    Teacher and student read the same tensors. Raises `shape_mismatch` where their outputs differ in shape or are no class scores.
    """
    context.phase("training")
    student = copy.deepcopy(network.module)
    examples = context.labelled("train") if params.alpha < 1 else context.split("train")
    head = context.probe(student, examples)
    names = (params.teacher,) if isinstance(params.teacher, str) else params.teacher
    teachers = [masks.fold(context.teacher(name).module).to(context.device).eval() for name in names]
    answers = SoftAnswers(teachers, [_probe(context, name, t, head, examples) for name, t in zip(names, teachers, strict=True)], params)
    remembered = Remembered(answers, examples.count)

    def loss(outputs: Outputs, batch: Batch) -> Tensor:
        logits = head.logits(outputs)
        soft = distillation_loss(logits, remembered(batch, logits.shape), params.temperature)
        if params.alpha == 1:
            return soft
        hard = functional.cross_entropy(logits, batch.labels, label_smoothing=params.label_smoothing)  # type: ignore[arg-type]
        return (1 - params.alpha) * hard + params.alpha * soft

    context.stage("before", student)
    context.train(student, params, loss=loss)
    context.stage("distilled", student)
    context.report("teachers", list(names))
    return network.with_module(student.cpu())


def distillation_loss(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T²·KL(teacher ‖ student at T), summed over the classes and averaged over the examples of the batch.

    `logits` (N, C, …) are the student's; `teacher` are probabilities at the same temperature. The factor T² keeps the size of the
    gradient where T changes (section 2.1 of the paper).
    """
    return temperature**2 * functional.kl_div(functional.log_softmax(logits / temperature, dim=1), teacher, reduction="batchmean")


class SoftAnswers:
    """The mean of the teachers' softened probabilities."""

    def __init__(self, teachers: Sequence[nn.Module], heads: Sequence[ClassHead], params: Distillation) -> None:
        self._teachers = list(zip(teachers, heads, strict=True))
        self._temperature = params.temperature

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Tensor:
        """Probabilities at temperature T for the examples of the batch, (N, C, …)."""
        answers = [torch.softmax(head.logits(teacher(*batch.inputs)) / self._temperature, dim=1) for teacher, head in self._teachers]
        return torch.stack(answers).mean(dim=0)


class Remembered:
    """Answers of the teacher, asked once an example: inputs are not augmented, so a later epoch would get the same ones."""

    def __init__(self, answers: Callable[[Batch], Tensor], count: int) -> None:
        self._answers = answers
        self._count = count
        self._known = np.zeros(count, dtype=bool)
        self._memory: Tensor | None = None

    def __call__(self, batch: Batch, shape: torch.Size) -> Tensor:
        """The teacher's probabilities for this batch, of the shape of the student's logits."""
        if self._memory is not None and self._known[batch.indices].all():
            return self._memory[torch.from_numpy(batch.indices).to(self._memory.device)]
        fresh = self._answers(batch)
        if fresh.shape != shape:
            raise _mismatch("The teacher", list(fresh.shape), list(shape))
        if self._memory is None and 4 * self._count * fresh[0].numel() <= CACHE_BYTES:
            self._memory = torch.empty((self._count, *fresh.shape[1:]), dtype=fresh.dtype, device=fresh.device)
        if self._memory is not None:
            self._memory[torch.from_numpy(batch.indices).to(fresh.device)] = fresh
            self._known[batch.indices] = True
        return fresh


def _probe(context: Context, name: str, teacher: nn.Module, student: ClassHead, examples: Examples) -> ClassHead:
    try:
        head = ClassHead.probe(teacher, Batch.of(examples, np.arange(min(examples.count, 32)), context.input_names, context.device))
    except (RuntimeError, TypeError, ValueError) as error:
        raise EngineError(
            "shape_mismatch",
            f"The teacher {name} cannot read the network's inputs: {str(error).splitlines()[0]}",
            hint="Teacher and student take the same inputs.",
        ) from error
    if head.classes_count != student.classes_count:
        raise _mismatch(f"The teacher {name}", [None, head.classes_count], [None, student.classes_count])
    return head


def _mismatch(who: str, teacher: list[int | None], student: list[int | None]) -> EngineError:
    return EngineError(
        "shape_mismatch",
        f"{who} gives outputs of shape {teacher}, the network gives {student}.",
        hint="A teacher must know the same classes, in the same order.",
    )
