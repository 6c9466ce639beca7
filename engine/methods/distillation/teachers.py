"""Teachers: networks, or logits that the dataset holds, and how their outputs are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from engine.contract.errors import EngineError
from engine.contract.heads import Head
from engine.methods.context import Context
from engine.methods.distillation.inputs import adapted
from engine.methods.distillation.spec import LOGITS, Distillation
from engine.networks import masks
from engine.networks.network import Network
from engine.outputs.evidence import Output
from engine.training.batches import Batch, Examples, as_list

SEEN_EXAMPLES = 32


class Answers(Protocol):
    """What answers for a teacher."""

    def __call__(self, batch: Batch) -> list[Tensor]:
        """Its outputs, one tensor each."""


@dataclass(frozen=True)
class Teacher:
    """A teacher, and how its outputs are to be read: like the student's, but they may be logits where those are probabilities."""

    name: str
    answers: Answers
    heads: tuple[Head, ...]
    seen: list[Tensor]
    """Answers to a few examples."""
    module: nn.Module | None = None
    """None where the answers are stored."""


@torch.no_grad()
def network_teacher(name: str, module: nn.Module, context: Context, examples: Examples) -> Teacher:
    """A teacher that gives what the job's network gives."""
    answers = _Network(name, module)
    seen = answers(a_few(examples, context))
    return Teacher(name, answers, tuple(_read_like(head, seen) for head in context.reading()), seen, module)


@torch.no_grad()
def teachers_of(network: Network, params: Distillation, context: Context, examples: Examples) -> list[Teacher]:
    """All teachers. Raises `shape_mismatch` where one cannot read the inputs, or answers in other shapes than the network does."""
    few = a_few(examples, context)
    heads = context.reading()
    own = as_list(masks.fold(context.baseline.module).to(context.device).eval()(*few.inputs))
    found = []
    for name in params.teacher_names:
        module = None if name.startswith(LOGITS) else _module_of(name, network, params, context, examples)
        answers = _Stored(name.removeprefix(LOGITS), heads, own) if module is None else _Network(name, module)
        seen = answers(few)
        same_shapes(f"The teacher {name}", [answer.shape for answer in seen], [output.shape for output in own])
        found.append(Teacher(name, answers, tuple(_read_like(head, seen) for head in heads), seen, module))
    return found


def a_few(examples: Examples, context: Context) -> Batch:
    """The first examples, on which shapes are seen."""
    return Batch.of(examples, np.arange(min(examples.count, SEEN_EXAMPLES)), context.input_names, context.device)


def same_shapes(who: str, teacher: Sequence[torch.Size], student: Sequence[torch.Size]) -> None:
    """Raise `shape_mismatch` where outputs differ in more than the number of examples."""
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


def _module_of(name: str, network: Network, params: Distillation, context: Context, examples: Examples) -> nn.Module:
    source = network if name == "network" else context.teacher(name)
    module = masks.fold(source.module).to(context.device).eval()
    return module if name in ("network", "baseline") else adapted((name, module, source.signature), params, context, examples)


@dataclass(frozen=True)
class _Network:
    name: str
    module: nn.Module

    def __call__(self, batch: Batch) -> list[Tensor]:
        try:
            return as_list(self.module(*batch.inputs))
        except (RuntimeError, TypeError, ValueError) as error:
            if "out of memory" in str(error).lower():
                raise
            raise EngineError(
                "shape_mismatch",
                f"The teacher {self.name} cannot read the network's inputs: {str(error).splitlines()[0]}",
                hint="Teacher and student take the same inputs; state teacher_preprocessing where the teacher takes another size.",
            ) from error


@dataclass(frozen=True)
class _Stored:
    """Logits that stand in the dataset beside the examples."""

    name: str
    heads: tuple[Head, ...]
    shaped: list[Tensor]
    """Outputs of the network, of which the stored ones have the shapes."""

    def __call__(self, batch: Batch) -> list[Tensor]:
        return [self._output(batch, head, self.shaped[index]) for head in self.heads for index in head.indices]

    def _output(self, batch: Batch, head: Head, like: Tensor) -> Tensor:
        column = f"y.{self.name}" if len(self.heads) == 1 else f"y.{self.name}.{head.name}"
        stored = batch.stored.get(column)
        if stored is None:
            raise EngineError(
                "dataset_invalid",
                f"The teacher logits:{self.name} needs the target {column!r}, which these examples do not have.",
                hint=f"Upload y_train.{column[2:]} with the logits of each example, and y_validation.{column[2:]} for early stopping.",
            )
        values = torch.from_numpy(np.ascontiguousarray(stored)).to(batch.device, torch.float32)
        # Without dimensions of size 1, which people leave out of stored arrays.
        same = [size for size in values.shape[1:] if size > 1] == [size for size in like.shape[1:] if size > 1]
        return values.reshape(len(values), *like.shape[1:]) if same else values


def _read_like(head: Head, answers: Sequence[Tensor]) -> Head:
    """The same meaning; whether scores are probabilities is seen from the teacher's own values."""
    if not head.decides:
        return head
    output = Output(head.name, head.index, answers[head.index].cpu().numpy(), {})
    if head.class_axis is not None:
        return head.model_copy(update={"scale": output.scale(head.class_axis)})
    return head.model_copy(update={"scale": "probabilities" if output.shares else "logits"})
