"""BinaryConnect: weights of one bit forward and backward, real ones that collect the updates (Courbariaux et al., 2015)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from engine.contract.errors import EngineError
from engine.methods.context import Context
from engine.methods.quantization.few_bits.attaching import attach, chosen, indexed
from engine.methods.quantization.few_bits.levels import BinaryWeight, Seen
from engine.methods.quantization.few_bits.publishing import publish
from engine.methods.quantization.spec_few_bits import BinaryConnect
from engine.networks import masks
from engine.networks.network import Network
from engine.training.batch_norm import has_running_statistics, recalibrate
from engine.training.batches import Batch, Outputs, as_list
from engine.training.loop import Hooks, Moment
from engine.training.losses import Loss

_NEAR_THE_END = 0.99
"""Real weights beyond this share of the magnitude count as settled."""


def apply(network: Network, params: BinaryConnect, context: Context) -> Network:
    """Train a copy of the network with binary weights; what comes out are those weights in one bit each, or the real ones.

    Raises:
        EngineError: `nothing_quantized` where no layer was chosen, `loss_not_applicable` where the squared hinge has no classes to judge.
    """
    context.phase("training")
    if masks.held(network.module):
        context.warn("zeros_lost", "Binary weights are never zero: those that were pruned come back. ternary and codebook keep zeros.")
    module = masks.fold(network.module).to(context.device)
    names = chosen(module, params, context)
    loss = (
        squared_hinge(context)
        if params.loss == "squared_hinge"
        else context.loss(module, context.labelled("train"), params.label_smoothing)
    )
    context.stage("before", module)
    glorot = {name: glorot_bound(masks.stored(masks.owner(module, name))) for name in names}
    sizes = dict.fromkeys(names, 1.0) if params.magnitude == "one" else glorot
    _begin(module, sizes, params, context)
    if params.magnitude == "one":
        _warn_without_normalization(module, names, context)
    made = iter(sizes.values())
    stochastic = params.binarization == "stochastic"
    levels = attach(module, names, lambda layer, weight: BinaryWeight(next(made), stochastic=stochastic))
    updates = Updates(module, levels, scales={name: _scale(sizes[name], glorot[name], params) for name in names})
    context.train(module, params, loss=loss, hooks=updates.hooks())
    context.report("magnitudes", sizes)
    context.report("settled_ratio", updates.settled())
    published = _scored(module, levels, params, context)
    if params.inference == "real":
        return network.with_module(published.cpu())
    return publish(network, published.cpu().eval(), indexed(module, levels), context, entropy_coded=False)


def glorot_bound(weight: Tensor) -> float:
    """√(1.5 / (fan in + fan out)): the paper's coefficient, of Glorot and Bengio, 2010."""
    fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(weight)
    return math.sqrt(1.5 / (fan_in + fan_out))


def _scale(magnitude: float, glorot: float, params: BinaryConnect) -> float:
    """What the update of a layer is multiplied by (section 2.5)."""
    if params.update_scaling == "none":
        return 1.0
    return (magnitude / glorot) ** (2 if params.optimizer == "sgd" else 1)


@torch.no_grad()
def _begin(module: nn.Module, sizes: Mapping[str, float], params: BinaryConnect, context: Context) -> None:
    """Real weights within ±magnitude: those that are there, or new ones."""
    generator = context.generator()
    for name, size in sizes.items():
        weight = masks.stored(masks.owner(module, name), name.rpartition(".")[2])
        if params.initialization == "random":
            weight.copy_((2 * torch.rand(weight.shape, generator=generator) - 1) * size)
        weight.clamp_(-size, size)


class Updates:
    """What happens to the real weights around an optimizer step: its update is scaled, and the result clipped (algorithm 1, step 3)."""

    def __init__(self, module: nn.Module, levels: Mapping[str, BinaryWeight], scales: Mapping[str, float]) -> None:
        self._levels, self._scales = levels, scales
        self._weights = {name: masks.stored(masks.owner(module, name), name.rpartition(".")[2]) for name in levels}
        self._before: dict[str, Tensor] = {}
        self._signs = {f"positive.{name}": weight.detach() >= 0 for name, weight in self._weights.items()}

    def hooks(self) -> Hooks:
        """For the training."""
        return Hooks(
            before_optimizer_step=(self._remember,),
            on_step=(self._correct,),
            on_epoch=(self._count,),
            memory=self._signs,
        )

    @torch.no_grad()
    def _remember(self, _: Moment) -> None:
        for name, weight in self._weights.items():
            if self._scales[name] != 1:
                self._before[name] = weight.clone()

    @torch.no_grad()
    def _correct(self, _: Moment) -> None:
        for name, weight in self._weights.items():
            if self._scales[name] != 1:
                weight.copy_(torch.lerp(self._before[name], weight, self._scales[name]))
            weight.clamp_(-self._levels[name].magnitude, self._levels[name].magnitude)

    @torch.no_grad()
    def _count(self, _: Moment, record: dict[str, float]) -> None:
        """The share of signs that the epoch has changed."""
        changed, total = 0, 0
        for name, weight in self._weights.items():
            positive = weight >= 0
            changed += int((positive != self._signs[f"positive.{name}"]).sum())
            total += weight.numel()
            self._signs[f"positive.{name}"].copy_(positive)
        record["sign_changes"] = changed / max(1, total)

    @torch.no_grad()
    def settled(self) -> float:
        """The share of real weights at the ends of their range."""
        found = sum(int((weight.abs() > _NEAR_THE_END * self._levels[name].magnitude).sum()) for name, weight in self._weights.items())
        return found / max(1, sum(weight.numel() for weight in self._weights.values()))


