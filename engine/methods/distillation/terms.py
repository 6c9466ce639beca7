"""What a student's outputs are to become, from the answers of all teachers, and how far they are from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from engine.contract.errors import EngineError
from engine.contract.heads import Head
from engine.methods.distillation.spec import Distillation, OutputMatch
from engine.methods.distillation.teachers import Teacher
from engine.outputs.losses import binary_logits, class_logits
from engine.outputs.matching import centered, decoupled, matched_decisions, matched_logits
from engine.tasks import task_of
from engine.training.batches import Batch

_TINY = 1e-30
_NO_CLASS = -100


@dataclass(frozen=True)
class Term:
    """The teacher's term of one head."""

    head: Head
    teachers: tuple[Head, ...]
    """How the outputs of each teacher are read."""
    shares: tuple[float, ...]
    """Of each teacher in the mean."""
    params: Distillation
    match: OutputMatch
    spread: float
    """Variance of what an output of plain values is to learn."""

    @property
    def weight(self) -> float:
        """Of the head among the others."""
        return self.head.weight * self.match.weight

    @property
    def described(self) -> str:
        """By what it is matched, for people."""
        if not self.head.decides:
            return {"auto": "MSE", "mse": "MSE", "l1": "mean absolute error", "cosine": "cosine"}[self.match.loss]
        if self._of_logits:
            return "MSE of its logits"
        if self._parted:
            return "decoupled KL divergence of its classes"
        return "KL divergence of its classes" if self.head.class_axis is not None else "KL divergence of its decisions"

    @property
    def _plain(self) -> bool:
        """Whether one output alone is read, so that its scores are known."""
        return len(self.head.indices) == 1

    @property
    def _of_logits(self) -> bool:
        return self.params.loss == "mse_logits" and self.head.decides and self._plain

    @property
    def _parted(self) -> bool:
        return self.params.loss == "dkd" and self.head.class_axis is not None and self._plain

    def wanted(self, answers: Sequence[Sequence[Tensor]]) -> Tensor:
        """What the student is to give, from the outputs of each teacher."""
        read = [[outputs[i] for i in head.indices] for head, outputs in zip(self.teachers, answers, strict=True)]
        if self._of_logits:
            return self._mean([_logits(head, own[0]) for head, own in zip(self.teachers, read, strict=True)])
        soft = [task_of(head).soften(head, own, self.params.temperature) for head, own in zip(self.teachers, read, strict=True)]
        if len(soft) == 1 or self.params.ensemble == "arithmetic" or not (self.head.decides and self._plain):
            return self._mean(soft)
        logs = self._mean([item.clamp_min(_TINY).log() for item in soft])
        if self.head.class_axis is not None:
            return torch.softmax(logs, dim=1)
        others = self._mean([(1 - item).clamp_min(_TINY).log() for item in soft])
        return torch.sigmoid(logs - others)

    def loss(self, outputs: Sequence[Tensor], wanted: Tensor, batch: Batch) -> Tensor:
        """How far the student's outputs of this head are from `wanted`."""
        own = [outputs[i] for i in self.head.indices]
        if self._of_logits:
            measure = matched_logits if self.head.class_axis is not None else matched_decisions
            return measure(_logits(self.head, own[0]), wanted)
        if self._parted:
            return self._decoupled(own[0], wanted, batch)
        if self.head.decides or not self._plain:
            return task_of(self.head).match(self.head, own, wanted, self.params.temperature)
        if self.match.loss == "l1":
            return functional.l1_loss(own[0], wanted) / math.sqrt(self.spread)
        if self.match.loss == "cosine":
            return (1 - functional.cosine_similarity(own[0].flatten(1), wanted.flatten(1), dim=1)).mean()
        return task_of(self.head).match(self.head, own, wanted, self.params.temperature) / self.spread

    def _decoupled(self, output: Tensor, wanted: Tensor, batch: Batch) -> Tensor:
        logits = class_logits(self.head, output)
        target = batch.target(self.head)
        if target is None:
            raise EngineError(
                "dataset_invalid", f"loss: dkd needs a class for each example, and {self.head.name!r} has none.", hint="Use loss: kl."
            )
        target = target.reshape(len(logits), *logits.shape[2:])
        ignored = _NO_CLASS if self.head.ignored is None else self.head.ignored
        target = torch.where(target == ignored, -1, target)
        rows, soft = (item.movedim(1, -1).flatten(0, -2) for item in (logits, wanted))
        weights = (self.params.target_weight, self.params.non_target_weight)
        return decoupled(rows, soft, target.flatten(), self.params.temperature, weights)

    def _mean(self, items: Sequence[Tensor]) -> Tensor:
        if len(set(self.shares)) == 1:
            return torch.stack(list(items)).mean(dim=0)
        return torch.stack([share * item for share, item in zip(self.shares, items, strict=True)]).sum(dim=0)


def terms_of(heads: Sequence[Head], teachers: Sequence[Teacher], params: Distillation) -> list[Term]:
    """One term a head, but for outputs of whole numbers (an ArgMax), which no gradient moves.

    Raises:
        EngineError: `output_unknown` where the parameters name an output that is not there, `not_trainable` where no output can be matched.
    """
    for name in params.outputs:
        if name not in {head.name for head in heads}:
            known = ", ".join(head.name for head in heads)
            raise EngineError("output_unknown", f"outputs names {name!r}, which the network does not have.", hint=f"Outputs: {known}.")
    total = sum(params.teacher_weights) or 1.0
    shares = tuple(weight / total for weight in params.teacher_weights) or (1 / len(teachers),) * len(teachers)
    found = []
    for place, head in enumerate(heads):
        if not all(teacher.seen[index].is_floating_point() for teacher in teachers for index in head.indices):
            continue
        match = params.outputs.get(head.name, OutputMatch())
        if match.loss != "auto" and head.decides:
            raise EngineError(
                "spec_invalid",
                f"outputs.{head.name}.loss is {match.loss}, but the output holds scores of classes.",
                hint="Leave it out: scores are matched as `loss` says.",
            )
        spread = 1.0 if head.decides else _spread([teacher.seen[head.index] for teacher in teachers])
        found.append(Term(head, tuple(teacher.heads[place] for teacher in teachers), shares, params, match, spread))
    if not found:
        raise EngineError(
            "not_trainable",
            "Every output of the network is a whole number (such as that of an ArgMax), which no gradient moves towards a teacher's.",
            hint="Export the network with its scores as outputs.",
        )
    return found


def _logits(head: Head, output: Tensor) -> Tensor:
    return centered(class_logits(head, output)) if head.class_axis is not None else binary_logits(head, output)


def _spread(answers: Sequence[Tensor]) -> float:
    """The variance of the mean answer over the examples; 1 where it never changes."""
    values = torch.stack([answer.float() for answer in answers]).mean(dim=0)
    variance = float((values - values.mean(dim=0, keepdim=True)).square().mean())
    return variance if variance > 0 else 1.0
