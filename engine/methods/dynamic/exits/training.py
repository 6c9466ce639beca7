"""The joint loss of all exits (Huang et al., 2018, section 4), and what earlier exits learn from the last one (Zhang et al., 2019)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.contract.errors import EngineError
from engine.contract.heads import Head
from engine.methods.dynamic.exits.network import ExitNetwork
from engine.methods.dynamic.spec_exits import EarlyExit, SelfDistillation
from engine.tasks import task_of
from engine.training.batches import Batch, Outputs, as_list
from engine.training.losses import Loss, targets_loss


def weights_of(params: EarlyExit, count: int) -> tuple[float, ...]:
    """The weight of each exit's loss. Raises `loss_weights_invalid` where there are not as many as exits."""
    if params.loss_weights is None:
        return (1.0,) * count
    if len(params.loss_weights) != count:
        raise EngineError(
            "loss_weights_invalid",
            f"loss_weights has {len(params.loss_weights)} entries, but the network has {count} exits, its own end included.",
            hint=f"Give {count} weights, from the first exit to the last.",
            details={"exits": count},
        )
    return params.loss_weights


def joint_loss(heads: Sequence[Head], weights: Sequence[float], outputs: int, params: EarlyExit) -> Loss:
    """Σ w_k · loss_k over the exits, each a mean over the batch.

    With self-distillation an earlier exit's loss is (1 - alpha) · loss(targets) + alpha · loss(last exit's softened answers).

    Args:
        heads: Those with targets.
        weights: One an exit.
        outputs: How many outputs an exit has.
        params: `label_smoothing` and `self_distillation`.
    """
    against_targets = targets_loss(heads, params.label_smoothing)

    def loss(given: Outputs, batch: Batch) -> Tensor:
        last, *earlier = (as_list(given)[start : start + outputs] for start in range(0, len(weights) * outputs, outputs))
        values = []
        for weight, answers in zip(weights, (*earlier, last), strict=True):
            if weight == 0:
                continue
            value = against_targets(answers, batch)
            if params.self_distillation is not None and answers is not last:
                alpha = params.self_distillation.alpha
                value = (1 - alpha) * value + alpha * _likeness(heads, answers, last, params.self_distillation)
            values.append(weight * value)
        return torch.stack(values).sum()

    return loss


def of_all_exits(network: ExitNetwork, loss: Loss) -> Loss:
    """The joint loss also where the network gives the last exit's outputs alone, as it does in evaluation: the others are computed then."""

    def whole(given: Outputs, batch: Batch) -> Tensor:
        if network.training:
            return loss(given, batch)
        found, _ = network.answers(*batch.inputs)
        return loss([output for outputs in (found[-1], *found[:-1]) for output in outputs], batch)

    return whole


def _likeness(heads: Sequence[Head], answers: Sequence[Tensor], last: Sequence[Tensor], params: SelfDistillation) -> Tensor:
    values = []
    for head in heads:
        task = task_of(head)
        wanted = task.soften(head, [last[i].detach() for i in head.indices], params.temperature)
        values.append(head.weight * task.match(head, [answers[i] for i in head.indices], wanted, params.temperature))
    return torch.stack(values).sum()
