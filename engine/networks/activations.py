"""How much memory a training pass takes for what the network computes, besides its weights."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from engine.networks.example_inputs import DOES_NOT_FIT


def kept_bytes(module: nn.Module, inputs: Sequence[Tensor]) -> int | None:
    """Bytes that autograd keeps from the forward pass to the backward pass, each tensor once and weights not among them.

    The module runs once, in evaluation mode, and keeps nothing meanwhile. None where it does not run with gradients.
    """
    weights = (*module.parameters(), *module.buffers())
    seen = {StorageWeakRef(item.untyped_storage()) for item in weights}
    kept = 0

    def note(value: Tensor) -> None:
        nonlocal kept
        storage = StorageWeakRef(value.untyped_storage())
        if storage not in seen:  # The weak reference holds the storage's identity: a later tensor at the same address is another one.
            seen.add(storage)
            kept += value.untyped_storage().nbytes()

    trained, frozen = module.training, [item for item in module.parameters() if not item.requires_grad and item.is_floating_point()]
    module.eval()
    try:
        for item in frozen:
            item.requires_grad_(True)
        with suppress(*DOES_NOT_FIT), torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda nothing: nothing):
            module.forward(*inputs)  # Not a call: a traced network that is called prints what it fails with.
            return kept
        return None
    finally:
        for item in frozen:
            item.requires_grad_(False)
        module.train(trained)
