"""What is tried on an imported network: each check gives a cell of the table."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import nn

from benchmarks.compatibility.networks import Inputs
from engine.contract.errors import EngineError
from engine.contract.file_format import ending_of, format_of, writable_names
from engine.contract.metadata import ModelMetadata
from engine.formats.loading import load_network, write_network
from engine.networks.layers import PRUNABLE
from engine.networks.network import Network
from engine.structure.graph import ChannelGraph
from engine.structure.proof import removable

STEPS, TOLERANCE, HALF_TOLERANCE = 20, 1e-4, 1e-2
Check = Callable[[Network, Inputs, Path], str]


def tensors(value: object) -> list[torch.Tensor]:
    """The outputs of a module."""
    return [value] if isinstance(value, torch.Tensor) else list(value)  # type: ignore[call-overload]  # several come as a tuple


def agrees(wanted: list[torch.Tensor], given: list[torch.Tensor], *, half: bool = False) -> str:
    """`yes`, or how far two lists of outputs are from each other, as a share of the largest; `half` says that weights were rounded."""
    worst = 0.0
    for one, other in zip(wanted, given, strict=True):
        scale = max(float(one.float().abs().max()), 1e-6)
        worst = max(worst, float((one.float() - other.float()).abs().max()) / scale)
    limit = HALF_TOLERANCE if half or any(item.dtype == torch.float16 for item in wanted) else TOLERANCE
    return "yes" if worst <= limit else f"differs by {worst:.1e}"


def attempt(check: Check, network: Network, inputs: Inputs, work: Path) -> str:
    """The cell of a check, or the reason why there is none."""
    try:
        return check(network, inputs, work)
    except EngineError as error:
        return error.message.replace("|", "/")
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0][:80]}".replace("|", "/")


def falls(module: nn.Module, inputs: Inputs, targets: list[torch.Tensor], *, rate: float = 1e-3) -> str:
    """Whether the distance to the targets falls within the steps."""
    module.train()
    optimizer = torch.optim.Adam([item for item in module.parameters() if item.requires_grad], rate)
    losses = []
    for _ in range(STEPS):
        parts = [
            ((item.float() - target.float()) ** 2).mean()
            for item, target in zip(tensors(module(*inputs)), targets, strict=True)
            if item.is_floating_point()
        ]
        loss = torch.stack(parts).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    module.eval()
    return "yes" if losses[-1] < 0.99 * losses[0] else f"loss {losses[0]:.3g} → {losses[-1]:.3g}"


def trains(network: Network, inputs: Inputs, work: Path) -> str:
    """Towards outputs of the right size."""
    module = copy.deepcopy(network.module)
    with torch.no_grad():
        targets = [item + item.float().std().to(item.dtype) * torch.randn_like(item) for item in tensors(module.eval()(*inputs))]
    return falls(module, inputs, targets)


def distils(network: Network, inputs: Inputs, work: Path) -> str:
    """A student with a tenth of its weights' size as noise, towards the network's own outputs."""
    student = copy.deepcopy(network.module)
    with torch.no_grad():
        targets = tensors(network.module.eval()(*inputs))
        for parameter in student.parameters():
            if parameter.dim() > 1:
                parameter.add_(torch.randn_like(parameter) * 0.1 * parameter.std())
    return falls(student, inputs, targets, rate=1e-4)  # far below the noise


def channels(network: Network, inputs: Inputs, work: Path) -> str:
    """Channels that can be removed, each cut tried, and the first layer that keeps its own."""
    graph = ChannelGraph(network.module, inputs)
    names = removable(network.module, inputs, [group.name for group in graph.groups], graph)
    kept = [f"{name}: {reason}" for name, reason in graph.fixed.items()]
    return f"{sum(group.channels_count for group in graph.groups if group.name in names)} channels" + (f"; {kept[0]}" if kept else "")


def quantizable(network: Network, inputs: Inputs, work: Path) -> str:
    """Layers with 8-bit kernels."""
    return f"{sum(isinstance(layer, PRUNABLE) for layer in network.module.modules())} layers"


def exports(network: Network, inputs: Inputs, work: Path) -> str:
    """Every format that is written and read: read again, it computes the same; ONNX in ONNX Runtime."""
    held = network.with_module(network.module).plain()
    with torch.no_grad():
        expected = tensors(held.module.eval()(*inputs))
    found = {}
    for format in sorted(name for name in writable_names() if format_of(name, "model").readable):
        try:
            path, *_ = write_network(held, format, work / f"again{ending_of(format)}")
            if format == "onnx":
                session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
                feed = {spec.name: array.numpy() for spec, array in zip(held.signature.inputs, inputs, strict=True)}
                given = [torch.from_numpy(np.asarray(item)) for item in session.run(None, feed)]
            else:
                again = load_network(path, format, ModelMetadata(), work / format)
                with torch.no_grad():
                    given = tensors(again.module(*inputs))
            found[format] = agrees(expected, given, half=held.weights_type == "float16")
        except EngineError as error:
            found[format] = error.message.replace("|", "/")
    return "all" if set(found.values()) == {"yes"} else "; ".join(f"{name}: {word}" for name, word in found.items() if word != "yes")


CHECKS: dict[str, Check] = {
    "train": trains,
    "distil": distils,
    "prune": channels,
    "quantize": quantizable,
    "export": exports,
}
