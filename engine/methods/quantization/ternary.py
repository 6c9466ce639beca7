"""Ternary weight networks (Li, Zhang, Liu, 2016): -α, 0 and α forward and backward, real weights that collect the updates."""

from __future__ import annotations

import copy

from engine.methods.context import Context
from engine.methods.quantization.few_bits.attaching import attach, chosen, hold_zeros, indexed
from engine.methods.quantization.few_bits.levels import TernaryWeight
from engine.methods.quantization.few_bits.publishing import publish
from engine.methods.quantization.spec_few_bits import Ternary
from engine.networks import masks
from engine.networks.network import Network


def apply(network: Network, params: Ternary, context: Context) -> Network:
    """Train a copy of the network with ternary weights, which are published in two bits each; pruned weights stay zero.

    Raises:
        EngineError: `nothing_quantized` where no layer was chosen.
    """
    context.phase("training")
    module = copy.deepcopy(network.module).to(context.device)
    names = chosen(module, params, context)
    hold_zeros(module, names)
    loss = context.loss(module, context.labelled("train"), params.label_smoothing)
    context.stage("before", module)
    by_channel = params.granularity == "channel"
    levels = attach(
        module,
        names,
        lambda layer, _: TernaryWeight(params.threshold, (1 if getattr(layer, "transposed", False) else 0) if by_channel else None),
    )
    context.stage("rounded", module)
    context.train(module, params, loss=loss)
    context.stage("trained", module)
    plain = masks.fold(module).cpu().eval()
    return publish(network, plain, indexed(module, levels), context, entropy_coded=params.entropy_coded)
