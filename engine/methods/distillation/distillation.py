"""Knowledge distillation (Hinton, Vinyals, Dean, 2015): the network learns the softened answers of a teacher, output by output."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from engine.contract.errors import EngineError
from engine.contract.heads import Head
from engine.methods.context import Context
from engine.methods.distillation.spec import Distillation
from engine.networks import masks
from engine.networks.network import Network
from engine.outputs.evidence import Output
from engine.tasks import task_of
from engine.training.batches import Batch, Examples, Outputs, as_list
from engine.training.loop import targets_loss

CACHE_BYTES = 512 * 2**20
"""Answers of the teacher are kept while they take no more memory than this."""
_SEEN_EXAMPLES = 32


def apply(network: Network, params: Distillation, context: Context) -> Network:
    """Train a copy of the network with, for every output, (1 - alpha)·loss(targets) + alpha·loss(teacher).

    Of class scores the teacher's term is T²·KL(teacher at T ‖ student at T); of plain values it is the mean squared error over the
    teacher's variance, so that outputs in different units weigh the same. Outputs without targets learn from the teacher alone.
    Teacher and student read the same tensors. Raises `shape_mismatch` where their outputs differ in shape.
    """
    context.phase("training")
    student = copy.deepcopy(network.module)
    examples = context.labelled("train") if params.alpha < 1 else context.split("train")
    names = (params.teacher,) if isinstance(params.teacher, str) else params.teacher
    teachers = [masks.fold(context.teacher(name).module).to(context.device).eval() for name in names]
    found = [_Teacher.met(name, teacher, context, examples) for name, teacher in zip(names, teachers, strict=True)]
    heads = context.reading()
    answers = SoftAnswers(found, heads, params)
    remembered = Remembered(answers, examples.count)
    trained = {head.name for head in context.trained_heads(examples)} if params.alpha < 1 else set()
    spreads = _spreads(heads, found, context, examples)
    hard = {head.name: targets_loss([head.model_copy(update={"weight": 1.0})], params.label_smoothing) for head in heads}

    def loss(outputs: Outputs, batch: Batch) -> Tensor:
        given = as_list(outputs)
        values = []
        for head, wanted, spread in zip(heads, remembered(batch, [output.shape for output in given]), spreads, strict=True):
            soft = task_of(head).match(head, [given[i] for i in head.indices], wanted, params.temperature)
            if spread is not None:
                soft = soft / spread
            value = soft if head.name not in trained else (1 - params.alpha) * hard[head.name](outputs, batch) + params.alpha * soft
            values.append(value if head.weight == 1 else head.weight * value)
        return values[0] if len(values) == 1 else torch.stack(values).sum()

    context.stage("before", student)
    context.train(student, params, loss=loss)
    context.stage("distilled", student)
    context.report("teachers", list(names))
    context.report("losses", {head.name: _term(head, head.name in trained) for head in heads})
    return network.with_module(student.cpu())


def _term(head: Head, trained: bool) -> str:
    """What an output was matched by, for people."""
    kind = "KL divergence of its classes" if head.class_axis is not None else "KL divergence of its decisions" if head.decides else "MSE"
    return f"{kind} to the teacher" + (" and its targets" if trained else "")


@dataclass(frozen=True)
class _Teacher:
    """A teacher, and how its outputs are to be read: like the student's, but they may be logits where those are probabilities."""

    name: str
    module: nn.Module
    heads: tuple[Head, ...]
    answers: list[Tensor]
    """To a few examples."""

    @classmethod
    @torch.no_grad()
    def met(cls, name: str, module: nn.Module, context: Context, examples: Examples) -> _Teacher:
        """Ask it. Raises `shape_mismatch` where it cannot read the inputs, or answers in other shapes than the network does."""
        few = Batch.of(examples, np.arange(min(examples.count, _SEEN_EXAMPLES)), context.input_names, context.device)
        own = as_list(masks.fold(context.baseline.module).to(context.device).eval()(*few.inputs))
        try:
            answers = as_list(module(*few.inputs))
        except (RuntimeError, TypeError, ValueError) as error:
            raise EngineError(
                "shape_mismatch",
                f"The teacher {name} cannot read the network's inputs: {str(error).splitlines()[0]}",
                hint="Teacher and student take the same inputs.",
            ) from error
        _same_shapes(f"The teacher {name}", [answer.shape for answer in answers], [output.shape for output in own])
        return cls(name, module, tuple(_read_like(head, answers) for head in context.reading()), answers)


