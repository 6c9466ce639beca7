"""Every figure that a whole job's report states of the two files, counted again from the files themselves."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from tests.engine.formats.onnx.exporting import export
from tests.engine.formats.onnx.networks import CASES
from tests.engine.formats.onnx.test_counting_hidden import conditional
from tests.engine.jobs.recount import Recount
from tests.engine.jobs.test_run import Ran
from tests.engine.small import write_job

PRUNED = {"method": "structured_pruning", "pruning_ratio": 0.5}
SPARSE = {"method": "magnitude_pruning", "sparsity": 0.7}
STATIC = {"method": "static_quantization", "calibration": {"samples": 16}}
DYNAMIC = {"method": "dynamic_quantization"}
JOBS: dict[str, tuple[str, tuple[dict[str, Any], ...]]] = {
    "pruned": ("resnet", (PRUNED,)),
    "sparse": ("densenet", (SPARSE,)),
    "static": ("mobilenet", (STATIC,)),
    "pruned and static": ("simple_cnn", (PRUNED, STATIC)),
    "dynamic, attention": ("vit", (DYNAMIC,)),
    "dynamic, recurrent": ("lstm", (DYNAMIC,)),
    "dynamic, branches": ("branches", (DYNAMIC,)),
}


def network(name: str, folder: Path) -> tuple[Path, tuple[int, ...]]:
    """A file, and the shape of its examples."""
    if name == "branches":
        onnx.save(conditional((24, 24), np.array(True)), folder / "model.onnx")
        return folder / "model.onnx", (4,)
    case = CASES[name]
    module = case.network()
    generator = torch.Generator().manual_seed(4)
    for layer in module.modules():
        if isinstance(layer, nn.LayerNorm | nn.BatchNorm2d):  # fresh ones are all equal, and exporters store them once
            nn.init.normal_(layer.weight, 1, 0.1, generator)
            nn.init.normal_(layer.bias, 0, 0.1, generator)
    path = export(module, case, folder / "model.onnx", exporter="legacy", keep_norms=name in ("resnet", "simple_cnn"))
    return path, tuple(case.inputs(1)[0].shape[1:])


@pytest.mark.parametrize("title", sorted(JOBS))
def test_the_report_states_what_is_in_the_files(title: str, tmp_path: Path) -> None:
    name, steps = JOBS[title]
    path, shape = network(name, tmp_path)
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "data.npz", **{f"x_{split}": rng.normal(size=(16, *shape)).astype(np.float32) for split in ("train", "test")})
    spec = {"steps": list(steps), "evaluation": {"latency": {"repeats": 5}}}
    job = Ran(write_job(tmp_path / "job", spec, model=path, dataset=tmp_path / "data.npz"))
    assert job.status == 0, job.last
    report = json.loads((job.directory / "out" / "report.json").read_text())
    feed = {onnx.load(path).graph.input[0].name: rng.normal(size=(1, *shape)).astype(np.float32)}
    for side, file in (("baseline", path), ("result", job.directory / "out" / "model.onnx")):
        counted = Recount.of(file, feed)
        stated = report[side]
        for figure in ("params_count", "nonzero_params_count", "file_bytes"):
            assert stated[figure] == getattr(counted, figure), (side, figure)
        assert stated["gzip_bytes"] == pytest.approx(counted.gzip_bytes, abs=64)  # the header holds a time or a name
        if name != "branches":  # what runs inside of a branch is not seen from outside
            assert stated["macs_count"] == counted.macs_count
    announced = {item["filename"]: item for item in report["artifacts"]}
    assert announced["model.onnx"]["size_bytes"] == report["result"]["file_bytes"]
    for row in report["layers"]:
        for side in ("before", "after"):
            if row[side] is not None:
                assert row[side]["params_count"] == np.prod(row[side]["shape"], dtype=int)
    for side in ("before", "after"):
        shares = [row[f"latency_share_{side}"] for row in report["layers"] if row[f"latency_share_{side}"] is not None]
        assert all(0 < share <= 1 for share in shares)
        assert sum(shares) <= 1 + 1e-9
        assert bool(shares) == (name != "branches"), report["layers_not_profiled"]
    if name != "branches":
        assert sum(row["after"]["params_count"] for row in report["layers"] if row["after"]) <= report["result"]["params_count"]
