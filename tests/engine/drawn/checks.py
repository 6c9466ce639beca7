"""What must hold for a drawn network, whatever the engine does to it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
import torch

from engine.contract.errors import EngineError
from engine.contract.metadata import ModelMetadata
from engine.formats import load_network
from engine.formats.onnx.counting import count_onnx
from engine.methods.context import Context
from engine.methods.pruning import structured_pruning
from engine.networks.network import Network
from tests.engine.drawn.graphs import Drawn
from tests.engine.drawn.sketch import Array, run
from tests.engine.formats.onnx.elements import elements

T = TypeVar("T")
ROUNDING_DB = 8.0
"""Least agreement of an 8-bit network with its original: random networks of a few weights amplify rounding as no trained one does."""


@dataclass
class Split:
    """Examples of a drawn network, without targets."""

    feed: dict[str, Array]
    targets: dict[str, Array] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return len(next(iter(self.feed.values())))

    def targets_at(self, indices: Array) -> dict[str, Array]:
        return {}

    def batch(self, indices: Array) -> tuple[dict[str, Array], dict[str, Array]]:
        return {name: array[indices] for name, array in self.feed.items()}, {}


@dataclass
class Splits:
    splits: dict[str, Split]

    def train(self, *, seed: int) -> Split:
        return self.splits["train"]

    def validation(self, *, seed: int) -> Split:
        return self.splits["test"]


@dataclass
class Bench:
    """A drawn network as the engine loads it, and what its methods are given."""

    drawn: Drawn
    path: Path
    network: Network
    context: Context
    events: list[Any] = field(default_factory=list)

    @classmethod
    def of(cls, drawn: Drawn, folder: Path) -> Bench:
        path = folder / "drawn.onnx"
        onnx.save(drawn.model, path)
        network = load_network(path, "onnx", ModelMetadata(), folder)
        data = Splits({"train": Split(drawn.feed(24, 11)), "test": Split(drawn.feed(9, 12))})
        events: list[Any] = []
        context = Context(seed=0, device=torch.device("cpu"), work=folder, emit=events.append, baseline=network, data=data)
        return cls(drawn, path, network, context.for_step(0, (0.0, 1.0)), events)


def module_computes_the_same(bench: Bench) -> torch.nn.Module | None:
    """The imported module beside the original; None where the graph has no trainable form, which must be for a reason that is given."""
    module = _or_refused(lambda: bench.network.module, {"unsupported_operator"})
    if module is None:
        return None
    for batch in (bench.drawn.batch or 2, bench.drawn.batch or 5):
        feed = bench.drawn.feed(batch, batch)
        with torch.no_grad():
            results = module(*[torch.from_numpy(feed[tensor.name]) for tensor in bench.network.signature.inputs])
        found = [item.numpy() for item in (results if isinstance(results, tuple) else (results,))]
        assert_close(found, run(bench.drawn.model, feed))
    return module


def file_computes_the_same(bench: Bench, file: Path) -> None:
    """A float file that was written anew: same outputs by name, type and value, same parameters."""
    written = onnx.load(file)
    for side in ("input", "output"):
        kinds = [
            [(item.name, item.type.tensor_type.elem_type) for item in getattr(proto.graph, side)] for proto in (bench.drawn.model, written)
        ]
        assert kinds[0] == kinds[1]
    feed = bench.drawn.feed(4, 4) if bench.drawn.batch is None else bench.drawn.feed(bench.drawn.batch, 4)
    assert_close(run(written, feed), run(bench.drawn.model, feed))


def figures_are_those_of_the_file(file: Path) -> None:
    """Parameters by a count that shares no code with the engine's."""
    counts = count_onnx(file)
    assert counts.params_count is not None
    assert counts.params_count == elements(file)


def exported(bench: Bench, module: torch.nn.Module) -> Path:
    target = bench.path.with_name("exported.onnx")
    bench.network.with_module(module).write_onnx(target)
    return target


