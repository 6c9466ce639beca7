"""SkipNet (Wang et al., ECCV 2018): gates learn which residual blocks an input needs."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn

from engine.contract.errors import EngineError
from engine.contract.figures import Setting
from engine.methods.context import Context
from engine.methods.dynamic.routing.blocks import MOST_NAMED, Found, Inputs, ResidualBlock, find_blocks, listed, traced
from engine.methods.dynamic.routing.gates import CONVOLUTIONS
from engine.methods.dynamic.routing.gating import with_gates
from engine.methods.dynamic.routing.learning import Reinforcement, macs_of_blocks
from engine.methods.dynamic.routing.network import SkippingNetwork
from engine.methods.dynamic.routing.reporting import show
from engine.methods.dynamic.routing.settings import Alternatives, chosen, variants_of
from engine.methods.dynamic.spec_skip import SkipRouting
from engine.networks.example_inputs import running_inputs
from engine.networks.layers import select as select_layers
from engine.networks.network import Network
from engine.training.batches import Batch

_MANY = 256
"""Examples by which gates are opened again."""


def apply(network: Network, params: SkipRouting, context: Context) -> Network:
    """Train a copy of the network with gates, under supervision and then by reinforcement with each alpha.

    Raises `routing_impossible` where the network has no residual block that can be skipped.
    """
    context.phase("training")
    labelled = context.labelled("train")
    graph = traced(network.module).to(context.device).eval()
    context.stage("before", network.module)
    blocks = _blocks(graph, params, context)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(context.new_seed())
        module = with_gates(graph, blocks, params).to(context.device)
    branches, gates, rest = macs_of_blocks(module, _inputs(module, context)[0])
    costs = torch.ones(len(branches))
    if params.cost_of_a_block == "macs":
        costs = torch.tensor(branches, dtype=torch.float32) * len(branches) / max(1, sum(branches))
    loss = context.loss(module, labelled, params.supervised.label_smoothing)
    spans = _spans(params, labelled.count)
    with context.part(*spans[0]):
        module.learn("straight_through")
        with module.masks():
            context.train(module, params.supervised, loss=loss)
    context.stage("supervised", module)
    found = [copy.deepcopy(module).cpu()] if "supervised" in params.controls else []
    learned: list[SkippingNetwork] = []
    for alpha, span in zip(params.alphas, spans[1:], strict=True):
        own = copy.deepcopy(module)
        own.reopen(_inputs(module, context)[2], params.starting_logit)
        own.learn("sample")
        reinforced = Reinforcement(own, context.loss(own, labelled, params.reinforcement.label_smoothing), params, alpha, costs)
        with context.part(*span), own.masks():
            context.train(own, params.reinforcement, loss=reinforced, hooks=reinforced.hooks())
        own.learn("straight_through")
        context.stage(f"alpha {alpha:g}", own)
        learned.append(own.cpu())
    networks = [*learned, *found]
    variants = variants_of(params)
    context.report("macs", {"branches": dict(zip((block.name for block in blocks), branches, strict=True)), "gates": gates, "rest": rest})
    show(networks, variants, params, context)
    whole = Alternatives(networks)
    if len(variants) == 1:
        return network.with_module(chosen(whole, variants[0]), settings=(variants[0].setting,))
    by_name = {variant.setting.name: variant for variant in variants}

    def choose(module: nn.Module, setting: Setting) -> nn.Module:
        return chosen(module, by_name[setting.name]) if isinstance(module, Alternatives) else module

    return network.with_module(whole, settings=tuple(variant.setting for variant in variants), select=choose)


def _blocks(graph: torch.fx.GraphModule, params: SkipRouting, context: Context) -> tuple[ResidualBlock, ...]:
    """The blocks that get gates. Raises `routing_impossible` with the reason where there are none, and `layer_not_found`."""
    found = find_blocks(graph, _inputs(graph, context)[:2])
    included = select_layers(graph, include=params.include).layers
    allowed = select_layers(graph, ignore=params.ignore)
    context.unmatched(allowed.unmatched_ignores)
    wanted = [
        block
        for block in (found.blocks if params.skip_first else found.blocks[1:])
        if any(name in included for name in block.layers) and all(name in allowed.layers for name in block.layers)
    ]
    if not wanted:
        raise _no_blocks(found, params)
    if params.gate != "recurrent":
        flat = [block.name for block in wanted if len(block.shape) - 1 not in CONVOLUTIONS]
        if flat:
            raise EngineError(
                "routing_impossible",
                f"Gates of the kind {params.gate} read feature maps, but these blocks have plain rows of numbers: {listed(flat)}.",
                hint="Choose gate: recurrent.",
            )
    if found.refused:
        reasons = "; ".join(f"{name}: {why}" for name, why in list(found.refused.items())[:MOST_NAMED])
        context.warn("blocks_not_skippable", f"These residual blocks always run: {reasons}.", blocks=dict(found.refused))
    return tuple(wanted)


def _no_blocks(found: Found, params: SkipRouting) -> EngineError:
    if found.blocks and not params.skip_first and len(found.blocks) == 1:
        return EngineError(
            "routing_impossible",
            f"The only residual block, {found.blocks[0].name}, is the first one, which always runs.",
            hint="Set skip_first: true, or choose a deeper network.",
        )
    if found.blocks:
        return EngineError(
            "routing_impossible",
            f"include and ignore leave none of the residual blocks that can be skipped: {listed([b.name for b in found.blocks])}.",
            hint="A block is skipped where include names any of its layers (all, by default) and ignore names none.",
        )
    if found.refused:
        reasons = "; ".join(f"{name}: {why}" for name, why in list(found.refused.items())[:MOST_NAMED])
        return EngineError(
            "routing_impossible",
            f"None of the residual blocks of this network can be skipped: {reasons}.",
            hint="A block can be skipped where one value alone leaves its branch and goes into the addition, with examples in its first dimension.",
        )
    return EngineError(
        "routing_impossible",
        "This network has no residual blocks: no layers whose output is added to what they started from.",
        hint="Upload a residual network or a transformer, or use early_exit or slimmable.",
    )


def _inputs(module: nn.Module, context: Context) -> tuple[Inputs, Inputs, Inputs]:
    """Two, three and many training examples, or made-up ones."""
    examples = context.split("train")

    def of(size: int) -> Inputs:
        if not examples.count:
            return running_inputs(module, context.signature, size, context.device)
        return Batch.of(examples, np.arange(size) % examples.count, context.input_names, context.device).inputs

    return of(2), of(3), of(min(_MANY, examples.count) or 4)


def _spans(params: SkipRouting, count: int) -> list[tuple[float, float]]:
    """The share of the step that each training takes."""
    works = [max(1.0, training.iterations or (training.epochs or 0) * count / training.batch_size) for training in params.trainings]
    total, start, spans = sum(works) / 0.95, 0.0, []
    for work in works:
        spans.append((start, min(1.0, start + work / total)))
        start = spans[-1][1]
    return spans
