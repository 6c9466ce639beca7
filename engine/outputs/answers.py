"""Answers of a head beside its targets, while a network trains."""

from __future__ import annotations

from torch import Tensor

from engine.contract.heads import Head
from engine.outputs.losses import class_logits


def share_right(head: Head, output: Tensor, target: Tensor) -> Tensor:
    """Share of a head's answers (classes, or decisions of yes and no) that are the targets', over the places that count."""
    if head.class_axis is not None:
        answers = class_logits(head, output).argmax(dim=1)
        wanted = target.reshape(answers.shape)
        right = (answers == wanted).float()
        if head.ignored is None:
            return right.mean()
        counted = (wanted != head.ignored).float()
        return (right * counted).sum() / counted.sum().clamp_min(1)
    assert head.threshold is not None
    right = (output > head.threshold) == (target.reshape(output.shape) > 0)
    return (right if head.ignored is None else right[target.reshape(output.shape) != head.ignored]).float().mean()
