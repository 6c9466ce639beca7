"""What a person writes without this project: channels removed with `torch-pruning`, then tuned. A process of its own, timed from outside.

    python plain_torch_pruning.py DIGITS.onnx DIGITS.npz OUTPUT.onnx RATIO EPOCHS SEED

Like a job of the service it also scores both networks on the test split, exports, times both files in turns, and takes their sizes
after gzip.
"""

import json
import math
import sys

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import nn

from benchmarks.peers.both_files import figures

BATCH, RATE = 64, 1e-3


class Digits(nn.Module):
    """The network of `examples/digits.onnx`, written down again."""

    def __init__(self) -> None:
        super().__init__()
        widths = [(1, 32), (32, 64), (64, 128)]
        layers = [[nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)] for a, b in widths]
        self.conv_layers = nn.Sequential(*(layer for three in layers for layer in three))
        self.fc_layers = nn.Sequential(nn.Linear(1152, 256), nn.ReLU(), nn.Linear(256, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc_layers(self.conv_layers(x).flatten(1))


def images(stored: np.ndarray) -> np.ndarray:
    return ((stored.astype(np.float32) / 255 - 0.1307) / 0.3081)[:, None]


def tune(module: nn.Module, x: torch.Tensor, y: torch.Tensor, epochs: int) -> None:
    """AdamW, the rate falling along a cosine."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=RATE, weight_decay=0)
    total, done = epochs * math.ceil(len(x) / BATCH), 0
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(BATCH):
            optimizer.param_groups[0]["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * done / total))
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(x[rows]), y[rows]).backward()
            optimizer.step()
            done += 1


def main() -> None:
    import torch_pruning as tp

    network, data, output = sys.argv[1:4]
    ratio, epochs, seed = float(sys.argv[4]), int(sys.argv[5]), int(sys.argv[6])
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    with np.load(data) as arrays:
        x, y = torch.from_numpy(images(arrays["x_train"])), torch.from_numpy(arrays["y_train"].astype(np.int64))
        test, labels = arrays["x_test"], arrays["y_test"]
    module, example = Digits(), torch.zeros(2, 1, 28, 28)
    module.load_state_dict(
        {
            item.name: torch.from_numpy(onnx.numpy_helper.to_array(item).copy())
            for item in onnx.load(network).graph.initializer
            if item.name.endswith((".weight", ".bias"))
        }
    )
    before, _ = tp.utils.count_ops_and_params(module, example[:1])
    tp.pruner.BasePruner(
        module, example, importance=tp.importance.MagnitudeImportance(p=2), pruning_ratio=ratio, ignored_layers=[module.fc_layers[2]]
    ).step()
    after, _ = tp.utils.count_ops_and_params(module, example[:1])
    tune(module, x, y, epochs)
    program = torch.onnx.export(
        module.eval(),
        (example,),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        input_names=["input"],
        output_names=["logits"],
        verbose=False,
    )
    assert program is not None
    program.save(output)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    found = figures((network, output), images, test, labels, options)
    print(json.dumps({**found, "macs": [before, after]}))


if __name__ == "__main__":
    main()
