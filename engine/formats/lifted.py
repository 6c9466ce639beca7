"""Networks of other libraries as modules of layers that are known here, through the same lift as exported programs.

The module is this installation's own code, built from a description; torch exports it on example inputs, and the program is read back as a
stranger's would be. What it computes is compared on the way.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import torch
from torch import nn

from engine.architectures.spec import read_architecture
from engine.contract.errors import EngineError
from engine.contract.json import JsonObject
from engine.formats.onnx.networks import ModuleNetwork
from engine.formats.pt2.lift import module_of
from engine.formats.pt2.program import read_program
from engine.networks.example_inputs import example_inputs
from engine.networks.network import Network, Signature, TensorSpec

_BATCH, _TRIED_BATCH = 2, 3
_TOLERANCE = 1e-4


def as_network(module: nn.Module, signature: Signature) -> Network:
    """The network of a module that `build_architecture` made. Raises `unsupported_operator`, `model_invalid`."""
    description: JsonObject = module.architecture  # type: ignore[assignment]  # torch takes attributes of a module for tensors and modules
    entry, _ = read_architecture(description)
    if not entry.elsewhere:
        return ModuleNetwork(signature, module.eval())
    lifted, found = _lifted(module.eval(), signature)
    kept = module.state_dict().keys()
    for name, _ in lifted.named_buffers():
        holder, _, leaf = name.rpartition(".")
        if name not in kept:
            lifted.get_submodule(holder)._non_persistent_buffers_set.add(leaf)  # files of weights do not have it
    lifted.architecture = description  # type: ignore[assignment]  # torch takes attributes of a module for tensors and modules
    return ModuleNetwork(found, lifted)


def _lifted(module: nn.Module, signature: Signature) -> tuple[nn.Module, Signature]:
    examples = example_inputs(signature, _BATCH)
    batch = torch.export.Dim("batch")
    try:
        with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("ignore")
            program = torch.export.export(module, examples, dynamic_shapes=_shapes(module, len(examples), batch))
            program._example_inputs = None
            path = Path(folder) / "lifted.pt2"
            torch.export.save(program, path)
            del program
            read = read_program(path)
        lifted = module_of(read)
        tried = example_inputs(signature, _TRIED_BATCH, seed=1)
        with torch.no_grad():
            expected, given = module(*tried), lifted(*tried)
    except EngineError:
        raise
    except Exception as error:  # torch.export fails in many ways, and each is a limit of the network
        raise EngineError(
            "unsupported_operator",
            f"The network cannot be traced: {type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}.",
            hint="Upload it as ONNX.",
        ) from error
    if not isinstance(expected, torch.Tensor) or not torch.allclose(expected, given, atol=_TOLERANCE, rtol=_TOLERANCE):
        raise EngineError("unsupported_operator", "The network computes something else when it is traced.", hint="Upload it as ONNX.")
    names = [spec.name for spec in signature.inputs]
    inputs = tuple(TensorSpec(name, spec.shape, spec.dtype) for name, spec in zip(names, read.signature.inputs, strict=True))
    return lifted, Signature(inputs, (TensorSpec(signature.outputs[0].name, read.signature.outputs[0].shape),))


def _shapes(module: nn.Module, count: int, batch: object) -> tuple[object, ...]:
    """The batch left open in each input: networks of texts take them as a tuple of arguments."""
    each = tuple({0: batch} for _ in range(count))
    return (each,) if "forward" in vars(module) else each
