"""Networks whose channels are tied in all the ways that matter."""

from collections.abc import Callable

import pytest
import torch
from torch import nn


class Residual(nn.Module):
    """Two blocks, the second with a projection."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.one = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        )
        self.two = nn.Sequential(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1))
        self.project = nn.Conv2d(8, 16, 1, stride=2)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = torch.relu(x + self.one(x))
        x = torch.relu(self.project(x) + self.two(x))
        return self.head(x.mean((2, 3)))


class Tied(nn.Module):
    """One kernel at two places."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.near, self.far = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.far.weight = self.near.weight
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.far(torch.relu(self.near(torch.relu(self.stem(x)))))).mean((2, 3)))


class Dense(nn.Module):
    """Concatenated features, as in DenseNet, and a flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1)
        self.c = nn.Conv2d(20, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(20)
        self.head = nn.Linear(8 * 16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = torch.relu(self.a(x))
        b = torch.relu(self.b(a))
        return self.head(torch.flatten(torch.relu(self.c(torch.relu(self.norm(torch.cat([a, b], 1))))), 1))


class Mobile(nn.Module):
    """Inverted residual with a depthwise convolution and squeeze-and-excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.expand, self.depthwise, self.project = nn.Conv2d(8, 24, 1), nn.Conv2d(24, 24, 3, padding=1, groups=24), nn.Conv2d(24, 8, 1)
        self.squeeze, self.excite = nn.Conv2d(24, 6, 1), nn.Conv2d(6, 24, 1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(24), nn.BatchNorm2d(24), nn.BatchNorm2d(8)])
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.nn.functional.relu6(self.stem(x))
        y = torch.nn.functional.relu6(self.norms[0](self.expand(x)))
        y = torch.nn.functional.relu6(self.norms[1](self.depthwise(y)))
        y = y * torch.sigmoid(self.excite(torch.relu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        return self.head((x + self.norms[2](self.project(y))).mean((2, 3)))


class Grouped(nn.Module):
    """A grouped convolution and a group normalization in between."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.grouped, self.last = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 24, 3, padding=1, groups=4), nn.Conv2d(24, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.last(torch.relu(self.grouped(torch.relu(self.stem(x)))))).amax((2, 3)))


class Scaled(nn.Module):
    """Bare parameters: a scale per channel, and a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.up, self.last = nn.Conv2d(1, 8, 3, padding=1), nn.ConvTranspose2d(8, 6, 2, stride=2), nn.Conv2d(6, 4, 3)
        self.scale, self.shift = nn.Parameter(torch.rand(8, 1, 1) + 0.5), nn.Parameter(torch.randn(1, 8, 1, 1))
        self.head = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.last(torch.relu(self.up(torch.relu(self.stem(x) * self.scale + self.shift))))).mean((2, 3)))


def plain() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Sigmoid(), nn.MaxPool2d(2), nn.Conv2d(8, 12, 3, padding=1), nn.Tanh(), nn.Flatten(),
        nn.Linear(108, 16), nn.ReLU(), nn.Linear(16, 5),
    )  # fmt: skip


SHAPES: dict[str, Callable[[], nn.Module]] = {
    "plain": plain, "residual": Residual, "dense": Dense, "mobile": Mobile, "grouped": Grouped, "scaled": Scaled,
}  # fmt: skip


def lively(module: nn.Module) -> nn.Module:
    """Statistics and scales as after training, so that no slice is trivially zero or one."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear | nn.ConvTranspose2d):
                for parameter in layer.parameters():
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
            if isinstance(layer, nn.BatchNorm2d):
                for tensor in (layer.weight, layer.running_var):
                    tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
                for tensor in (layer.bias, layer.running_mean):
                    tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.2)
    return module.eval()


@pytest.fixture(params=SHAPES)
def shaped(request: pytest.FixtureRequest) -> nn.Module:
    """Each of the networks in turn."""
    return lively(SHAPES[request.param]())


@pytest.fixture
def network_of() -> Callable[[str], nn.Module]:
    """One of the networks by name."""
    return lambda name: lively(SHAPES[name]())
