"""Shared weights: k-means, indices of a few bits, and training of the shared values (Han, Mao, Dally, Deep Compression, ICLR 2016)."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor

from engine.methods.context import Context
from engine.methods.quantization.few_bits.attaching import attach, chosen, hold_zeros, indexed
from engine.methods.quantization.few_bits.clustering import cluster, nearest
from engine.methods.quantization.few_bits.levels import SharedWeight
from engine.methods.quantization.few_bits.publishing import publish
from engine.methods.quantization.spec_few_bits import Codebook
from engine.networks import masks
from engine.networks.network import Network


def apply(network: Network, params: Codebook, context: Context) -> Network:
    """Cluster the weights of every layer and train the shared values; pruned weights stay zero.

    Raises:
        EngineError: `nothing_quantized` where no layer was chosen.
    """
    context.phase("clustering")
    module = copy.deepcopy(network.module).to(context.device)
    names = chosen(module, params, context)
    held = hold_zeros(module, names)
    context.stage("before", module)
    rng = context.rng()
    pruned = iter([name in held for name in names])
    levels = attach(module, names, lambda _, weight: shared(weight, params, rng, pruned=next(pruned)))
    context.stage("clustered", module)
    if params.epochs or params.iterations:
        context.phase("training")
        for name in names:
            # What is trained is the values; the real weights are only what they came from.
            masks.stored(masks.owner(module, name), name.rpartition(".")[2]).requires_grad_(False)
        context.train(module, params, loss=context.loss(module, context.labelled("train"), params.label_smoothing))
        context.stage("trained", module)
    plain = masks.fold(module).cpu().eval()
    return publish(network, plain, indexed(module, levels), context, entropy_coded=params.entropy_coded)


def shared(weight: Tensor, params: Codebook, rng: np.random.Generator, *, pruned: bool) -> SharedWeight:
    """The clusters of a weight; zero is one of them where it was pruned."""
    values = weight.cpu().numpy()
    count = 2**params.bits
    if pruned:
        found = cluster(values[values != 0], max(1, count - 1), params.initialization, rng)
        centres = np.unique(np.concatenate([found, np.zeros(1, np.float32)]))
    else:
        centres = cluster(values, count, params.initialization, rng)
    indices = nearest(values, centres)
    if pruned:
        kept = np.flatnonzero(centres != 0).astype(np.uint8)
        indices = np.where(values == 0, np.flatnonzero(centres == 0)[0], kept[nearest(values, centres[centres != 0])]).astype(np.uint8)
    on = weight.device
    return SharedWeight(torch.from_numpy(centres).to(on), torch.from_numpy(indices).to(on), keep_zero=pruned)
