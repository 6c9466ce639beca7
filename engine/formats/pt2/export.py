"""A network as a program of `torch.export`, without what the exporter adds of the machine and the inputs that it was traced on."""

from __future__ import annotations

import copy
import json
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from engine.contract.errors import EngineError
from engine.contract.json import JsonObject
from engine.files.pt2 import NAMES, PROGRAM
from engine.formats.pt2.program import read_program
from engine.formats.tracing import first_reason, open_shapes
from engine.networks.example_inputs import fitting_inputs
from engine.networks.network import Network, Signature
from engine.process.memory import present_objects_kept

_BATCH = 2
_FOREIGN = ("stack_trace", "source_fn_stack", "torch_fn", "from_node")
"""What the exporter notes on a node that speaks of the machine and of the source."""


def save(network: Network, path: Path) -> None:
    """Write the program of a plain network. Raises `export_unsupported` where `torch.export` cannot trace it."""
    module, signature = network.module.eval(), network.signature
    if len(network.settings) > 1:
        raise unsupported("it would hold one of the network's settings", "Export ONNX, which holds all of them.")
    _make_own(module)
    try:
        with warnings.catch_warnings(), present_objects_kept(), _casting(module, signature):
            warnings.simplefilter("ignore")
            program = torch.export.export(module, fitting_inputs(module, signature, _BATCH), dynamic_shapes=open_shapes(module, signature))
            program._example_inputs = None  # they would be stored
            for node in program.graph.nodes:
                for key in _FOREIGN:
                    node.meta.pop(key, None)
            torch.export.save(program, path, extra_files={NAMES.removeprefix("extra/"): json.dumps(signature.to_json())})
    except (OSError, MemoryError):
        raise
    except Exception as error:  # torch.export fails in many ways, and each is a limit of the network
        raise unsupported(f"torch.export cannot trace it: {first_reason(error)[:200]}", "Export ONNX.") from error


def document_of(network: Network) -> tuple[JsonObject, dict[str, Tensor]]:
    """The program of a plain network as JSON, without weights, and what it holds beside the module's own tensors.

    Raises `export_unsupported`.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "traced.pt2"
        save(network, path)
        state = read_program(path).state
        with zipfile.ZipFile(path) as archive:
            found = json.loads(archive.read(next(name for name in archive.namelist() if name.endswith(PROGRAM))))
    own = network.module.state_dict()
    constants = {name: tensor.detach() for name, tensor in state.items() if name not in own}
    graph = {key: found["graph_module"][key] for key in ("graph", "signature")}
    return {"schema_version": found["schema_version"], "graph_module": graph}, constants


def unsupported(reason: str, hint: str) -> EngineError:
    """The refusal of a format for this network."""
    return EngineError("export_unsupported", f"The network is not published in this format: {reason}.", hint=hint)


def _make_own(module: nn.Module) -> None:
    """Give every tensor a storage of its own size: programs store whole storages, whatever else lies in them."""
    seen: set[int] = set()
    for tensor in (*module.parameters(), *module.buffers()):
        if id(tensor) not in seen:
            seen.add(id(tensor))
            tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)


@contextmanager
def _casting(module: nn.Module, signature: Signature) -> Iterator[None]:
    """Let a module give the types that its signature states. torch interprets the graph of an `fx.GraphModule`, and no hook of it runs."""
    if not isinstance(module, fx.GraphModule):
        hook = module.register_forward_hook(lambda _module, _inputs, outputs: _cast(outputs, signature))
        try:
            yield
        finally:
            hook.remove()
        return
    with torch.no_grad():
        outputs = module(*fitting_inputs(module, signature, _BATCH))
    computed = [tensor.dtype for tensor in ([outputs] if isinstance(outputs, Tensor) else outputs)]
    original = module.graph
    module.graph = _cast_graph(original, computed, signature)
    try:
        yield
    finally:
        module.graph = original


def _cast_graph(graph: fx.Graph, computed: Sequence[torch.dtype], signature: Signature) -> fx.Graph:
    """A copy of the graph with casts behind the outputs that are computed in another type."""
    changed = copy.deepcopy(graph)
    end = changed.output_node()
    given: Any = end.args[0]
    cast = []
    with changed.inserting_before(end):
        for value, has, spec in zip([given] if isinstance(given, fx.Node) else given, computed, signature.outputs, strict=True):
            wanted = getattr(torch, spec.dtype, has)
            cast.append(value if wanted == has else changed.call_method("to", (value, wanted)))
    end.args = (cast[0] if isinstance(given, fx.Node) else tuple(cast),)
    return changed


def _cast(outputs: Tensor | tuple[Tensor, ...], signature: Signature) -> Tensor | tuple[Tensor, ...]:
    """Outputs of the types that the signature states."""
    each = [outputs] if isinstance(outputs, Tensor) else outputs
    cast = tuple(
        tensor if (dtype := getattr(torch, spec.dtype, None)) in (None, tensor.dtype) else tensor.to(dtype)
        for tensor, spec in zip(each, signature.outputs, strict=True)
    )
    return cast[0] if isinstance(outputs, Tensor) else cast
