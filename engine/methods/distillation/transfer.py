"""The examples that a student learns from, classes that are left out of them, and what is made up for that afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from engine.contract.errors import EngineError
from engine.contract.heads import Head
from engine.methods.context import Context
from engine.methods.distillation.bias import corrected_head, matching_biases, with_biases
from engine.methods.distillation.spec import Distillation
from engine.methods.distillation.teachers import Teacher, a_few
from engine.outputs.losses import class_logits
from engine.tasks import task_of
from engine.training.batches import Batch, Chosen, Examples, as_list, batches

_TOGETHER = 256
_MOST_EXAMPLES = 50_000
"""On which biases are found; more of them change nothing."""


@dataclass(frozen=True)
class Transfer:
    """The examples of a distillation."""

    every: Examples
    """Training examples of all classes."""
    examples: Examples
    """Those that the student learns from."""
    validation: Examples | None
    """What is kept out of the training, where somebody looks at it."""


def chosen(params: Distillation, context: Context) -> Transfer:
    """Raises `dataset_invalid` where no examples are left, or labels are missing that are needed."""
    if params.needs.labels:
        context.labelled("train")
    every, validation = context.to_train_on(params)
    if params.bias_correction == "validation" and validation is None:
        assert context.data is not None
        every, validation = context.data.train(seed=context.seed), context.data.validation(seed=context.seed)
    if not params.exclude_classes:
        return Transfer(every, every, validation)
    head = corrected_head(context.trained_heads(every))
    _check_classes(params, head)
    kept = np.flatnonzero(~np.isin(labels_of(head, every), params.exclude_classes))
    if not len(kept):
        raise EngineError("dataset_invalid", "exclude_classes leaves no training example.", hint="Exclude fewer classes.")
    context.report("transfer_examples_count", len(kept))
    return Transfer(every, Chosen(every, kept), validation)


def labels_of(head: Head, examples: Examples) -> NDArray[np.int64]:
    """The class of every example."""
    labels = task_of(head).prepare(head, examples.targets_at(np.arange(examples.count)), {})
    assert labels is not None
    return np.asarray(labels, dtype=np.int64)


def corrected(student: nn.Module, teachers: Sequence[Teacher], params: Distillation, context: Context, transfer: Transfer) -> nn.Module:
    """The student with the biases that `bias_correction` asks for, found on examples that are not evaluated."""
    if params.bias_correction == "none":
        return student
    head = corrected_head(context.reading())
    _check_classes(params, head)
    seen = transfer.validation if params.bias_correction == "validation" else transfer.every
    assert seen is not None
    prior = np.asarray(params.class_prior, dtype=np.float64)
    if not params.class_prior:
        prior = _prior(head, seen, teachers, context)
    free = np.ones(head.classes_count or 0, dtype=bool)
    if params.exclude_classes:
        free[:] = False
        free[list(params.exclude_classes)] = True
    logits = logits_of(student, head, seen, context)
    biases = matching_biases(logits, prior, free)
    context.report("bias_correction", {"biases": biases.tolist(), "prior": prior.tolist(), "examples_count": len(logits)})
    student = with_biases(student, head, biases, a_few(seen, context))
    context.stage("corrected", student)
    return student


def recalls(module: nn.Module, examples: Examples, context: Context) -> list[float | None]:
    """Share of each class's examples that get this class; None without any."""
    head = corrected_head(context.trained_heads(examples))
    labels, answers = labels_of(head, examples), logits_of(module, head, examples, context, most=examples.count).argmax(axis=1)
    return [float((answers[labels == c] == c).mean()) if (labels == c).any() else None for c in range(head.classes_count or 0)]


def _check_classes(params: Distillation, head: Head) -> None:
    count = head.classes_count or 0
    beyond = [number for number in params.exclude_classes if number >= count]
    if beyond:
        raise EngineError(
            "spec_invalid", f"exclude_classes names class {beyond[0]}, and the network has {count} classes.", hint="They count from 0."
        )
    if params.class_prior and len(params.class_prior) != count:
        raise EngineError(
            "spec_invalid",
            f"class_prior has {len(params.class_prior)} shares, and the network has {count} classes.",
            hint="Give each its own.",
        )


def _prior(head: Head, examples: Examples, teachers: Sequence[Teacher], context: Context) -> NDArray[np.float64]:
    """Frequencies of the labels; without any, the teachers' mean answer."""
    if head.target is not None and head.target in examples.targets:
        return np.bincount(labels_of(head, examples), minlength=head.classes_count or 0) / examples.count
    places = np.arange(min(examples.count, _MOST_EXAMPLES))
    total = np.zeros(head.classes_count or 0)
    for teacher in teachers:
        own = next(item for item in teacher.heads if item.name == head.name)
        for batch in batches(examples, context.input_names, _TOGETHER, context.device, places):
            with torch.no_grad():
                shares = torch.softmax(class_logits(own, teacher.answers(batch)[own.index]), dim=1)
            total += shares.sum(dim=0).double().cpu().numpy()
    return np.asarray(total / total.sum())


@torch.no_grad()
def logits_of(module: nn.Module, head: Head, examples: Examples, context: Context, most: int = _MOST_EXAMPLES) -> NDArray[np.float64]:
    """Logits (N, C) of a head for the examples, at most `most` of them."""
    module.to(context.device).eval()
    places = np.arange(min(examples.count, most))

    def answered(batch: Batch) -> NDArray[np.float64]:
        return np.asarray(class_logits(head, as_list(module(*batch.inputs))[head.index]).double().cpu().numpy())

    return np.concatenate([answered(batch) for batch in batches(examples, context.input_names, _TOGETHER, context.device, places)])
