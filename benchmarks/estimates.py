"""The estimate of `POST /v1/jobs/validate` beside whole jobs: `python -m benchmarks.estimates [--only WORD]`.

Each job runs in a process of its own with one thread. Its processor time stands for its duration, which is the same on a machine of its own
and does not depend on what else runs; its largest resident set is that of its largest process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.jobs.estimates import JobFacts
from engine.architectures.build import build_architecture
from engine.contract.metadata import DatasetMetadata, ModelMetadata
from engine.contract.spec import Spec
from engine.formats.onnx.networks import ModuleNetwork
from engine.jobs.dataset_inspection import inspect_dataset
from engine.jobs.inspection import inspect_model
from engine.networks.network import Signature

NETWORKS: dict[str, dict[str, Any]] = {
    "lenet_300_100": {},
    "lenet_5": {},
    "resnet20": {},
    "densenet40": {},
    "mobilenet_v2": {"image_size": 96},
    "resnet18": {"image_size": 64},
    "vgg16_bn": {"image_size": 32},
    "vit_small_images": {"depth": 4},
    "byte_transformer": {"depth": 2},
    "byte_language_model": {"depth": 2},
}
TRAIN, TEST = 600, 200
METHODS: dict[str, list[dict[str, Any]]] = {
    "int8": [{"method": "int8_quantization"}],
    "prune": [{"method": "structured_pruning", "pruning_ratio": 0.3}],
    "prune, distil, int8": [
        {"method": "structured_pruning", "pruning_ratio": 0.3},
        {"method": "distillation", "epochs": 1},
        {"method": "int8_quantization"},
    ],
    "magnitude": [{"method": "magnitude_pruning", "sparsity": 0.8}, {"method": "distillation", "epochs": 1}],
    "quantization-aware": [{"method": "quantization_aware_training", "epochs": 1}],
}

STARTER = """
import json, os, sys
child = os.fork() or os.execv(sys.argv[1], sys.argv[1:])
_, status, used = os.wait4(child, 0)
print(json.dumps([os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime, used.ru_maxrss]))
"""
"""Runs in a small process: what a process starts begins with its starter's memory as the largest."""


def dataset(path: Path, signature: Signature, classes: int | None) -> None:
    """Random examples of the network's shapes, labelled at random where there are classes."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split, count in (("train", TRAIN), ("test", TEST)):
        for spec in signature.inputs:
            shape = (count, *(size or 1 for size in spec.shape[1:]))
            arrays[f"x_{split}"] = rng.integers(1, 200, shape) if "int" in spec.dtype else rng.standard_normal(shape, np.float32)
        if classes is not None:
            arrays[f"y_{split}"] = rng.integers(0, classes, count)
    np.savez(path, **arrays)


def run(model: Path, data: Path, steps: list[dict[str, Any]], folder: Path, metadata: dict[str, Any]) -> tuple[float, int, str]:
    """Processor seconds and largest resident bytes of a job, and how it ended."""
    folder.mkdir()
    (folder / "spec.json").write_text(json.dumps({"model": "mdl_a", "dataset": "ds_a", "steps": steps}))
    (folder / "metadata.json").write_text(json.dumps(metadata))
    words = ["run", str(folder / "spec.json"), "--model", str(model), "--data", str(data), "--out", str(folder / "out")]
    words += ["--model-metadata", str(folder / "metadata.json")] if metadata else []
    with (folder / "log").open("wb") as log:
        started = [sys.executable, "-S", "-c", STARTER, sys.executable, "-m", "engine", *words]
        done = subprocess.run(started, stdout=subprocess.PIPE, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)
    status, seconds, kilobytes = json.loads(done.stdout.splitlines()[-1])
    said = (folder / "log").read_text().strip().splitlines()
    ended = "" if status == 0 else (said[-1][:100] if said else f"ended with {status}, saying nothing")
    return seconds, kilobytes * 1024, ended


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="")
    asked = parser.parse_args()
    print("| network | steps | seconds | estimated | ratio | peak MB | estimated | ratio |\n|---|---|---|---|---|---|---|---|")
    for name, params in NETWORKS.items():
        if asked.only not in name:
            continue
        with tempfile.TemporaryDirectory() as word, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            folder = Path(word)
            torch.manual_seed(0)
            module, signature = build_architecture({"name": name, "params": params})
            ModuleNetwork(signature, module.eval()).write_onnx(folder / "net.onnx")
            metadata = {"task": "causal_lm"} if name == "byte_language_model" else {}
            data = folder / "data.npz"
            dataset(data, signature, None if metadata else 2)
            facts = JobFacts.read(
                inspect_model(folder / "net.onnx", "onnx", ModelMetadata.model_validate(metadata), folder).model_dump(),
                inspect_dataset(data, "npz", DatasetMetadata(), folder).model_dump(),
                dataset_bytes=data.stat().st_size,
                evaluated="test",
            )
            for label, steps in METHODS.items():
                spec = Spec.model_validate({"model": "mdl_a", "dataset": "ds_a", "steps": steps})
                estimated = facts.duration_seconds(spec) or 0.0
                memory = facts.peak_memory_bytes(spec) or 0
                job = folder / label.replace(", ", "-")
                seconds, peak, ended = run(folder / "net.onnx", data, steps, job, metadata)
                print(
                    f"| {name} | {label} | {seconds:.1f} | {estimated:g} | {estimated / seconds:.2f} | {peak / 2**20:.0f} | "
                    f"{memory / 2**20:.0f} | {memory / peak:.2f} | {ended}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
