"""A residual network with the layers of ResNet-18, trained for a minute on the digits of `examples/`, as an ONNX file."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

SIDE, CALIBRATION, TEST = 64, 320, 2000


class Block(nn.Module):
    """Two convolutions and a way around them (He et al., 2016, figure 2)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.norm2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        same = stride == 1 and inputs == outputs
        self.around = nn.Identity() if same else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(inner)) + self.around(x))


def residual_network() -> nn.Module:
    """11.2 million parameters, input (batch, 3, 64, 64), ten classes."""
    stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    widths = [(64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2), (512, 512, 1)]
    return nn.Sequential(*stem, *(Block(*width) for width in widths), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


def enlarged(digits: np.ndarray) -> np.ndarray:
    """(n, 28, 28) bytes as (n, 3, 64, 64) bytes."""
    large = np.pad(digits.repeat(2, axis=1).repeat(2, axis=2), ((0, 0), (4, 4), (4, 4)))
    return np.ascontiguousarray(np.broadcast_to(large[:, None], (len(large), 3, SIDE, SIDE)))


def make(examples: Path, network_file: Path, data_file: Path, steps: int = 80, batch: int = 32) -> None:
    """Train and export the network, and write its weights (`.pt`) and its calibration and test examples, unless all are there."""
    weights = network_file.with_suffix(".pt")
    if network_file.exists() and data_file.exists() and weights.exists():
        return
    network_file.parent.mkdir(parents=True, exist_ok=True)
    with np.load(examples / "digits.npz") as digits:
        x, y = digits["x_train"], digits["y_train"].astype(np.int64)
        test = enlarged(digits["x_test"][:TEST]), digits["y_test"][:TEST].astype(np.int64)
    torch.manual_seed(0)
    order = np.random.default_rng(0).permutation(len(x))
    module = residual_network()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    for step in range(steps):
        rows = order[step * batch : (step + 1) * batch]
        images = torch.from_numpy((enlarged(x[rows]).astype(np.float32) / 255 - 0.1307) / 0.3081)
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(images), torch.from_numpy(y[rows])).backward()
        optimizer.step()
    torch.save(module.state_dict(), weights)
    program = torch.onnx.export(
        module.eval(),
        (torch.zeros(2, 3, SIDE, SIDE),),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        input_names=["input"],
        output_names=["logits"],
    )
    assert program is not None
    program.save(str(network_file))
    chosen = order[-CALIBRATION:]
    np.savez(data_file, x_train=enlarged(x[chosen]), y_train=y[chosen], x_test=test[0], y_test=test[1])
