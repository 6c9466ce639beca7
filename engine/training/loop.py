"""The one training loop. Methods give it a loss and callbacks, never an epoch loop of their own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from engine.contract.errors import EngineError
from engine.contract.heads import Head
from engine.contract.params import TrainingFields
from engine.networks.channels_last import channels_last
from engine.training.augmentation.augmenter import Augmenter
from engine.training.batches import Batch, Examples, Indices, Outputs, as_list
from engine.training.checkpoints import Place
from engine.training.keeping import Keeping
from engine.training.losses import Loss
from engine.training.parallel.replicas import ALONE, Replicas
from engine.training.resume import History, Run

_NORMALIZATIONS = (_BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
_CHECK_EVERY = 16


@dataclass(frozen=True)
class Moment:
    """Where a training run stands when a callback is called."""

    iteration: int
    """Optimizer steps done so far."""
    iterations: int
    """Optimizer steps of the whole run."""
    epoch: int
    """Passes over the examples completed or begun, from 1."""
    module: nn.Module


Callback = Callable[[Moment], None]


@dataclass(frozen=True)
class Hooks:
    """What happens inside of the loop besides training."""

    before_optimizer_step: Sequence[Callback] = ()
    """After the gradients are there, before they are clipped and used: for regularizers that act on gradients."""
    on_step: Sequence[Callback] = ()
    """After an optimizer step."""
    on_epoch: Sequence[Callable[[Moment, dict[str, float]], None]] = ()
    """After an epoch, with its record, which may be added to."""
    validate: Callable[[nn.Module], dict[str, float]] = lambda module: {}
    """Figures of the state after an epoch, of the averaged weights where those are what the training is to end with."""
    share_right: Callable[[Outputs, Batch], Tensor] | None = None
    """Share of a batch's answers that are right."""
    memory: dict[str, Tensor] = field(default_factory=dict)
    """All that the callbacks remember outside of the module, by name. It is saved with the run, and a run that goes on in another process
    finds it here before its first step: tensors that are there change in place."""


NO_HOOKS = Hooks()