def squared_hinge(context: Context) -> Loss:
    """The mean over examples and classes of max(0, 1 - t · score)², t being 1 for the example's class and -1 for all others."""
    heads = context.trained_heads(context.labelled("train"))
    wrong = next((head for head in heads if head.task != "classification" or head.scale == "probabilities"), None)
    if wrong is not None:
        raise EngineError(
            "loss_not_applicable",
            f"squared_hinge judges class scores, but the output {wrong.name!r} "
            + ("holds probabilities." if wrong.task == "classification" else f"is one of the task {wrong.task}."),
            hint="Use loss: cross_entropy, which takes the loss of the network's task.",
        )

    def loss(outputs: Outputs, batch: Batch) -> Tensor:
        given, values = as_list(outputs), []
        for head in heads:
            value = batch.target_loss(head, partial(hinge, given[head.index]))
            assert value is not None
            values.append(head.weight * value)
        return torch.stack(values).sum()

    return loss


def hinge(scores: Tensor, target: Tensor) -> Tensor:
    """The squared hinge of class scores (N, classes) and class numbers (N)."""
    wanted = 2 * nn.functional.one_hot(target, scores.shape[1]).to(scores.dtype) - 1
    return (1 - wanted * scores).clamp_min(0).square().mean()


def _scored(module: nn.Module, levels: Mapping[str, BinaryWeight], params: BinaryConnect, context: Context) -> nn.Module:
    """Score the paper's three ways to use the network, as they come out of the training; returns the one that is published.

    Running statistics are those of the networks that were trained: the binary one, or those that were drawn. Other weights are scored with
    statistics of their own, too, and published with them.
    """
    scores, kept = {}, {}
    for seen in ("binary", "real"):
        plain = _plain(module, levels, seen)
        scores[seen] = context.stage(f"{seen}_weights", plain)
        trained_so = seen == "binary" and params.binarization == "deterministic"
        if not trained_so and has_running_statistics(plain):
            recalibrate(plain, context.labelled("train"), context.input_names, context.device)
            scores[f"{seen}_recalibrated"] = context.stage(f"{seen}_weights_recalibrated", plain)
        kept[seen] = plain
    if params.ensemble_size:
        scores["ensemble"] = context.stage("ensemble", Ensemble(module, levels, params.ensemble_size, context.generator()))
    context.report("inference", scores)
    return kept[params.inference]


def _plain(module: nn.Module, levels: Mapping[str, BinaryWeight], seen: Seen) -> nn.Module:
    """A copy with the weights that layers see in one of the ways."""
    for item in levels.values():
        item.seen = seen
    plain = masks.fold(module.eval())
    for item in levels.values():
        item.seen = "binary"
    return plain


class Ensemble(nn.Module):
    """The mean output of networks whose binary weights were drawn by the probabilities of the real ones."""

    def __init__(self, module: nn.Module, levels: Mapping[str, BinaryWeight], count: int, generator: torch.Generator) -> None:
        super().__init__()
        self.network = _plain(module, levels, "binary")
        self._names = list(levels)
        self._sizes = [item.magnitude for item in levels.values()]
        self._shapes = [masks.stored(masks.owner(module, name), name.rpartition(".")[2]).shape for name in levels]
        self._count = count
        for place, (name, item) in enumerate(levels.items()):
            weight = masks.stored(masks.owner(module, name), name.rpartition(".")[2]).detach()
            chance = item.probability(weight).cpu()
            draws = torch.stack([(torch.rand(chance.shape, generator=generator) < chance).flatten() for _ in range(count)])
            self.register_buffer(f"draws_{place}", draws.to(weight.device))

    def forward(self, *inputs: Tensor) -> Outputs:
        """One output, or a tuple of them."""
        found = []
        for number in range(self._count):
            weights = {
                name: ((2.0 * self.get_buffer(f"draws_{place}")[number] - 1) * size).reshape(shape)
                for place, (name, size, shape) in enumerate(zip(self._names, self._sizes, self._shapes, strict=True))
            }
            found.append(as_list(torch.func.functional_call(self.network, weights, inputs)))
        means = [torch.stack(column).mean(dim=0) for column in zip(*found, strict=True)]
        return means[0] if len(means) == 1 else tuple(means)


def _warn_without_normalization(module: nn.Module, names: list[str], context: Context) -> None:
    if sum(isinstance(layer, _BatchNorm) for layer in module.modules()) < len(names):
        context.warn(
            "no_batch_normalization",
            "Weights of ±1 make sums that grow with the layer, and this network has fewer batch normalizations, which bring them back, than "
            "binary layers: use magnitude: glorot, or add normalizations.",
        )
