"""A small world for methods: separable images, a context that records events, networks of the usual shapes."""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.onnx._internal.exporter._registration import ONNXRegistry

from engine.contract.events import Event
from engine.data.pictures import Picture
from engine.formats.onnx.networks import ModuleNetwork
from engine.methods.context import Context
from engine.networks.network import Network, Signature, TensorSpec

CLASSES = 5


@dataclass
class ToySplit:
    """What methods read of a split."""

    images: np.ndarray
    labels: np.ndarray | None
    reads: int = 0
    extra: dict[str, np.ndarray] = field(default_factory=dict)
    """Further targets."""

    @property
    def count(self) -> int:
        return len(self.images)

    @property
    def targets(self) -> dict[str, np.ndarray]:
        return {**({} if self.labels is None else {"y": self.labels}), **self.extra}

    @property
    def pictures(self) -> dict[str, Picture]:
        one = np.float32(1)
        picture = Picture.of(None, self.images.shape[1:], np.asarray(one), np.asarray(0 * one), 1.0)
        return {} if picture is None else {"x": picture}

    def targets_at(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        return {name: target[indices] for name, target in self.targets.items()}

    def batch(self, indices: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        self.reads += len(indices)
        return {"x": self.images[indices]}, self.targets_at(indices)


@dataclass
class ToyData:
    splits: Mapping[str, ToySplit]

    def train(self, *, seed: int) -> ToySplit:
        split = self.splits["train"]
        return split if "validation" in self.splits else ToySplit(split.images[40:], split.labels[40:])

    def validation(self, *, seed: int) -> ToySplit:
        split = self.splits["train"]
        return self.splits["validation"] if "validation" in self.splits else ToySplit(split.images[:40], split.labels[:40])


def make_split(count: int, seed: int) -> ToySplit:
    """Noisy copies of five fixed 1x8x8 patterns."""
    patterns = np.random.default_rng(0).normal(size=(CLASSES, 1, 8, 8))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    images = patterns[labels] + 1.5 * rng.normal(size=(count, 1, 8, 8))
    return ToySplit(images.astype(np.float32), labels.astype(np.int64))


def mlp(width: int = 32) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, CLASSES))


def cnn(width: int = 8) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * width, CLASSES),
    )


class Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        inner = torch.relu(self.bn1(self.conv1(features)))
        return torch.relu(features + self.bn2(self.conv2(inner)))


def resnet(width: int = 8, blocks: int = 2) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(2),
        *(Block(width) for _ in range(blocks)),
        nn.Flatten(),
        nn.Linear(16 * width, CLASSES),
    )


@dataclass
class World:
    """A context together with the events that it emitted."""

    context: Context
    network: Network
    data: ToyData
    events: list[Event] = field(default_factory=list)

    def of(self, kind: str) -> list[Any]:
        return [event for event in self.events if event.type == kind]


def signature(shape: tuple[int, ...] = (1, 8, 8), classes: int = CLASSES) -> Signature:
    return Signature((TensorSpec("x", (None, *shape)),), (TensorSpec("y", (None, classes)),))


@pytest.fixture(scope="session", autouse=True)
def _one_list_of_operators() -> Iterator[None]:
    """For every file torch's exporter parses the sources of its 500 operators anew, which takes half a second: here once a process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(functools.cache(ONNXRegistry.from_torchlib)))
        yield


@pytest.fixture
def world(tmp_path: Path) -> Callable[..., World]:
    """Builds a world around a module; the same module and seed give the same world."""

    def build(
        module: nn.Module, *, seed: int = 0, train: int = 200, teachers: Mapping[str, nn.Module] | None = None, **splits: Any
    ) -> World:
        network = ModuleNetwork(signature(), module.eval())
        data = ToyData({"train": make_split(train, 1), "test": make_split(200, 2), **splits})
        events: list[Event] = []
        context = Context(
            seed=seed,
            device=torch.device("cpu"),
            work=tmp_path,
            emit=events.append,
            baseline=network,
            data=data,
            load_teacher=lambda name: ModuleNetwork(signature(), (teachers or {})[name]),
        )
        return World(context.for_step(0, (0.0, 1.0)), network, data, events)

    return build


@pytest.fixture(scope="session")
def toy_split() -> Callable[[int, int], ToySplit]:
    """Makes further splits: count, seed."""
    return make_split


@pytest.fixture(scope="session")
def make_network() -> Callable[[], Network]:
    """A network with convolutions that has learned the toy images a little."""
    return lambda: ModuleNetwork(signature(), _trained(cnn()))


@pytest.fixture(scope="session")
def make_residual_network() -> Callable[[], Network]:
    """A residual network that has learned the toy images a little."""
    return lambda: ModuleNetwork(signature(), _trained(resnet()))


@pytest.fixture
def trained_mlp() -> nn.Module:
    """An MLP that has learned the toy images a little."""
    return _trained(mlp())


@pytest.fixture
def trained_cnn() -> nn.Module:
    return _trained(cnn())


def _trained(module: nn.Module) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for layer in module.modules():
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
    split = make_split(300, 1)
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    images, labels = torch.from_numpy(split.images), torch.from_numpy(split.labels)
    module.train()
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(images), labels).backward()
        optimizer.step()
    return module.eval()
