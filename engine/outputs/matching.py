"""How a student's class scores are compared with a teacher's, beside the divergence of their softened answers."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_TINY = 1e-30


def centered(logits: Tensor) -> Tensor:
    """Logits (N, C, …) without their mean over the classes, which no softmax sees."""
    return logits - logits.mean(dim=1, keepdim=True)


def matched_logits(logits: Tensor, wanted: Tensor) -> Tensor:
    """Half the mean squared difference of zero-mean logits: the limit of T²·KL for high temperatures (Hinton et al., 2015, section 2.1)."""
    return 0.5 * functional.mse_loss(centered(logits), wanted)


def matched_decisions(logits: Tensor, wanted: Tensor) -> Tensor:
    """The same limit for decisions of yes and no that are independent of each other: an eighth of the mean squared difference."""
    return functional.mse_loss(logits, wanted) / 8


def decoupled(logits: Tensor, teacher: Tensor, target: Tensor, temperature: float, weights: tuple[float, float]) -> Tensor:
    """T²·(α·KL(b_T ‖ b_S) + β·KL(p̂_T ‖ p̂_S)): Zhao et al., 2022, equation 8, the mean over the rows.

    `logits` (N, C) are the student's, `teacher` probabilities at the same temperature, `target` (N) class numbers; b is the target class
    against all others, p̂ the others among themselves. Their sum with weights 1 and 1 - p(target) is the KL divergence. Rows whose
    target is negative do not count.
    """
    counted = target >= 0
    logits, teacher, target = logits[counted], teacher[counted], target[counted]
    if not len(target):
        return logits.sum() * 0
    is_target = functional.one_hot(target, logits.shape[1]).bool()
    ours = functional.log_softmax(logits / temperature, dim=1)
    theirs = teacher.clamp_min(_TINY).log()
    kl_target = _divergence(_target_and_rest(theirs, is_target), _target_and_rest(ours, is_target))
    kl_others = _divergence(_others(theirs, is_target), _others(ours, is_target))
    return temperature**2 * (weights[0] * kl_target + weights[1] * kl_others)


def _target_and_rest(logs: Tensor, is_target: Tensor) -> Tensor:
    """Logarithms of two probabilities; the second one is a sum, as 1 - p loses all digits of a sure answer."""
    return torch.stack([logs[is_target], torch.logsumexp(logs.masked_fill(is_target, -torch.inf), dim=1)], dim=1)


def _others(logs: Tensor, is_target: Tensor) -> Tensor:
    """Logarithms of the other classes' shares among themselves."""
    rest = logs[~is_target].reshape(len(logs), -1)
    return functional.log_softmax(rest, dim=1)


def _divergence(theirs: Tensor, ours: Tensor) -> Tensor:
    return functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)
