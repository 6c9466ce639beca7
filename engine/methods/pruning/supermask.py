"""Supermasks: masks over weights that are never trained (Zhou et al., 2019, section 5; edge-popup: Ramanujan et al., 2020)."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from engine.contract.errors import EngineError
from engine.formats.sparse import Recipe, save_sparse, seeded_normal, signed
from engine.methods.context import Context
from engine.methods.pruning.spec_masks import TRIED_EXAMPLES, Supermask
from engine.networks import masks
from engine.networks.layers import CONVOLUTIONS, select
from engine.networks.masks import Density, Mask
from engine.networks.network import Network
from engine.training.batch_norm import has_running_statistics, recalibrate
from engine.training.batches import batches


class LearnedMask(nn.Module):
    """Parametrization weight ↦ weight ⊙ mask, the mask made of one trainable score per weight; the gradient passes straight through."""

    def __init__(self, scores: Tensor, params: Supermask) -> None:
        super().__init__()
        self.scores = nn.Parameter(scores)
        self._params = params
        self.fixed: Mask | None = None
        """Used instead of a fresh mask, where one is set."""

    def forward(self, weight: Tensor) -> Tensor:
        """The weight that the layer sees, under a fresh mask; the stored weight gets no gradient."""
        mask = self.mask()
        # No stop-gradient: the scale depends on the mask, and the scores feel it (section 5.2 of the first paper).
        scale = mask.numel() / mask.sum().clamp_min(1) if self._params.dwr else 1.0
        return weight.detach() * mask * scale

    def mask(self) -> Tensor:
        """A mask of exact zeros and ones (in training, `round` leaves a random half at its probability)."""
        if self.fixed is not None:
            return self.fixed.keep.to(self.scores.dtype)
        soft = self.scores.abs() if self._params.algorithm == "edge_popup" else self.probabilities
        bernoulli = self._params.algorithm == "bernoulli"
        hard = torch.bernoulli(soft.detach()) if bernoulli else self.final().keep.to(soft.dtype)
        if self._params.algorithm == "round" and self.training:
            hard = torch.where(torch.rand_like(hard) < 0.5, hard, soft.detach())
        return hard + (soft - soft.detach())

    @property
    def probabilities(self) -> Tensor:
        """Probability of every mask bit."""
        return torch.sigmoid(self.scores)

    @torch.no_grad()
    def final(self) -> Mask:
        """The mask without chance: probabilities above one half, or the k best scores by rank."""
        if self._params.algorithm == "edge_popup":
            # By rank, so the count is exact; a tenth of the time of a stable sort, at every step of the training.
            kept_count = max(1, round(self._params.k * self.scores.numel()))
            keep = torch.zeros(self.scores.numel(), dtype=torch.bool, device=self.scores.device)
            keep[torch.topk(self.scores.abs().reshape(-1), kept_count, sorted=False).indices] = True
            return Mask(keep.reshape(self.scores.shape))
        return Mask(self.scores > 0)


@dataclass(frozen=True)
class Source:
    """What the initial weights of a layer can be made from again, as far as they need no values."""

    constant: float | None = None
    seed: int | None = None
    deviation: float | None = None

    def recipe(self, keep: Tensor, scale: float) -> Recipe | None:
        """How the compact file says the masked weights; None where it has to hold their values."""
        if self.seed is not None:
            return Recipe(keep, "seeded", self.constant, self.seed, self.deviation, scale)
        return None if self.constant is None else Recipe(keep, "signs", self.constant, scale=scale)


def apply(network: Network, params: Supermask, context: Context) -> Network:
    """Find a mask for the frozen weights of a copy of the network; what comes out is held by it, and rescaled with `dwr`.

    Raises `pruning_impossible` where no layer was chosen.
    """
    context.phase("training")
    module = masks.fold(network.module).to(context.device)
    selection = select(module, include=params.include, ignore=params.ignore)
    context.unmatched(selection.unmatched_ignores)
    layers = {name: masks.owner(module, name) for name in masks.weights_of(selection.layers)}
    if not layers:
        raise EngineError("pruning_impossible", "No layer is left to mask.", hint="Check include and ignore.")
    earlier = masks.held(network.module)
    _hold_others(module, layers, earlier)
    context.stage("before", module)
    sources = {name: _initialize(layer, params, context) for name, layer in layers.items()}
    context.stage("untrained", module)
    scored = copy.deepcopy(module)
    learned = _attach(scored, list(layers), params, context)
    frozen = fingerprint(scored)
    context.train(scored, params)
    context.report("frozen_weights_sha256", {"before": frozen, "after": fingerprint(scored)})
    final = {name: mask.final() for name, mask in learned.items()}
    if params.algorithm == "bernoulli":
        _fix(learned, final)
        context.stage("rounded", scored)
        drawn = _sample(scored, learned, params, context)
        final = _best(scored, learned, [final, *drawn], context) if params.published_mask == "best" else final
    scales = {name: _scale(mask, params) for name, mask in final.items()}
    final |= {name: Mask(final[name].keep & mask.keep.to(context.device)) for name, mask in earlier.items() if name in final}
    recipes = {name: _settle(layer, final[name], sources[name], scales[name]) for name, layer in layers.items()}
    masks.hold(module, final)
    if has_running_statistics(module):
        recalibrate(module, context.labelled("train"), context.input_names, context.device)
    context.stage("masked", module)
    _report(learned, final, params, context)
    path = context.work / "supermask.safetensors"
    save_sparse(path, masks.fold(module).state_dict(), {name: recipe for name, recipe in recipes.items() if recipe is not None})
    context.artifact(path, kind="sparse_weights", format="safetensors")
    return network.with_module(module.cpu())


def fans(layer: nn.Module) -> tuple[int, int]:
    """Inputs that one output of a convolution or linear layer reads, and outputs that one input reaches."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    first, second = weight[0].numel(), weight.numel() // weight.shape[1]
    return (second, first) if isinstance(layer, CONVOLUTIONS) and layer.transposed else (first, second)