def _read_like(head: Head, answers: Sequence[Tensor]) -> Head:
    """The same meaning; whether scores are probabilities is seen from the teacher's own values."""
    if not head.decides:
        return head
    output = Output(head.name, head.index, answers[head.index].cpu().numpy(), {})
    if head.class_axis is not None:
        return head.model_copy(update={"scale": output.scale(head.class_axis)})
    return head.model_copy(update={"scale": "probabilities" if output.shares else "logits"})


def _spreads(heads: Sequence[Head], teachers: Sequence[_Teacher], context: Context, examples: Examples) -> list[Tensor | None]:
    """The variance of what each output of plain values is to learn; None for classes, whose losses are in nats."""
    found: list[Tensor | None] = []
    for head in heads:
        values = torch.stack([teacher.answers[head.index].float() for teacher in teachers]).mean(dim=0)
        variance = (values - values.mean(dim=0, keepdim=True)).square().mean()
        found.append(None if head.decides else torch.where(variance > 0, variance, torch.ones_like(variance)))
    return found


class SoftAnswers:
    """The mean of the teachers' softened answers, one tensor a head."""

    def __init__(self, teachers: Sequence[_Teacher], heads: Sequence[Head], params: Distillation) -> None:
        self._teachers, self._heads = teachers, heads
        self._temperature = params.temperature

    @torch.no_grad()
    def __call__(self, batch: Batch) -> tuple[list[Tensor], list[torch.Size]]:
        """What the student is to give for the examples of the batch, and the shapes of the teachers' outputs."""
        answers = [as_list(teacher.module(*batch.inputs)) for teacher in self._teachers]
        wanted = []
        for place in range(len(self._heads)):
            soft = []
            for teacher, outputs in zip(self._teachers, answers, strict=True):
                head = teacher.heads[place]
                soft.append(task_of(head).soften(head, [outputs[i] for i in head.indices], self._temperature))
            wanted.append(torch.stack(soft).mean(dim=0))
        return wanted, [output.shape for output in answers[0]]


class Remembered:
    """Answers of the teacher, asked once an example: inputs are not augmented, so a later epoch would get the same ones."""

    def __init__(self, answers: Callable[[Batch], tuple[list[Tensor], list[torch.Size]]], count: int) -> None:
        self._answers = answers
        self._count = count
        self._known = np.zeros(count, dtype=bool)
        self._memory: list[Tensor] | None = None

    def __call__(self, batch: Batch, shapes: Sequence[torch.Size]) -> list[Tensor]:
        """What the student is to give for this batch, beside its outputs of the given shapes."""
        if self._memory is not None and self._known[batch.indices].all():
            return [memory[torch.from_numpy(batch.indices).to(memory.device)] for memory in self._memory]
        fresh, given = self._answers(batch)
        _same_shapes("The teacher", given, shapes)
        size = len(batch.indices)
        kept = all(answer.ndim and len(answer) == size for answer in fresh)
        if self._memory is None and kept and 4 * self._count * sum(answer[0].numel() for answer in fresh) <= CACHE_BYTES:
            self._memory = [torch.empty((self._count, *answer.shape[1:]), dtype=answer.dtype, device=answer.device) for answer in fresh]
        if self._memory is not None:
            for memory, answer in zip(self._memory, fresh, strict=True):
                memory[torch.from_numpy(batch.indices).to(answer.device)] = answer
            self._known[batch.indices] = True
        return fresh


def _same_shapes(who: str, teacher: Sequence[torch.Size], student: Sequence[torch.Size]) -> None:
    shapes = [[[None, *shape[1:]] for shape in side] for side in (teacher, student)]
    if shapes[0] == shapes[1]:
        return
    pairs = [pair for pair in zip(*shapes, strict=False) if pair[0] != pair[1]]
    theirs, ours = pairs[0] if len(shapes[0]) == len(shapes[1]) else (len(shapes[0]), len(shapes[1]))
    what = "outputs of shape " if len(shapes[0]) == len(shapes[1]) else "a number of outputs of "
    raise EngineError(
        "shape_mismatch",
        f"{who} gives {what}{theirs}, the network gives {ours}.",
        hint="A teacher must know the same classes, in the same order.",
    )
