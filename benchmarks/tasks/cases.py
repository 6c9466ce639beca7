"""A small trained network and its data for each task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

Arrays = dict[str, NDArray[Any]]
TRAIN, TEST = 2000, 500


@dataclass(frozen=True)
class Case:
    """A task."""

    name: str
    module: nn.Module
    inputs: Arrays
    """By input name: all examples, those of training first."""
    targets: Arrays
    """By output name; empty for outputs that only stay what they are."""
    outputs: tuple[str, ...]
    loss: Callable[[tuple[Tensor, ...], Mapping[str, Tensor], tuple[Tensor, ...]], Tensor]
    """Of outputs, targets and inputs."""
    metric: str
    largest_drop: float
    """What the metric may lose."""
    metadata: dict[str, Any]
    epochs: int = 12

    def split(self, arrays: Arrays, name: str) -> Arrays:
        """The examples of `train` or `test`."""
        return {key: value[:TRAIN] if name == "train" else value[TRAIN:] for key, value in arrays.items()}

    def dataset(self) -> Arrays:
        """The arrays of the uploaded npz file."""
        found: Arrays = {}
        for split in ("train", "test"):
            for key, value in self.split(self.inputs, split).items():
                found[f"x_{split}.{key}" if len(self.inputs) > 1 else f"x_{split}"] = value
            for key, value in self.split(self.targets, split).items():
                found[f"y_{split}.{key}" if len(self.targets) > 1 else f"y_{split}"] = value
        return found


def _first(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda outputs, targets, inputs: function(outputs[0], next(iter(targets.values())))


def perceptron(inside: int, outside: int, *more: nn.Module) -> nn.Module:
    """Three layers."""
    return nn.Sequential(nn.Linear(inside, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, outside), *more)


def convolutions(classes: int) -> nn.Sequential:
    """Two convolutions with normalization, and a classifier."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, classes),
    )  # fmt: skip


