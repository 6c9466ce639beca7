"""Writes a network as one ONNX file with a dynamic batch."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

import engine
from engine.contract.errors import EngineError
from engine.formats.onnx.element_types import cast_outputs, store_in_half
from engine.formats.onnx.importer.names import is_readable, module_path
from engine.formats.onnx.naming import name_ends, provisional
from engine.formats.onnx.notes import remove_notes
from engine.formats.onnx.writer.write import agrees, written
from engine.formats.tracing import first_reason, open_shapes
from engine.networks import masks
from engine.networks.example_inputs import fitting_inputs
from engine.networks.network import Signature
from engine.process.memory import present_objects_kept

OPSET = 18
EXAMPLE_BATCH = 2
_TRIED_BATCH = 3
Examples = tuple[torch.Tensor, ...] | None


def export_onnx(
    module: nn.Module,
    signature: Signature,
    path: Path,
    *,
    half: bool = False,
    examples: Examples = None,
    keep_normalization: bool = False,
) -> None:
    """Write a plain module on the CPU to `path`: names of the signature, first dimension open, no external data.

    `half` stores the weights, which have been rounded to it, as float16. `examples` are inputs to trace it with, of two examples;
    made up where they are None. With `keep_normalization` batch normalization is not folded into the layers before it.

    Raises `export_failed` where the module cannot be written as ONNX.
    """
    if keep_normalization or not _written(module, signature, path, examples, half=half):
        names = ([spec.name for spec in side] for side in (signature.inputs, signature.outputs))
        model = _exported(module, signature, examples, keep_normalization=keep_normalization)
        _save(plain(name_ends(model, *names)), signature, path, half=half)


def _written(module: nn.Module, signature: Signature, path: Path, examples: Examples, *, half: bool) -> bool:
    """Write the network by this project's own means, in a fraction of the exporter's seconds. False where the exporter is needed.

    The module answers for the file: both are run, without `examples` on a batch of another size than those that it was written with.
    """
    model = written(module, signature, OPSET)
    if model is None:
        return False
    _save(plain(model), signature, path, half=half)
    if agrees(path, module, examples or fitting_inputs(module, signature, _TRIED_BATCH, seed=1), half=half):
        return True
    path.unlink()
    return False


def _save(model: onnx.ModelProto, signature: Signature, path: Path, *, half: bool) -> None:
    model = cast_outputs(model, signature.outputs)
    onnx.save_model(store_in_half(model) if half else model, str(path))


def _exported(module: nn.Module, signature: Signature, examples: Examples, *, keep_normalization: bool) -> onnx.ModelProto:
    """The network as torch writes it. Raises `export_failed`."""
    arguments = fitting_inputs(module, signature, EXAMPLE_BATCH) if examples is None else examples
    try:
        with warnings.catch_warnings(), _Quiet(), present_objects_kept():
            warnings.simplefilter("ignore")
            program = _through_torch(module, arguments, signature, optimize=not keep_normalization)
            if keep_normalization and program is not None:
                _optimize(program.model)
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise EngineError(
            "export_failed", f"The network could not be written as ONNX: {first_reason(error)}.", category="internal"
        ) from error
    assert program is not None
    return program.model_proto


def _through_torch(
    module: nn.Module, arguments: Sequence[torch.Tensor], signature: Signature, *, optimize: bool
) -> torch.onnx.ONNXProgram | None:
    """What torch's exporter makes of the module. Raises whatever it raises."""
    shapes = open_shapes(module, signature)
    write = partial(
        torch.onnx.export,
        dynamo=True,
        input_names=provisional("input", len(signature.inputs)),
        output_names=provisional("output", len(signature.outputs)),
        opset_version=OPSET,
        verbose=False,
        optimize=optimize,
    )
    try:
        return write(module, tuple(arguments), dynamic_shapes=shapes)
    except torch.onnx.errors.OnnxExporterError:
        # It traces on its own terms, in which some open dimensions may be anything. What `torch.export` has traced it takes as it is.
        return write(torch.export.export(module, tuple(arguments), dynamic_shapes=shapes))


def _optimize(model: Any) -> None:
    """What the exporter does with `optimize`, but for folding batch normalization; in place."""
    import onnx_ir.passes.common as passes
    from onnxscript import optimizer, rewriter
    from onnxscript.rewriter.rules import common

    folding = (common.fuse_batchnorm_into_conv_rule, common.fuse_batchnorm_into_conv_transpose_rule, common.fuse_batchnorm_into_gemm_rule)
    rules = [rule for rule in rewriter._DEFAULT_REWRITE_RULES if rule not in folding]
    passes.InlinePass()(model)
    for _ in range(2):
        optimizer.fold_constants(model, onnx_shape_inference=True)
        rewriter.rewrite(model, pattern_rewrite_rules=rules)
    for step in (
        passes.RemoveUnusedNodesPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.LiftSubgraphInitializersToMainGraphPass(),
        passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.OutputFixPass(),
        passes.NameFixPass(),
    ):
        step(model)


def plain(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model as it is published, changed in place: nodes are named after their layer, and what only the exporter reads is gone.

    That is a third of a small file, and holds stack traces with the paths of this machine.
    """
    weights = {item.name for item in model.graph.initializer if is_readable(item.name)}
    readers = Counter(name for node in model.graph.node for name in node.input)
    taken: set[str] = set()
    for node in model.graph.node:
        own = [name for name in node.input if name in weights]
        layer = module_path(node, own, shared=any(readers[name] > 1 for name in own))
        base = name = f"/{layer}/{node.op_type}" if layer else f"/{node.op_type}"
        while name in taken:
            name = f"{base}_{len(taken)}"
        taken.add(name)
        node.name = name
    remove_notes(model)
    model.ClearField("doc_string")
    model.ClearField("metadata_props")
    model.producer_name, model.producer_version = "modelpress", engine.__version__
    return model


def folded(module: nn.Module) -> nn.Module:
    """A copy in eval mode on the CPU in which masks and parametrizations have become plain weights."""
    return masks.fold(module).cpu().eval()


class _Quiet:
    """Silences the exporter's log lines, which speak of missing torchvision and the like."""

    def __enter__(self) -> None:
        self._disabled = logging.root.manager.disable
        logging.disable(logging.WARNING)

    def __exit__(self, *_: object) -> None:
        logging.disable(self._disabled)
