"""The networks of the table, each with inputs of two examples."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from engine.architectures.build import build_architecture
from engine.networks.example_inputs import example_inputs

Inputs = tuple[torch.Tensor, ...]
Made = tuple[nn.Module, Inputs]
EXAMPLES = 64
"""That statistics are made of."""


class LstmClassifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm, self.head = nn.Embedding(50, 16), nn.LSTM(16, 24, batch_first=True), nn.Linear(24, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(self.embed(ids))[0][:, -1])


@torch.jit.script_if_tracing
def last_state(x: torch.Tensor, state: torch.Tensor, kernel: torch.Tensor, recurrent: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """A loop in the file of torch's old exporter."""
    for step in range(x.size(1)):
        state = torch.tanh(nn.functional.linear(x[:, step], kernel, bias) + nn.functional.linear(state, recurrent))
    return state


class CellInLoop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.given, self.state, self.head = nn.Linear(5, 12), nn.Linear(12, 16), nn.Linear(16, 16, bias=False), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state, given = x.new_zeros(x.shape[0], 16), self.given
        return self.head(last_state(torch.relu(self.embed(x)), state, given.weight, self.state.weight, given.bias))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.up, self.out = nn.ConvTranspose2d(16, 8, 2, stride=2), nn.Conv2d(16, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = torch.relu(self.down1(x))
        return self.out(torch.cat([first, torch.relu(self.up(torch.relu(self.down2(first))))], 1))


class ImageAndTable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.table, self.head = nn.Conv2d(3, 8, 3, stride=2), nn.Linear(5, 6), nn.Linear(14, 3)

    def forward(self, image: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        return self.head(torch.cat([torch.relu(self.conv(image)).mean((2, 3)), torch.relu(self.table(table))], 1))


class TwoScales(nn.Module):
    """A head as detectors have it: boxes and classes at two scales."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deeper = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.fine, self.coarse = nn.Conv2d(8, 7, 1), nn.Conv2d(12, 7, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        first = nn.functional.silu(self.stem(x))
        return self.fine(first).flatten(2), self.coarse(nn.functional.silu(self.deeper(first))).flatten(2)


def awake(module: nn.Module, inputs: Inputs) -> Made:
    """The module with normalizations of these inputs' own statistics and biases that are not zero, and the first two examples.

    Drawn networks answer hardly more than nothing otherwise, so that any import would be right, and none would learn. Statistics of two
    examples alone would divide the channels in which those are alike by next to nothing: the last digit would become the first.
    """
    norms = [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("bias"):
                parameter.add_(torch.randn_like(parameter) * 0.05)
        if norms:
            module.train()(*inputs)
    return module.eval(), tuple(item[:2] for item in inputs)


def builtin(name: str, *, most: int = 256, **params: int) -> Callable[[], Made]:
    """A builtin architecture; of token numbers `most` and none of them the padding's."""

    def make() -> Made:
        module, signature = build_architecture({"name": name, "params": params})
        inputs = example_inputs(signature, EXAMPLES, seed=1)
        return awake(module, tuple(item if item.is_floating_point() else torch.randint_like(item, 1, most) for item in inputs))

    return make


def half(make: Callable[[], Made]) -> Callable[[], Made]:
    """The network in half precision, inputs and outputs as well."""

    def made() -> Made:
        module, inputs = make()
        return module.half(), tuple(item.half() if item.is_floating_point() else item for item in inputs)

    return made


IMAGE = torch.linspace(-1, 1, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16)
NETWORKS: dict[str, Callable[[], Made]] = {
    "ResNet-18": builtin("resnet18", image_size=32),
    "MobileNetV2": builtin("mobilenet_v2", image_size=32),
    "DenseNet-40": builtin("densenet40"),
    "ViT": builtin("vit_small_images", depth=2, width=32, heads=2),
    "byte classifier (BERT-like)": builtin("byte_transformer", depth=1, width=32, heads=2, length=16),
    "tiny GPT": builtin("byte_language_model", depth=1, width=32, heads=2, length=16),
    "LSTM classifier": lambda: awake(LstmClassifier(), (torch.arange(24).reshape(2, 12) % 50,)),
    "cell in a loop": lambda: awake(CellInLoop(), (torch.linspace(-1, 1, 2 * 6 * 5).sin().reshape(2, 6, 5),)),
    "U-Net": lambda: awake(UNet(), (IMAGE,)),
    "two scales (YOLO-like)": lambda: awake(TwoScales(), (IMAGE,)),
    "image and table": lambda: awake(ImageAndTable(), (IMAGE, torch.linspace(-1, 1, 10).reshape(2, 5))),
    "autoencoder": lambda: awake(nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 3), nn.ReLU(), nn.Linear(3, 20)), (torch.linspace(-1, 1, 40).reshape(2, 20),)),
    "ResNet-20 in half precision": half(builtin("resnet20")),
    "U-Net in half precision": half(lambda: awake(UNet(), (IMAGE,))),
}  # fmt: skip
