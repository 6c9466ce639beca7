"""How outputs are read where no job says it: found by what the network answers to a few examples."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from engine.contract.metadata import ModelMetadata
from engine.heads.find import Found, find_heads, outputs_of
from engine.networks.network import Signature
from engine.outputs.evidence import columns_of
from engine.training.batches import Examples, predict

_SEEN_EXAMPLES = 64


def found_by_answers(module: nn.Module, signature: Signature, splits: Mapping[str, Examples], device: torch.device) -> Found:
    """The heads of a module with the inputs and outputs of `signature`, beside the targets of the splits."""
    examples = splits.get("train") or next(iter(splits.values()))
    inputs = tuple(tensor.name for tensor in signature.inputs)
    few = predict(module.to(device), examples, inputs, device, indices=np.arange(min(_SEEN_EXAMPLES, examples.count)), keep=inputs)
    names = [tensor.name for tensor in signature.outputs] or [f"output{index}" for index in range(len(few.outputs))]
    return find_heads(outputs_of(names, few.outputs, few.inputs), columns_of(splits), ModelMetadata())
