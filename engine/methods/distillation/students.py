"""The network that is trained: the job's own, another uploaded one, or a builtin architecture with new weights."""

from __future__ import annotations

import copy

import torch
from torch import nn

from engine.architectures.build import build_architecture
from engine.architectures.spec import read_architecture
from engine.contract.errors import EngineError
from engine.contract.metadata import NamedArchitecture
from engine.methods.context import Context
from engine.methods.distillation.inputs import Resize, other_size
from engine.methods.distillation.spec import STAGES, Distillation
from engine.methods.distillation.teachers import a_few
from engine.networks.network import Network, Signature
from engine.training.batches import Examples, as_list


def student_of(network: Network, params: Distillation, context: Context, examples: Examples, seed: int) -> nn.Module:
    """A copy of the student, before its training; new weights are drawn by `seed`.

    Raises `shape_mismatch` where it cannot read the network's inputs, or gives other outputs.
    """
    if params.student == "network":
        return copy.deepcopy(network.module)
    if params.student == "baseline":
        return copy.deepcopy(context.baseline.module)
    if isinstance(params.student, str) and params.student.startswith("mdl_"):
        source = context.teacher(params.student)
        module, signature = copy.deepcopy(source.module), source.signature
    else:
        module, signature = _new(params.student, network.signature, seed)
    size = other_size(signature, network.signature)
    if size is not None:
        context.log(f"The student takes pictures of {size[0]}×{size[1]} pixels; a resize stands before it.")
        module = nn.Sequential(Resize(size), module)
    _check(params.student, module.to(context.device), network, context, examples)
    return module


def is_new(params: Distillation) -> bool:
    """Whether the student is another network than the step was given."""
    return params.student not in STAGES


def _new(stated: NamedArchitecture, signature: Signature, seed: int) -> tuple[nn.Module, Signature]:
    """The architecture; classes, channels and size are the network's where they are not stated."""
    entry, _ = read_architecture(stated)
    given = dict(stated.get("params") or {}) if isinstance(stated, dict) else {}
    taken = {**_from_signature(signature), **entry.fixed, **given}
    known = {name: value for name, value in taken.items() if name in entry.params.model_fields}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_architecture({"name": entry.name, "params": known})


def _from_signature(signature: Signature) -> dict[str, int]:
    """Parameters that builtin architectures of pictures have in common."""
    image_rank = 4
    shape, classes = signature.inputs[0].shape, signature.outputs[0].shape[-1]
    found = {"num_classes": classes}
    if len(shape) == image_rank:
        found |= {"in_channels": shape[1], "image_size": shape[2] if shape[2] == shape[3] else None}
    return {name: value for name, value in found.items() if value is not None}


def _check(stated: NamedArchitecture, module: nn.Module, network: Network, context: Context, examples: Examples) -> None:
    name = stated if isinstance(stated, str) else stated["name"]
    few = a_few(examples, context)
    mode = module.training
    try:
        with torch.no_grad():
            given = [list(output.shape) for output in as_list(module.eval()(*few.inputs))]
            wanted = [list(output.shape) for output in as_list(network.module.to(context.device).eval()(*few.inputs))]
    except (RuntimeError, TypeError, ValueError) as error:
        raise EngineError(
            "shape_mismatch",
            f"The student {name} cannot read the network's inputs: {str(error).splitlines()[0]}",
            hint="A student takes the inputs of the job's model, or pictures of another size.",
        ) from error
    module.train(mode)
    if given != wanted:
        raise EngineError(
            "shape_mismatch",
            f"The student {name} gives outputs of shape {given}, the network gives {wanted}.",
            hint="State the number of classes among its params.",
        )
