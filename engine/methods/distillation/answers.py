"""What the teachers want of a batch, asked once an example where that is enough."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from engine.methods.distillation.teachers import Teacher, same_shapes
from engine.methods.distillation.terms import Term
from engine.training.batches import Batch, Examples

CACHE_BYTES = 512 * 2**20
"""Answers of the teacher are kept while they take no more memory than this."""


class SoftAnswers:
    """The means of the teachers' answers, one tensor a head.

    They are remembered for the examples of the training as these are: augmented ones are others each time, and so are those on which
    features have to be looked at.
    """

    def __init__(self, teachers: Sequence[Teacher], terms: Sequence[Term], examples: Examples, *, remember: bool) -> None:
        self._teachers, self._terms, self._examples, self._remember = teachers, terms, examples, remember
        self._known = np.zeros(examples.count if remember else 0, dtype=bool)
        self._memory: list[Tensor] | None = None

    def __call__(self, batch: Batch, shapes: Sequence[torch.Size]) -> list[Tensor]:
        """What the student is to give for this batch, beside its outputs of the given shapes."""
        same = self._remember and batch.origin is self._examples
        if same and self._memory is not None and self._known[batch.indices].all():
            return [memory[torch.from_numpy(batch.indices).to(memory.device)] for memory in self._memory]
        fresh = self._asked(batch, shapes)
        if same:
            self._keep(fresh, batch)
        return fresh

    @torch.no_grad()
    def _asked(self, batch: Batch, shapes: Sequence[torch.Size]) -> list[Tensor]:
        answers = [teacher.answers(batch) for teacher in self._teachers]
        same_shapes("The teacher", [answer.shape for answer in answers[0]], shapes)
        return [term.wanted(answers) for term in self._terms]

    def _keep(self, fresh: Sequence[Tensor], batch: Batch) -> None:
        size, count = len(batch.indices), self._examples.count
        kept = all(answer.ndim and len(answer) == size for answer in fresh)
        if self._memory is None and kept and 4 * count * sum(answer[0].numel() for answer in fresh) <= CACHE_BYTES:
            self._memory = [torch.empty((count, *answer.shape[1:]), dtype=answer.dtype, device=answer.device) for answer in fresh]
        if self._memory is not None:
            for memory, answer in zip(self._memory, fresh, strict=True):
                memory[torch.from_numpy(batch.indices).to(answer.device)] = answer
            self._known[batch.indices] = True
