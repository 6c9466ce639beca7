"""Training from a zip of JPEGs beside training from arrays in memory: `python -m benchmarks.image_folder --pictures 10000 --steps 12`.

Makes the pictures (224², in class folders), reads them as the service does, and trains a ResNet-18 on both, batch by batch in turns. Prints
the seconds of a step, their ratio, and the memory of this process: what it has of its own (anonymous), beside what it maps of the scratch file,
which the system may take back at any time.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import tempfile
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from engine.architectures.build import build_architecture
from engine.contract.metadata import DatasetMetadata
from engine.data import load_dataset

SIZE, CLASSES, BATCH = 224, 10, 16
METADATA = DatasetMetadata.model_validate({"preprocessing": {"scale": 1 / 255, "mean": 0.5, "std": 0.25}})


def make(path: Path, count: int) -> None:
    """Pictures with edges and noise, so that they are as large as photographs (some 10 kB)."""
    from PIL import Image

    rng = np.random.default_rng(0)
    grain = rng.integers(0, 40, (64, SIZE, SIZE, 3), dtype=np.uint8)
    with zipfile.ZipFile(path, "w") as archive:
        for place in range(count):
            low = rng.integers(0, 215, (7, 7, 3), dtype=np.uint8)
            array = np.asarray(Image.fromarray(low).resize((SIZE, SIZE), Image.Resampling.BICUBIC)) // 2 + grain[place % 64]
            buffer = io.BytesIO()
            Image.fromarray(array).save(buffer, "JPEG", quality=85)
            archive.writestr(f"train/{place % CLASSES}/{place}.jpg", buffer.getvalue())


def memory() -> dict[str, float]:
    """Resident megabytes of this process."""
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return {name: int(lines[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=12)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    module, signature = build_architecture({"name": "resnet18", "params": {"image_size": SIZE, "num_classes": CLASSES}})
    optimizer = torch.optim.SGD(module.parameters(), 0.01)
    module.train()

    def step(inputs: Mapping[str, NDArray[Any]], targets: Mapping[str, NDArray[Any]]) -> None:
        optimizer.zero_grad()
        images, labels = (torch.from_numpy(np.asarray(next(iter(side.values())))) for side in (inputs, targets))
        functional.cross_entropy(module(images), labels.long()).backward()
        optimizer.step()

    rng = np.random.default_rng(1)
    arrays = {"x": rng.standard_normal((64, 3, SIZE, SIZE), np.float32)}, {"y": rng.integers(0, CLASSES, 64)}
    step({"x": arrays[0]["x"][:BATCH]}, {"y": arrays[1]["y"][:BATCH]})
    network = memory()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pictures.zip"
        begin = time.monotonic()
        make(path, asked.pictures)
        made, begin = time.monotonic() - begin, time.monotonic()
        split = load_dataset(path, "image_folder", METADATA, signature, Path(folder) / "work").split("train")
        read, loaded = time.monotonic() - begin, memory()
        seconds: dict[str, list[float]] = {"folder": [], "arrays": []}
        most = dict(loaded)
        for _ in range(asked.steps):
            rows = rng.choice(split.count, BATCH, replace=False)
            begin = time.monotonic()
            step(*split.batch(rows))
            middle = time.monotonic()
            few = rows % 64
            step({"x": arrays[0]["x"][few]}, {"y": arrays[1]["y"][few]})
            seconds["folder"].append(middle - begin)
            seconds["arrays"].append(time.monotonic() - middle)
            most = {name: max(value, most[name]) for name, value in memory().items()}
        begin = time.monotonic()
        for start in range(0, split.count, 256):
            split.batch(np.arange(start, min(start + 256, split.count)))  # a whole epoch of reading, without the network
            most = {name: max(value, most[name]) for name, value in memory().items()}
        epoch = time.monotonic() - begin
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    result = {
        "pictures": asked.pictures,
        "zip_made_seconds": round(made, 1),
        "decoded_seconds": round(read, 1),
        "epoch_of_batches_seconds": round(epoch, 1),
        "step_seconds": {name: round(value, 3) for name, value in medians.items()},
        "speed_ratio": round(medians["arrays"] / medians["folder"], 3),
        "own_megabytes_above_network": round(most["RssAnon"] - network["RssAnon"]),
        "mapped_megabytes_above_network": round(most["RssFile"] - network["RssFile"]),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
