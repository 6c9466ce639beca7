"""The stages as ONNX files, made once for every state of the weights, and what is put together from them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import onnx
import torch
from torch import Tensor

from engine.formats.onnx.export import EXAMPLE_BATCH, export_onnx
from engine.methods.dynamic.exits.composing import CARRIED, CONFIDENCE, StageGraph, compose
from engine.methods.dynamic.exits.stages import Carried, run
from engine.networks.example_inputs import running_inputs
from engine.networks.network import Signature, TensorSpec
from engine.training.batches import fingerprint

if TYPE_CHECKING:
    from engine.methods.dynamic.exits.network import ExitNetwork


class StageFiles:
    """Keeps the exported stages of the last state that was asked for; copies of a network share it."""

    def __init__(self) -> None:
        self._key: tuple[bytes, bool] | None = None
        self._graphs: list[StageGraph] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def graphs(self, network: ExitNetwork, signature: Signature, *, half: bool) -> list[StageGraph]:
        """Every stage of a plain network on the CPU as a graph with an open batch. Raises `export_failed`."""
        key = (fingerprint(network), half)
        if self._key != key:
            self._graphs = _exported(network, signature, half=half)
            self._key = key
        return self._graphs

    def write(self, network: ExitNetwork, thresholds: Sequence[float], signature: Signature, path: Path, *, half: bool) -> None:
        """The network in one file that stops at the thresholds, one for each exit but the last. Raises `export_failed`."""
        model = compose(self.graphs(network, signature, half=half), thresholds, network.batch_axes, signature)
        onnx.checker.check_model(model)
        onnx.save_model(model, str(path))


@torch.no_grad()
def _exported(network: ExitNetwork, signature: Signature, *, half: bool) -> list[StageGraph]:
    specs = {spec.name: spec for spec in signature.inputs}
    is_open = any(size is None for spec in signature.inputs for size in spec.shape[1:])
    inputs = running_inputs(network, signature, EXAMPLE_BATCH, torch.device("cpu"))
    live: dict[str, Tensor] = dict(zip(network.inputs, inputs, strict=True))
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for place, (module, plan) in enumerate(network.pairs()):
            gives = tuple(_spec(item, is_open=is_open) for item in plan.gives)
            specs |= {item.name: spec for item, spec in zip(plan.gives, gives, strict=True)}
            own = Signature(
                tuple(specs[name] for name in plan.takes),
                (*signature.outputs, TensorSpec(CONFIDENCE, (None,)), *gives),
            )
            path = Path(folder) / f"{place}.onnx"
            export_onnx(module, own, path, half=half, examples=tuple(live[name].clone() for name in plan.takes))
            found.append(StageGraph(onnx.load(path), plan.takes, tuple(item.name for item in plan.gives)))
            _, _, carried = run(module, plan, live, network.outputs)
            live |= carried
    return found


def _spec(item: Carried, *, is_open: bool) -> TensorSpec:
    shape = item.shape
    if is_open:
        shape = tuple(None if item.batch_axis is not None else size for size in shape)
    return TensorSpec(f"{CARRIED}{item.name}", shape, item.dtype)