def fingerprint(module: nn.Module) -> str:
    """sha256 of every parameter but the scores, bit by bit."""
    digest = hashlib.sha256()
    for name, parameter in sorted(module.named_parameters()):
        if not name.endswith(".scores"):
            digest.update(name.encode() + np.ascontiguousarray(parameter.detach().cpu().numpy()).tobytes())
    return digest.hexdigest()


def _hold_others(module: nn.Module, layers: Mapping[str, nn.Module], earlier: Mapping[str, Mask]) -> None:
    """Layers that get no mask here keep the one that they have."""
    weights = {name: masks.stored(masks.owner(module, name), name.rpartition(".")[2]) for name in earlier}
    chosen = {masks.stored(layer) for layer in layers.values()}
    others = {name: weight for name, weight in weights.items() if weight not in chosen}
    masks.hold(module, {name: earlier[name] for name in others}, others)


@torch.no_grad()
def _initialize(layer: nn.Module, params: Supermask, context: Context) -> Source:
    """Give the layer its initial weights in place."""
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor)
    seed = deviation = constant = None
    if params.initialization == "random":
        fan_in, fan_out = fans(layer)
        deviation = math.sqrt(2 / (fan_in * params.k) if params.algorithm == "edge_popup" else 2 / (fan_in + fan_out))
        seed = context.new_seed()
        weight.copy_(seeded_normal(seed, tuple(weight.shape), deviation))
        if isinstance(bias, Tensor):
            bias.zero_()
    if params.weights == "signed_constant":
        constant = float(weight.std(correction=0)) * params.constant_multiplier
        weight.copy_(signed(weight, constant))
    return Source(constant, seed, deviation)


def _attach(module: nn.Module, names: list[str], params: Supermask, context: Context) -> dict[str, LearnedMask]:
    """Put a learned mask on each of the named weights; nothing else stays trainable."""
    module.requires_grad_(False)
    generator = context.generator()
    learned = {}
    for name in names:
        layer = masks.owner(module, name)
        weight = masks.stored(layer)
        if params.algorithm == "edge_popup":
            # Kaiming-uniform with a = √5, as torch draws the weights of a linear layer.
            scores = (2 * torch.rand(weight.shape, generator=generator) - 1) / math.sqrt(fans(layer)[0])
        else:
            scores = torch.full(weight.shape, params.score_init)
        learned[name] = LearnedMask(scores.to(weight.device), params)
        for sharer, attribute in masks.sharers(module, weight):
            parametrize.register_parametrization(sharer, attribute, learned[name])
    return learned