def train(
    module: nn.Module,
    examples: Examples,
    params: TrainingFields,
    *,
    loss: Loss,
    names: Sequence[str],
    device: torch.device,
    seed: int,
    hooks: Hooks = NO_HOOKS,
    start_iteration: int = 0,
    place: Place | None = None,
    replicas: Replicas = ALONE,
    heads: Sequence[Head] = (),
) -> History:
    """Train the module in place and leave it in evaluation mode.

    The order of the examples and what augmentation draws come from `seed` alone, dropout from torch's generator, seeded for the run and
    put back after it. `heads` are those whose targets are trained on. With early stopping the best state is left in the module.
    With `start_iteration` the run begins there: same schedule position and same examples as a run that did those steps already.
    At `place` the state is saved from time to time and at the end; what is found there is not done again.
    `replicas` divide every batch among them; each ends with the same module, equal to a single process's up to rounding.
    Raises `training_diverged` where the loss or a weight is no longer finite, `dataset_invalid` where there are no examples,
    `augmentation_invalid` where inputs or targets do not allow the augmentation.
    """
    if examples.count == 0:
        raise EngineError("dataset_invalid", "The training split is empty.", hint="Upload x_train and y_train with at least one example.")
    total = iterations_of(params, examples.count)
    per_epoch = math.ceil(examples.count / params.batch_size)
    module.to(device)
    first = Batch.of(examples, np.arange(1), names, device)
    optimizer = build_optimizer(module, params)
    norms = [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]
    batch_of = _batches_of(examples, params, names, heads, seed=seed, device=device)
    keeping = Keeping(module, params)
    run = Run(module, optimizer, device, place=place, iteration=start_iteration, memories={"memory": hooks.memory, **keeping.memories})
    with channels_last(module, first.inputs), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        run.restore()
        replicas.begin(module)
        module.train()
        for iteration, indices in () if run.finished else _order(examples.count, params.batch_size, seed, run.iteration, total):
            share = replicas.share(indices)
            batch = batch_of(indices, share.part, iteration)
            # One example has no batch statistics where its feature map is a single value: the running ones serve.
            for layer in norms if len(indices) == 1 else ():
                layer.eval()
            rate = _set_rate(optimizer, learning_rate(params, iteration, total))
            optimizer.zero_grad(set_to_none=True)
            with share.forward():
                outputs = _computed(module, batch, params)
                value = loss(outputs, batch)
            run.count_right(hooks.share_right, outputs, batch, share)
            value = share.backward(value, module)
            moment = Moment(iteration + 1, total, iteration // per_epoch + 1, module)
            for callback in hooks.before_optimizer_step:
                callback(moment)
            if params.gradient_clip_norm is not None:
                nn.utils.clip_grad_norm_(module.parameters(), params.gradient_clip_norm)
            optimizer.step()
            for layer in norms if len(indices) == 1 else ():
                layer.train()
            run.loss_sum += value * len(indices)
            run.seen += len(indices)
            run.iteration = iteration + 1
            keeping.step_done(module, iteration + 1)
            if (iteration + 1) % _CHECK_EVERY == 0:
                _check_finite(run.loss_sum, moment, rate)
            for callback in hooks.on_step:
                callback(moment)
            if (iteration + 1) % per_epoch == 0 or iteration + 1 == total:
                _check_finite(run.loss_sum, moment, rate)
                if _epoch_done(run, moment, rate, hooks, keeping):
                    break
            if iteration + 1 < total:
                run.save_if_due()
        if not run.finished:
            run.history.best_epoch = keeping.leave(module)
    _check_weights(module, run.iteration, learning_rate(params, max(total - 1, 0), total))
    module.eval()
    return run.finish()


def _batches_of(
    examples: Examples, params: TrainingFields, names: Sequence[str], heads: Sequence[Head], *, seed: int, device: torch.device
) -> Callable[[Indices, slice, int], Batch]:
    """Reads the examples of a part of a batch for an optimizer step, augmented where the parameters say so."""
    if params.augment is not None:
        return Augmenter.of(params.augment, examples, names, heads, seed=seed, device=device).batch
    return lambda indices, part, iteration: Batch.of(examples, indices[part], names, device)


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> float:
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate


def _epoch_done(run: Run, moment: Moment, rate: float, hooks: Hooks, keeping: Keeping) -> bool:
    """Make the record of an epoch; returns whether the training is to end."""
    record = {"epoch": float(moment.epoch), "train.loss": float(run.loss_sum) / run.seen, "learning_rate": rate}
    if hooks.share_right is not None:
        record["train.accuracy"] = float(run.right_sum) / run.seen
    figures, ends = keeping.epoch_done(moment.module, hooks.validate, moment.epoch)
    record |= figures
    for callback in hooks.on_epoch:
        callback(moment, record)
    run.history.epochs.append(record)
    run.loss_sum.zero_()
    run.right_sum.zero_()
    run.seen = 0
    return ends


def _computed(module: nn.Module, batch: Batch, params: TrainingFields) -> Outputs:
    """The module's outputs; with mixed precision computed in bfloat16 where that is safe, and given in float32."""
    if params.precision == "float32":
        outputs: Outputs = module(*batch.inputs)
        return outputs
    with torch.autocast(batch.device.type, dtype=torch.bfloat16):
        outputs = module(*batch.inputs)
    wide = [output.float() if output.dtype == torch.bfloat16 else output for output in as_list(outputs)]
    return wide[0] if isinstance(outputs, Tensor) else wide


def iterations_of(params: TrainingFields, count: int) -> int:
    """Optimizer steps of a run over `count` examples; 0 where the parameters give no length."""
    if params.iterations is not None:
        return params.iterations
    return (params.epochs or 0) * math.ceil(count / params.batch_size)


def learning_rate(params: TrainingFields, iteration: int, total: int) -> float:
    """The rate of the optimizer step number `iteration`, from 0, of `total`."""
    if iteration < params.warmup_iterations:
        return params.learning_rate * (iteration + 1) / params.warmup_iterations
    done = (iteration - params.warmup_iterations) / max(1, total - params.warmup_iterations)
    if params.schedule == "cosine":
        return params.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
    if params.schedule == "linear":
        return params.learning_rate * (1 - done)
    if params.schedule == "multistep":
        return params.learning_rate * params.gamma ** sum(iteration >= int(total * milestone) for milestone in params.milestones)
    return params.learning_rate


def build_optimizer(module: nn.Module, params: TrainingFields) -> torch.optim.Optimizer:
    """The optimizer, with weight decay on weights of at least two dimensions outside of normalization layers only."""
    norms = {id(p) for layer in module.modules() if isinstance(layer, _NORMALIZATIONS) for p in layer.parameters(recurse=False)}
    trainable = [p for p in module.parameters() if p.requires_grad]
    if not trainable:
        raise EngineError("not_trainable", "The network has no parameters that can be trained.", hint="Leave out steps that train.")
    decayed = [p for p in trainable if p.ndim > 1 and id(p) not in norms]
    others = [p for p in trainable if p.ndim <= 1 or id(p) in norms]
    groups = [{"params": decayed, "weight_decay": params.weight_decay}, {"params": others, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    if params.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=params.learning_rate, momentum=params.momentum)
    kind = torch.optim.Adam if params.optimizer == "adam" else torch.optim.AdamW
    # One pass over a weight and its moments instead of one for each operation: a quarter of the time.
    return kind(groups, lr=params.learning_rate, fused=True)


def _order(count: int, size: int, seed: int, start: int, total: int) -> Iterator[tuple[int, Indices]]:
    """Iteration numbers and the examples of each: every epoch a fresh permutation that depends on seed and epoch alone."""
    per_epoch = math.ceil(count / size)
    permutation: Indices | None = None
    for iteration in range(start, total):
        epoch, place = divmod(iteration, per_epoch)
        if permutation is None or place == 0:
            permutation = np.random.default_rng([seed, epoch]).permutation(count)
        yield iteration, permutation[place * size : (place + 1) * size]


def _check_weights(module: nn.Module, iteration: int, rate: float) -> None:
    """Forget the gradients, too."""
    for parameter in module.parameters():
        parameter.grad = None
        if not torch.isfinite(parameter).all():
            raise _diverged("a weight", iteration, rate)


def _check_finite(loss_sum: Tensor, moment: Moment, rate: float) -> None:
    if not math.isfinite(float(loss_sum)):
        raise _diverged("the loss", moment.iteration, rate)


def _diverged(what: str, iteration: int, rate: float) -> EngineError:
    return EngineError(
        "training_diverged",
        f"Training diverged: {what} is no longer a finite number by iteration {iteration} (learning rate {rate:g}).",
        hint="Lower learning_rate, set gradient_clip_norm or warmup_iterations, and look for extreme values in the training inputs.",
        details={"iteration": iteration, "learning_rate": rate},
    )
