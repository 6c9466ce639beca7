"""What becomes of small networks through both of torch's exporters to ONNX and through `torch.export`: `python -m benchmarks.compatibility` writes docs/compatibility.md."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import nn

from engine.architectures.build import build_architecture
from engine.contract.errors import EngineError
from engine.contract.metadata import ModelMetadata
from engine.formats.loading import load_network, write_network
from engine.networks.example_inputs import example_inputs
from engine.networks.network import Network
from engine.structure.graph import ChannelGraph
from engine.structure.proof import removable

Made = tuple[nn.Module, tuple[torch.Tensor, ...]]
STEPS, TOLERANCE = 20, 1e-4


class LstmClassifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm, self.head = nn.Embedding(50, 16), nn.LSTM(16, 24, batch_first=True), nn.Linear(24, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(self.embed(ids))[0][:, -1])


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


def builtin(name: str, **params: int) -> Callable[[], Made]:
    def make() -> Made:
        module, signature = build_architecture({"name": name, "params": params})
        return module, example_inputs(signature, 2, seed=1)

    return make


IMAGE = torch.linspace(-1, 1, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16)
NETWORKS: dict[str, Callable[[], Made]] = {
    "ResNet-18": builtin("resnet18", image_size=32),
    "MobileNetV2": builtin("mobilenet_v2", image_size=32),
    "DenseNet-40": builtin("densenet40"),
    "ViT": builtin("vit_small_images", depth=2, width=32, heads=2),
    "byte classifier (BERT-like)": builtin("byte_transformer", depth=1, width=32, heads=2, length=16),
    "tiny GPT": builtin("byte_language_model", depth=1, width=32, heads=2, length=16),
    "LSTM classifier": lambda: (LstmClassifier(), (torch.arange(24).reshape(2, 12) % 50,)),
    "U-Net": lambda: (UNet(), (IMAGE,)),
    "two scales (YOLO-like)": lambda: (TwoScales(), (IMAGE,)),
    "image and table": lambda: (ImageAndTable(), (IMAGE, torch.linspace(-1, 1, 10).reshape(2, 5))),
    "autoencoder": lambda: (nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 3), nn.ReLU(), nn.Linear(3, 20)), (torch.linspace(-1, 1, 40).reshape(2, 20),)),
}  # fmt: skip


def onnx_new(module: nn.Module, inputs: tuple[torch.Tensor, ...], path: Path) -> str:
    shapes = tuple({0: torch.export.Dim("batch")} for _ in inputs)
    torch.onnx.export(module, inputs, str(path), dynamo=True, dynamic_shapes=shapes, external_data=False, verbose=False)
    return "onnx"


def onnx_old(module: nn.Module, inputs: tuple[torch.Tensor, ...], path: Path) -> str:
    names = [f"x{place}" for place in range(len(inputs))]
    torch.onnx.export(module, inputs, str(path), dynamo=False, input_names=names, dynamic_axes={name: {0: "n"} for name in names})
    return "onnx"


def pt2(module: nn.Module, inputs: tuple[torch.Tensor, ...], path: Path) -> str:
    torch.export.save(torch.export.export(module, inputs, dynamic_shapes=tuple({0: torch.export.Dim("batch")} for _ in inputs)), path)
    return "pt2"


WAYS = {"ONNX (new exporter)": onnx_new, "ONNX (old exporter)": onnx_old, "pt2": pt2}


def tensors(value: object) -> list[torch.Tensor]:
    return [value] if isinstance(value, torch.Tensor) else list(value)  # type: ignore[call-overload]


def row(make: Callable[[], Made], way: Callable[..., str], work: Path) -> list[str]:
    torch.manual_seed(0)
    module, inputs = make()
    module.eval()
    path = work / "net"
    try:
        network = load_network(path, way(module, inputs, path), ModelMetadata(), work)
        with torch.no_grad():
            worst = max(float((a - b).abs().max()) for a, b in zip(tensors(module(*inputs)), tensors(network.module(*inputs)), strict=True))
        found = ["yes" if worst <= TOLERANCE else f"differs by {worst:.1e}"]
    except EngineError as error:
        return [error.message, "–", "–", "–", "–"]
    return [*found, *(attempt(check, network, inputs, work) for check in (trains, channels, quantizable, again))]


def attempt(check: Callable[..., str], network: Network, inputs: tuple[torch.Tensor, ...], work: Path) -> str:
    try:
        return check(network, inputs, work)
    except EngineError as error:
        return error.message
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"


def again(network: Network, inputs: tuple[torch.Tensor, ...], work: Path) -> str:
    (path,) = write_network(network.with_module(network.module), "onnx", work / "again.onnx")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    given = session.run(None, {spec.name: array.numpy() for spec, array in zip(network.signature.inputs, inputs, strict=True)})
    with torch.no_grad():
        expected = tensors(network.module.eval()(*inputs))
    worst = max(float(np.abs(a - b.numpy()).max()) for a, b in zip(given, expected, strict=True))
    return "yes" if worst <= TOLERANCE else f"differs by {worst:.1e}"


def trains(network: Network, inputs: tuple[torch.Tensor, ...], work: Path) -> str:
    module = network.module.train()
    optimizer = torch.optim.Adam(module.parameters(), 1e-3)
    targets = [torch.randn_like(item) for item in tensors(module(*inputs))]
    losses = []
    for _ in range(STEPS):
        loss = sum(((item - target) ** 2).mean() for item, target in zip(tensors(module(*inputs)), targets, strict=True))
        assert isinstance(loss, torch.Tensor)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    module.eval()
    return "yes" if losses[-1] < losses[0] else f"loss {losses[0]:.3f} → {losses[-1]:.3f}"


def channels(network: Network, inputs: tuple[torch.Tensor, ...], work: Path) -> str:
    graph = ChannelGraph(network.module, inputs)
    names = removable(network.module, inputs, [group.name for group in graph.groups], graph)
    kept = [f"{name}: {reason}" for name, reason in graph.fixed.items()]
    return f"{sum(group.channels_count for group in graph.groups if group.name in names)} channels" + (f"; {kept[0]}" if kept else "")


def quantizable(network: Network, inputs: tuple[torch.Tensor, ...], work: Path) -> str:
    from engine.networks.layers import PRUNABLE

    return f"{sum(isinstance(layer, PRUNABLE) for layer in network.module.modules())} layers"


def main() -> None:
    lines = [
        "# Compatibility",
        "",
        "Small networks through both of torch's exporters to ONNX and through `torch.export`, written by `python -m benchmarks.compatibility`. *Import*: the imported network computes what the original computes, within "
        f"{TOLERANCE:g}. *Train*: its loss falls within {STEPS} steps. *Prune*: channels that can be removed (of all layers that compute them, each cut tried), and the first layer that keeps its own, with the reason. *Quantize*: layers with 8-bit kernels. "
        "*Export*: written as ONNX again, it computes the same in ONNX Runtime.",
        "",
        "| network | through | import | train | prune | quantize | export |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, make in NETWORKS.items():
        for through, way in WAYS.items():
            with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                cells = row(make, way, Path(folder))
            lines.append(f"| {name} | {through} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    Path("docs/compatibility.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
