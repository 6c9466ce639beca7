"""Losses of a head's outputs, against targets and against a teacher. Each is a mean over what counts."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from engine.contract.heads import Head

_NO_CLASS = -100
_TINY = 1e-12


def class_logits(head: Head, output: Tensor) -> Tensor:
    """Unnormalized log-probabilities with the classes along dimension 1, trailing dimensions of size 1 dropped."""
    assert head.class_axis is not None
    scores = output.movedim(head.class_axis, 1) if head.class_axis != 1 else output
    while scores.ndim > 2 and scores.shape[-1] == 1:
        scores = scores.squeeze(-1)
    return torch.log(scores.clamp_min(_TINY)) if head.scale == "probabilities" else scores


def cross_entropy(head: Head, output: Tensor, target: Tensor, label_smoothing: float) -> Tensor:
    """Cross-entropy with class numbers, the mean over the examples and positions that count."""
    logits = class_logits(head, output)
    ignored = _NO_CLASS if head.ignored is None else head.ignored
    value = functional.cross_entropy(
        logits, target.reshape(len(logits), *logits.shape[2:]), label_smoothing=label_smoothing, ignore_index=ignored
    )
    # Of a batch in which no place counts, torch gives 0 / 0.
    return value if head.ignored is None or bool((target != ignored).any()) else logits.sum() * 0


def binary_logits(head: Head, output: Tensor) -> Tensor:
    """Logits of decisions that are independent of each other."""
    if head.scale != "probabilities":
        return output
    shares = output.clamp(_TINY, 1 - 1e-7)
    return torch.log(shares) - torch.log1p(-shares)


def binary_cross_entropy(head: Head, output: Tensor, target: Tensor, label_smoothing: float) -> Tensor:
    """Binary cross-entropy with zeros and ones, the mean over all decisions that count."""
    wanted = target.reshape(output.shape).to(output.dtype)
    if head.ignored is not None:
        counted = wanted != head.ignored
        output, wanted = output[counted], wanted[counted]
        if not len(wanted):
            return output.sum() * 0
    wanted = wanted * (1 - label_smoothing) + 0.5 * label_smoothing
    return functional.binary_cross_entropy_with_logits(binary_logits(head, output), wanted)


def squared_error(output: Tensor, target: Tensor) -> Tensor:
    """Mean squared error."""
    return functional.mse_loss(output, target.reshape(output.shape).to(output.dtype))


def contrast(output: Tensor, labels: Tensor, temperature: float = 0.1) -> Tensor:
    """The supervised contrastive loss (Khosla et al., 2020, L_out): each example tells those of its class from all others."""
    vectors = functional.normalize(output.flatten(1), dim=1)
    itself = torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    likeness = (vectors @ vectors.T / temperature).masked_fill(itself, -torch.inf)
    alike = (labels[:, None] == labels[None]) & ~itself
    counted = alike.any(dim=1)
    if not bool(counted.any()):
        return vectors.sum() * 0
    shares = functional.log_softmax(likeness, dim=1).masked_fill(~alike, 0.0)
    return -(shares.sum(dim=1)[counted] / alike.sum(dim=1)[counted]).mean()


def softened(head: Head, output: Tensor, temperature: float) -> Tensor:
    """What a teacher's output is to a student: probabilities at the temperature, classes along dimension 1; or the values themselves."""
    if head.class_axis is not None:
        return torch.softmax(class_logits(head, output) / temperature, dim=1)
    return torch.sigmoid(binary_logits(head, output) / temperature) if head.threshold is not None else output


def unlike(head: Head, output: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """How far a student's output is from `softened` ones of the same shape.

    Of class scores T²·KL(teacher ‖ student at T), summed over the classes (section 2.1 of Hinton, Vinyals, Dean, 2015), of single decisions
    the same with a sigmoid each: means over the examples and positions. Of plain values the mean squared error.
    """
    if head.class_axis is not None:
        logits = class_logits(head, output)
        if logits.ndim > 2:
            logits, wanted = (item.movedim(1, -1).flatten(0, -2) for item in (logits, wanted))
        return distillation_loss(logits, wanted, temperature)
    if head.threshold is not None:
        logits = binary_logits(head, output) / temperature
        entropy = functional.binary_cross_entropy(wanted, wanted)
        return temperature**2 * (functional.binary_cross_entropy_with_logits(logits, wanted) - entropy)
    return functional.mse_loss(output, wanted)


def distillation_loss(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T²·KL(teacher ‖ student at T), summed over the classes and averaged over the rows.

    `logits` (N, C) are the student's; `teacher` are probabilities at the same temperature. The factor T² keeps the size of the gradient
    where T changes.
    """
    return temperature**2 * functional.kl_div(functional.log_softmax(logits / temperature, dim=1), teacher, reduction="batchmean")
