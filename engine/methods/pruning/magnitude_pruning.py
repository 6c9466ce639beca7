"""Unstructured pruning: the least important weights become zero, by rank, and stay zero whatever is trained later."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from engine.contract.errors import EngineError
from engine.contract.params import TrainingFields
from engine.formats.sparse import save_sparse
from engine.methods.channels.gradients import backpropagated
from engine.methods.context import Context
from engine.methods.pruning.spec import MagnitudePruning
from engine.networks import masks
from engine.networks.layers import CONVOLUTIONS, select
from engine.networks.masks import Density, Mask
from engine.networks.network import Network
from engine.training.loop import Hooks, Moment, iterations_of

GRADUAL_SHARE = 2 / 3
"""Share of the training over which `gradual` raises the sparsity; the rest lets the network recover."""


def apply(network: Network, params: MagnitudePruning, context: Context) -> Network:
    """Prune a copy of the network to the wanted sparsity; the masks act in its forward pass until `masks.fold` makes it plain.

    Besides the dense file, one is published that holds a bit per weight and the values that are not zero (`engine.formats.sparse`).
    Raises `pruning_impossible` where nothing could be removed.
    """
    context.phase("pruning")
    module = copy.deepcopy(network.module).to(context.device)
    weights = _weights(module, params, context)
    started = _density(module, weights)
    context.stage("before", module)
    if params.schedule == "gradual":
        _prune_while_training(module, weights, params, context)
    else:
        rounds = params.iterations if params.schedule == "iterative" else 1
        for number in context.rounds(rounds):
            _narrow(module, weights, _target(params, number / rounds), params, context, seed=context.new_seed())
            context.stage(f"pruned {number}/{rounds}" if rounds > 1 else "pruned", module)
            if params.finetune is not None:
                context.phase("training")
                context.train(module, params.finetune)
                context.stage(f"tuned {number}/{rounds}" if rounds > 1 else "tuned", module)
    finished = _density(module, weights)
    if finished.kept_count == started.kept_count:
        raise EngineError(
            "pruning_impossible",
            f"No weight was pruned: {started.sparsity:.1%} of the {started.total_count} chosen weights are zero already.",
            hint="Raise sparsity, or choose more layers.",
        )
    _report(module, finished, context)
    path = context.work / "sparse_weights.safetensors"
    state = masks.fold(module).state_dict()
    save_sparse(path, state)
    context.artifact(path, kind="sparse_weights", format="safetensors", dense_bytes=sum(tensor.nbytes for tensor in state.values()))
    return network.with_module(module.cpu())


def keep_best(scores: Tensor, mask: Mask, kept_count: int) -> Mask:
    """The mask of the `kept_count` highest scores among those that `mask` keeps; the count is exact even with ties, of which the first stay."""
    if kept_count >= mask.keep.numel():
        return mask
    flat = torch.where(mask.keep, scores, -torch.inf).reshape(-1)
    # Selecting takes a tenth of the time and of the memory of sorting.
    bound = torch.kthvalue(flat, flat.numel() - kept_count).values
    keep = flat > bound
    ties = torch.nonzero(flat == bound).reshape(-1)
    keep[ties[: kept_count - int(keep.sum())]] = True
    return mask.narrowed(keep.reshape(mask.keep.shape) & mask.keep)


def keep_best_together(scores: dict[str, Tensor], old: dict[str, Mask], kept_count: int) -> dict[str, Mask]:
    """`keep_best` over all tensors in one ranking."""
    names = list(scores)
    joined = Mask(torch.cat([old[name].keep.reshape(-1) for name in names]))
    best = keep_best(torch.cat([scores[name].reshape(-1) for name in names]), joined, kept_count).keep
    parts = torch.split(best, [old[name].keep.numel() for name in names])
    return {name: old[name].narrowed(part.reshape(old[name].keep.shape)) for name, part in zip(names, parts, strict=True)}


def keep_pattern(scores: Tensor, mask: Mask, kept: int, group: int, *, along: int = 1) -> Mask:
    """N:M: of every `group` neighbours in the dimension `along`, which `group` divides, the `kept` highest scores."""
    rows = torch.where(mask.keep, scores, -torch.inf).movedim(along, -1)
    cells = rows.reshape(*rows.shape[:-1], -1, group)
    keep = torch.zeros_like(cells, dtype=torch.bool)
    keep.scatter_(-1, torch.sort(cells, dim=-1, descending=True, stable=True).indices[..., :kept], True)
    return mask.narrowed(keep.reshape(rows.shape).movedim(-1, along) & mask.keep)


def cubic(done: float, start: float, end: float) -> float:
    """Sparsity after the share `done` of the schedule of Zhu and Gupta, equation 1."""
    return end + (start - end) * (1 - done) ** 3


def _target(params: MagnitudePruning, done: float) -> float:
    """Share of the weights kept after the share `done` of the rounds: every round keeps the same share of what was left."""
    if params.pattern is not None:
        kept, group = map(int, params.pattern.split(":"))
        return float((kept / group) ** done)
    return float((1 - params.wanted_sparsity) ** done)


def _weights(module: nn.Module, params: MagnitudePruning, context: Context) -> list[str]:
    """Names of the weights that take part."""
    selection = select(module, include=params.include, ignore=params.ignore)
    context.unmatched(selection.unmatched_ignores)
    names = masks.weights_of(selection.layers)
    if params.pattern is not None:
        group = int(params.pattern.split(":")[1])
        odd = [name for name in names if _inputs_of(module, name)[1] % group]
        names = [name for name in names if name not in odd]
        if odd:
            context.warn(
                "pattern_not_applicable",
                f"{params.pattern} needs a multiple of {group} inputs, so these weights stay dense: {', '.join(odd)}.",
                layers=odd,
            )
    if not names:
        raise EngineError("pruning_impossible", "No layer is left to prune.", hint="Check include, ignore and pattern.")
    return names


def _weight(module: nn.Module, name: str) -> Tensor:
    value = getattr(masks.owner(module, name), name.rpartition(".")[2])
    assert isinstance(value, Tensor)
    return value.detach()


def _inputs_of(module: nn.Module, name: str) -> tuple[int, int]:
    """The dimension of a weight that runs over inputs, and how many of them meet one output."""
    layer, shape = masks.owner(module, name), _weight(module, name).shape
    if isinstance(layer, CONVOLUTIONS) and layer.transposed:
        return 0, shape[0] // layer.groups
    return 1, shape[1]


def _masks(module: nn.Module, weights: list[str]) -> dict[str, Mask]:
    present = masks.held(module)
    return {name: present.get(name) or Mask.full(_weight(module, name)) for name in weights}


def _density(module: nn.Module, weights: list[str]) -> Density:
    return sum((mask.density for mask in _masks(module, weights).values()), Density(0, 0))


def _narrow(module: nn.Module, weights: list[str], kept_share: float, params: MagnitudePruning, context: Context, *, seed: int) -> None:
    """Prune the named weights until `kept_share` of them is left."""
    old = _masks(module, weights)
    scores = _scores(module, weights, params, context, seed)
    if params.pattern is not None:
        group = int(params.pattern.split(":")[1])
        kept = round(kept_share * group)
        new = {name: keep_pattern(scores[name], old[name], kept, group, along=_inputs_of(module, name)[0]) for name in weights}
    elif params.scope == "global":
        total = sum(mask.density.total_count for mask in old.values())
        new = keep_best_together(scores, old, round(kept_share * total))
    else:
        new = {name: keep_best(scores[name], old[name], round(kept_share * old[name].density.total_count)) for name in weights}
    masks.hold(module, new)


def _scores(module: nn.Module, weights: list[str], params: MagnitudePruning, context: Context, seed: int) -> dict[str, Tensor]:
    """One score a weight. The l1 and l2 norms of a single weight rank alike."""
    if params.importance == "random":
        generator = torch.Generator().manual_seed(seed)
        return {name: torch.rand(_weight(module, name).shape, generator=generator).to(context.device) for name in weights}
    if params.importance == "taylor":
        return _taylor(module, weights, context, seed)
    return {name: _weight(module, name).abs() for name in weights}


def _taylor(module: nn.Module, weights: list[str], context: Context, seed: int) -> dict[str, Tensor]:
    """|weight · gradient of the mean loss|: the first-order change of the loss when the weight becomes zero."""
    sums = {name: torch.zeros_like(_weight(module, name)) for name in weights}
    parameters = {name: masks.stored(masks.owner(module, name)) for name in weights}
    count = 0
    for size in backpropagated(module, context, seed=seed):
        count += size
        for name, parameter in parameters.items():
            if parameter.grad is not None:
                sums[name] += parameter.grad * size
    return {name: (_weight(module, name) * total / count).abs() for name, total in sums.items()}


def _prune_while_training(module: nn.Module, weights: list[str], params: MagnitudePruning, context: Context) -> None:
    assert params.finetune is not None
    total = iterations_of(params.finetune, context.labelled("train").count)
    updates = mask_updates(params.finetune, total, params.iterations)
    # Drawn before the training: another attempt, which goes on in the middle of it, finds the same seed at each update.
    seeds = {iteration: context.new_seed() for iteration in updates}
    start = _density(module, weights).sparsity
    masks.hold(module, _masks(module, weights))

    def update(moment: Moment) -> None:
        if moment.iteration in updates:
            sparsity = cubic(updates[moment.iteration], start, max(start, params.wanted_sparsity))
            _narrow(module, weights, 1 - sparsity, params, context, seed=seeds[moment.iteration])
            context.metric("sparsity", _density(module, weights).sparsity, step=moment.iteration)
            moment.module.train()

    context.phase("training")
    context.train(module, params.finetune, hooks=Hooks(on_step=(update,)))
    context.stage("tuned", module)


def mask_updates(finetune: TrainingFields, total: int, updates: int) -> dict[int, float]:
    """Optimizer step → share of the gradual schedule that is done there; the last one is 1, at `GRADUAL_SHARE` of the training."""
    last = max(1, int(total * GRADUAL_SHARE))
    if total < 1:
        raise EngineError("spec_invalid", "A gradual schedule prunes while it trains, but finetune has no step.", hint="Raise epochs.")
    return {max(1, round(last * number / updates)): number / updates for number in range(1, updates + 1)}


def _report(module: nn.Module, finished: Density, context: Context) -> None:
    layers = {name: mask.density for name, mask in masks.held(module).items()}
    context.report(
        "layers", {name: {"kept_count": d.kept_count, "total_count": d.total_count, "sparsity": d.sparsity} for name, d in layers.items()}
    )
    context.metric("sparsity", finished.sparsity)
    empty = [name for name, density in layers.items() if density.kept_count == 0]
    if empty:
        context.warn("layer_all_zero", f"Every weight of these layers is zero: {', '.join(empty)}.", layers=empty)
    context.warn(
        "no_dense_speedup",
        "Zeros make the compressed file smaller; dense inference computes them all the same. structured_pruning makes networks faster.",
    )