Draw = dict[str, Mask]


def _sample(module: nn.Module, learned: Mapping[str, LearnedMask], params: Supermask, context: Context) -> list[Draw]:
    """Draw masks and measure the network under each, as the paper does: mean and standard deviation."""
    generator = context.generator()
    probabilities = {name: mask.probabilities.detach() for name, mask in learned.items()}
    draws = [
        {name: Mask(torch.rand(p.shape, generator=generator).to(p.device) < p) for name, p in probabilities.items()}
        for _ in range(params.eval_samples)
    ]
    split = context.evaluation_split
    if context.data is None or split not in context.data.splits:
        return draws
    measured = []
    for draw in draws:
        _fix(learned, draw)
        measured.append(context.evaluate(module, split))
    sampled = {name: np.array([figures[name] for figures in measured]) for name in measured[0]}
    context.report("sampled", {k: {"mean": float(v.mean()), "sd": float(v.std()), "values": v.tolist()} for k, v in sampled.items()})
    for name, values in sampled.items():
        context.metric(f"{name}_sampled_mean", float(values.mean()))
        context.metric(f"{name}_sampled_sd", float(values.std()))
    return draws


@torch.no_grad()
def _best(module: nn.Module, learned: Mapping[str, LearnedMask], candidates: list[Draw], context: Context) -> Draw:
    """The candidate with the lowest loss on training examples; test examples have no say."""
    examples = context.labelled("train")
    loss = context.loss(module, examples)
    chosen = np.sort(context.rng().permutation(examples.count)[:TRIED_EXAMPLES])
    losses = []
    for candidate in candidates:
        _fix(learned, candidate)
        parts = batches(examples, context.input_names, 256, context.device, chosen)
        losses.append(sum(float(loss(module(*batch.inputs), batch)) * len(batch.indices) for batch in parts) / len(chosen))
    best = int(np.argmin(losses))
    context.report("published_mask", {"kind": "drawn" if best else "rounded", "train_cross_entropy": losses})
    return candidates[best]


def _fix(learned: Mapping[str, LearnedMask], draw: Draw) -> None:
    for name, mask in learned.items():
        mask.fixed = draw[name]


def _scale(mask: Mask, params: Supermask) -> float:
    """What `dwr` multiplies the weights by under the learned mask; that a step before pruned some of them is no part of it."""
    kept, total = mask.density
    return total / max(1, kept) if params.dwr else 1.0


@torch.no_grad()
def _settle(layer: nn.Module, mask: Mask, source: Source, scale: float) -> Recipe | None:
    """Fold the scale into the layer's weight in place; returns how the compact file says the kept weights."""
    assert isinstance(layer.weight, Tensor)
    layer.weight.mul_(scale)
    return source.recipe(mask.keep, scale)


def _report(learned: Mapping[str, LearnedMask], final: Mapping[str, Mask], params: Supermask, context: Context) -> None:
    layers = {}
    for name, mask in final.items():
        count = mask.density
        layers[name] = {"kept_count": count.kept_count, "total_count": count.total_count, "density": count.value}
        if params.algorithm != "edge_popup":
            layers[name]["expected_density"] = float(learned[name].probabilities.detach().mean())
    context.report("layers", layers)
    context.metric("density", sum((mask.density for mask in final.values()), Density(0, 0)).value)
    empty = [name for name, mask in final.items() if mask.density.kept_count == 0]
    if empty:
        context.warn("layer_all_zero", f"The mask keeps no weight of these layers: {', '.join(empty)}.", layers=empty)
    context.warn(
        "no_dense_speedup",
        "A mask makes the compressed file smaller; dense inference computes the zeros all the same. structured_pruning makes networks faster.",
    )
