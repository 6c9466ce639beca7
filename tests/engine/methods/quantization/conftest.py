"""A step context without torch, and the ONNX files that quantization is tried on."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from engine.contract.events import Event
from engine.formats.onnx.networks import GraphNetwork
from engine.methods.step import StepContext
from engine.networks.network import Network, Signature, TensorSpec
from tests.engine.conftest import CLASSES, ToyData, make_split
from tests.engine.small import IMAGE, cnn_file, trained_cnn


@dataclass
class Bench:
    """A context, the network it is about, and what was emitted."""

    context: StepContext
    network: Network
    data: ToyData
    events: list[Event] = field(default_factory=list)

    def warned(self) -> set[str]:
        return {event.code for event in self.events if event.type == "warning"}


@pytest.fixture(scope="session")
def cnn_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained CNN with batch normalization as an ONNX file."""
    return cnn_file(tmp_path_factory.mktemp("nets") / "cnn.onnx", trained_cnn())


@pytest.fixture
def bench(tmp_path: Path, cnn_onnx: Path) -> Callable[..., Bench]:
    """Builds a context around an ONNX file (default: the CNN)."""

    def build(file: Path | None = None, *, seed: int = 0, signature: Signature | None = None, splits: Any = None) -> Bench:
        shapes = Signature((TensorSpec("x", (None, *IMAGE)),), (TensorSpec("y", (None, CLASSES)),))
        network = GraphNetwork(signature or shapes, file or cnn_onnx)
        data = ToyData(splits if splits is not None else {"train": make_split(200, 1), "test": make_split(100, 2)})
        events: list[Event] = []
        work = tmp_path / f"work{len(list(tmp_path.iterdir()))}"
        work.mkdir()
        context = StepContext(seed=seed, work=work, emit=events.append, baseline=network, data=data)
        return Bench(context.for_step(0, (0.0, 1.0)), network, data, events)

    return build