def quantized_computes_nearly_the_same(bench: Bench, apply: Callable[..., Network], params: Any) -> Path | None:
    """An 8-bit file, which the runtime loads with its integer kernels too, run without its optimizations; None where it was refused with a
    reason. The examples are those of calibration: of a network with a number or two an example, they say little about others."""
    codes = {"nothing_quantized", "calibration_failed", "quantization_mismatch", "unsupported_operator"}
    result = _or_refused(lambda: apply(bench.network, params, bench.context), codes)
    if result is None:
        return None
    file = result.file(bench.path.with_name("quantized.onnx"))
    written = onnx.load(file)
    known = bench.drawn.feed(24, 11)
    feed = {name: value[: bench.drawn.batch or 24] for name, value in known.items()}
    before, after = run(bench.drawn.model, feed), run(written, feed, optimize=False)
    assert [value.shape for value in run(written, feed)] == [value.shape for value in before]
    assert [item.name for item in written.graph.output] == [item.name for item in bench.drawn.model.graph.output]
    for want, got in zip(before, after, strict=True):
        assert (want.shape, want.dtype) == (got.shape, got.dtype)
        assert bench.drawn.is_rough or sqnr_db(want, got) >= ROUNDING_DB, f"{sqnr_db(want, got):.1f} dB"
    return file


def silence(module: torch.nn.Module) -> None:
    """Make every other output channel of each layer carry exactly zero."""
    for layer in module.modules():
        weight = getattr(layer, "weight", None)
        if not isinstance(layer, torch.nn.Linear | torch.nn.modules.conv._ConvNd) or not isinstance(weight, torch.Tensor):
            continue
        with torch.no_grad():
            if isinstance(layer, torch.nn.modules.conv._ConvTransposeNd):
                each = weight.shape[1]
                if each > 1 or layer.groups == 1:
                    weight[:, 1::2] = 0
            else:
                weight[1::2] = 0
            if layer.bias is not None:
                each = layer.bias.shape[0] // (layer.groups if isinstance(layer, torch.nn.modules.conv._ConvTransposeNd) else 1)
                layer.bias.view(-1, each)[:, 1::2] = 0


def silent_channels_are_not_missed(bench: Bench, params: Any) -> Network | None:
    """A network pruned of no more channels than are silent computes what it did before."""
    module = copy.deepcopy(bench.network.module)
    silence(module)
    quiet = bench.network.with_module(module)
    result = _or_refused(lambda: structured_pruning.apply(quiet, params, bench.context), {"pruning_impossible"})
    if result is None:
        return None
    feed = bench.drawn.feed(bench.drawn.batch or 6, 31)
    given = [torch.from_numpy(feed[tensor.name]) for tensor in bench.network.signature.inputs]
    with torch.no_grad():
        before, after = module(*given), result.module(*given)
    pairs = zip(*((item,) if isinstance(item, torch.Tensor) else item for item in (before, after)), strict=True)
    assert_close(*map(list, zip(*[(b.numpy(), a.numpy()) for a, b in pairs], strict=True)))
    assert sum(p.numel() for p in result.module.parameters()) < sum(p.numel() for p in module.parameters())
    return result


def _or_refused(make: Callable[[], T], codes: set[str]) -> T | None:
    """What is made, or None where it was refused with a reason and a way out, by one of these codes."""
    try:
        return make()
    except EngineError as error:
        if error.code not in codes or not error.hint:
            raise
        return None


def sqnr_db(want: Array, got: Array) -> float:
    a, b = want.astype(np.float64), got.astype(np.float64)
    if np.array_equal(a, b):
        return float("inf")
    return float(10 * np.log10(max(float((a * a).sum()), 1e-12) / max(float(((a - b) ** 2).sum()), 1e-12)))


def assert_close(found: list[Array], wanted: list[Array]) -> None:
    """Equal up to what another order of summation costs."""
    assert len(found) == len(wanted)
    for got, want in zip(found, wanted, strict=True):
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
        scale = float(np.abs(want).max()) if want.size else 0.0
        np.testing.assert_allclose(got, want, atol=1e-4 * max(1.0, scale), rtol=1e-3)
