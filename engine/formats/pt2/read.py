"""Reads programs of `torch.export.save`; `torch.export.load` is never called, because it runs what a file says."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from engine.contract.errors import EngineError
from engine.contract.metadata import ModelMetadata
from engine.files.magic import check_file
from engine.files.pt2 import EXPORT_HINT
from engine.formats.onnx.counting import on_meta
from engine.formats.onnx.networks import ModuleNetwork
from engine.formats.pt2.lift import module_of
from engine.formats.pt2.program import Program, read_program
from engine.formats.pt2.single import stored_type
from engine.networks.example_inputs import running_inputs
from engine.networks.network import Network, Signature


def read(path: Path, metadata: ModelMetadata, work: Path) -> Network:
    """The network of an exported program, with real layers under the names that they had.

    Raises `model_invalid`, `unsafe_format`, `unsupported_operator`, `tensor_limit_exceeded`, `non_finite_weights`.
    """
    with path.open("rb") as stream:
        check_file(stream, "pt2")
    return network_of(read_program(path))


def network_of(program: Program) -> Network:
    """The network of a program, which computes in float32 what the program computes in half precision. Raises `model_invalid`, `unsupported_operator`, `shape_mismatch`."""
    try:
        module = module_of(program)
        _try_out(module, program.signature)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        raise EngineError(
            "model_invalid", f"The exported program contradicts itself: {type(error).__name__}: {str(error)[:200]}.", hint=EXPORT_HINT
        ) from error
    return ModuleNetwork(program.signature, module, weights_type=stored_type(program.state))


def _try_out(module: nn.Module, signature: Signature) -> None:
    """Run the module once without computing anything. Raises `shape_mismatch` where it does not run on two examples."""
    try:
        with torch.device("meta"):
            running_inputs(on_meta(module), signature, 2, torch.device("meta"))
    except EngineError as error:
        fixed = signature.inputs[0].shape[:1]
        if error.code != "shape_mismatch" or fixed in ((), (None,), (2,)):
            raise
        raise EngineError(
            "shape_mismatch",
            f"The program runs on {fixed[0]} examples at a time only: it was exported for a batch of that size.",
            hint=EXPORT_HINT,
        ) from error