class Normalized(nn.Module):
    """Rows of length 1."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.normalize(x, dim=1)


class UNet(nn.Module):
    """One level down and up."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.down = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.deep, self.up = nn.Conv2d(32, 32, 3, padding=1), nn.ConvTranspose2d(32, 16, 2, stride=2)
        self.join, self.out = nn.Conv2d(32, 16, 3, padding=1), nn.Conv2d(16, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = torch.relu(self.first(x))
        deep = torch.relu(self.deep(torch.relu(self.down(first))))
        return self.out(torch.relu(self.join(torch.cat([first, torch.relu(self.up(deep))], 1))))


class Tagger(nn.Module):
    """A class for each token, seen from its neighbours."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.look = nn.Embedding(20, 32), nn.Conv1d(32, 48, 3, padding=1)
        self.inner, self.head = nn.Linear(48, 48), nn.Linear(48, 3)

    def forward(self, ids: Tensor) -> Tensor:
        seen = torch.relu(self.look(self.embed(ids).transpose(1, 2))).transpose(1, 2)
        return self.head(torch.relu(self.inner(seen)))


class Detector(nn.Module):
    """Boxes and scores at two scales, which mean nothing to the service."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deeper = nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.fine, self.coarse = nn.Conv2d(16, 5, 1), nn.Conv2d(32, 5, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first = torch.relu(self.stem(x))
        return self.fine(first), self.coarse(torch.relu(self.deeper(first)))


class TwoHeads(nn.Module):
    """A class and a value from one trunk."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.kind, self.size = nn.Linear(64, 4), nn.Linear(64, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.trunk(x)
        return self.kind(features), self.size(features)


def _shapes(rng: np.random.Generator, count: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Noisy 16² images with a square (1) and a disc (2), and the class of each pixel."""
    images, masks = rng.normal(0, 0.35, (count, 1, 16, 16)), np.zeros((count, 16, 16), np.int64)
    rows, columns = np.mgrid[:16, :16]
    for place in range(count):
        top, left, row, column = rng.integers(1, 9, 2).tolist() + rng.integers(4, 12, 2).tolist()
        masks[place][(rows - row) ** 2 + (columns - column) ** 2 <= 9] = 2
        masks[place, top : top + 6, left : left + 6] = 1
        images[place, 0] += np.array([0.0, 1.0, -1.0])[masks[place]]
    return images.astype(np.float32), masks


def cases(seed: int) -> list[Case]:
    """Every task, untrained; its data and first weights are drawn with `seed`."""
    rng, total = np.random.default_rng(seed), TRAIN + TEST
    table = rng.normal(size=(total, 12)).astype(np.float32)
    mixed = np.tanh(table @ rng.normal(size=(12, 8))) @ rng.normal(size=(8, 6))
    patterns = rng.normal(size=(10, 1, 12, 12))
    kinds = rng.integers(0, 10, total)
    pictures = (patterns[kinds] + 1.2 * rng.normal(size=(total, 1, 12, 12))).astype(np.float32)
    images, masks = _shapes(rng, total)
    ids = rng.integers(1, 20, (total, 16))
    before = np.concatenate([np.zeros((total, 1), int), ids[:, :-1]], 1)
    steps = rng.integers(1, 4, (total, 1))
    counted = ((rng.integers(0, 30, (total, 1)) + steps * np.arange(16)) % 30) + 1
    from engine.architectures.build import build_architecture

    torch.manual_seed(seed)
    model, _ = build_architecture({"name": "byte_language_model", "params": {"depth": 2, "width": 64, "heads": 4, "length": 16}})
    binary = functional.binary_cross_entropy_with_logits
    next_token = lambda outputs, targets, inputs: functional.cross_entropy(outputs[0][:, :-1].flatten(0, 1), inputs[0][:, 1:].flatten())  # noqa: E731 - losses of one case each
    both = lambda outputs, targets, inputs: (  # noqa: E731 - losses of one case each
        functional.cross_entropy(outputs[0], targets["kind"]) + functional.mse_loss(outputs[1], targets["size"])
    )
    alike = lambda outputs, targets, inputs: _contrast(outputs[0], next(iter(targets.values())))  # noqa: E731 - losses of one case each
    wave = np.stack([np.sin(2 * mixed[:, 0]), mixed[:, 1]], 1).astype(np.float32)
    value = (mixed[:, 2:3] / mixed[:, 2].std()).astype(np.float32)
    classes = mixed[:, :4].argmax(1)
    return [
        Case("classification", convolutions(10), {"x": pictures}, {"y": kinds}, ("logits",), _first(functional.cross_entropy), "top1", 0.01, {}),
        Case("binary", perceptron(12, 1), {"x": table}, {"y": (mixed[:, :1] > 0).astype(np.int64)[:, 0]}, ("logit",),
             lambda outputs, targets, inputs: binary(outputs[0][:, 0], targets["y"].float()), "top1", 0.01, {"task": "binary"}),
        Case("multi_label", perceptron(12, 4), {"x": table}, {"y": (mixed[:, :4] > 0).astype(np.int64)}, ("logits",),
             lambda outputs, targets, inputs: binary(outputs[0], targets["y"].float()), "average_precision", 0.01, {"task": "multi_label"}),
        Case("regression", perceptron(12, 2), {"x": table}, {"y": wave}, ("values",), _first(functional.mse_loss), "r2", 0.02, {"task": "regression"}, epochs=30),
        Case("segmentation", UNet(), {"x": images}, {"y": masks}, ("logits",), _first(functional.cross_entropy), "miou", 0.02, {"task": "segmentation"}, epochs=12),
        Case("token_classification", Tagger(), {"ids": ids}, {"y": (ids + before) % 3}, ("logits",),
             lambda outputs, targets, inputs: functional.cross_entropy(outputs[0].flatten(0, 1), targets["y"].flatten()), "token_accuracy", 0.01, {"task": "token_classification"}),
        Case("causal_lm", model, {"text": counted}, {}, ("logits",), next_token, "agreement", 0.25, {"task": "causal_lm"}, epochs=6),
        Case("embedding", nn.Sequential(*convolutions(16), Normalized()), {"x": pictures}, {"y": kinds}, ("embedding",), alike, "recall_at_1", 0.01, {"task": "embedding"}),
        Case("fidelity (detector)", Detector(), {"x": images}, {}, ("fine", "coarse"), lambda outputs, targets, inputs: outputs[0].sum() * 0, "cosine", 0.02, {}, epochs=0),
        *(Case(f"two heads ({name})", TwoHeads(), {"x": table}, {"kind": classes, "size": value}, ("kind", "size"), both, metric, 0.02,
               {"outputs": [{"name": "kind", "task": "classification", "target": "y.kind"}, {"name": "size", "task": "regression", "target": "y.size"}]}, epochs=30)
          for name, metric in (("kind", "top1"), ("size", "r2"))),
    ]  # fmt: skip


def _contrast(rows: Tensor, kinds: Tensor, temperature: float = 0.2) -> Tensor:
    """Supervised contrastive loss (Khosla et al., 2020)."""
    scores = rows @ rows.T / temperature - 1e9 * torch.eye(len(rows))
    same = (kinds[:, None] == kinds[None]).float() * (1 - torch.eye(len(rows)))
    return -(functional.log_softmax(scores, 1) * same).sum(1).div(same.sum(1).clamp(min=1)).mean()
