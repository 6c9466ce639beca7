"""Pruning, distillation and int8 on a network with two heads: each keeps its own metric within two points."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.formats.onnx.export import export_onnx
from engine.jobs.run import run_job
from engine.networks.network import Signature, TensorSpec
from tests.engine.small import write_job

TRAIN, TEST = 1200, 400


class TwoHeads(nn.Module):
    """A class and a value from one trunk."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(6, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU())
        self.kind, self.size = nn.Linear(48, 3), nn.Linear(48, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.trunk(x)
        return self.kind(features), self.size(features)


def test_both_heads_keep_what_they_do(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((TRAIN + TEST, 6)).astype(np.float32)
    mixed = np.tanh(x @ rng.standard_normal((6, 4)))
    kind, size = mixed[:, :3].argmax(1), (2 * mixed[:, 3:] + mixed[:, :1]).astype(np.float32)
    torch.manual_seed(0)
    module = TwoHeads()
    optimizer = torch.optim.Adam(module.parameters(), 5e-3)
    inputs, kinds, sizes = torch.from_numpy(x[:TRAIN]), torch.from_numpy(kind[:TRAIN]), torch.from_numpy(size[:TRAIN])
    for _ in range(300):
        optimizer.zero_grad()
        scores, values = module(inputs)
        (functional.cross_entropy(scores, kinds) + functional.mse_loss(values, sizes)).backward()
        optimizer.step()
    outputs = (TensorSpec("kind", (None, 3)), TensorSpec("size", (None, 1)))
    export_onnx(module.eval(), Signature((TensorSpec("x", (None, 6)),), outputs), tmp_path / "net.onnx")
    parts = {"train": slice(0, TRAIN), "test": slice(TRAIN, None)}
    targets = {f"y_{split}.{name}": value[part] for split, part in parts.items() for name, value in (("kind", kind), ("size", size))}
    np.savez(tmp_path / "data.npz", **{f"x_{split}": x[part] for split, part in parts.items()}, **targets)  # type: ignore[arg-type]
    spec: dict[str, Any] = {
        "steps": [
            {"method": "structured_pruning", "pruning_ratio": 0.3},
            {"method": "distillation", "epochs": 20, "learning_rate": 0.003, "alpha": 0.5},
            {"method": "int8_quantization"},
        ],
        "evaluation": {"metrics": ["top1", "r2"], "latency": {"repeats": 5}},
    }
    seen: list[Any] = []
    job = write_job(tmp_path / "job", spec, model=tmp_path / "net.onnx", dataset=tmp_path / "data.npz")
    assert run_job(job, seen.append) == 0, seen[-1]
    report = json.loads((tmp_path / "job/out/report.json").read_text())
    before, after = report["baseline"]["metrics"], report["result"]["metrics"]
    assert before["test.top1"] > 0.9
    assert before["test.r2"] > 0.9
    assert after["test.top1"] > before["test.top1"] - 0.02
    assert after["test.r2"] > before["test.r2"] - 0.02
    assert report["result"]["params_count"] < 0.8 * report["baseline"]["params_count"]
