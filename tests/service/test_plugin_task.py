"""A task with targets, a loss and a metric of its own, in a folder that an operator names: upload, job, report, and no other file changed."""

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from tests.engine.small import save
from tests.plain import Client

TASK = '''
"""Points in the plane: right is what is near enough."""

import numpy as np

from engine.contract.heads import Head
from engine.tasks import Task


class Pointing(Task):
    name = "pointing"
    metrics = ("hit_rate",)
    order = 5

    def read(self, outputs, column, declared):
        (output,) = outputs
        if output.shape != (2,):
            return f"{output.described} is no point in the plane"
        if column is not None and column.shape != (2,):
            return f"the {column.described} is no point in the plane"
        if column is None and declared is None:
            return "nothing shows that it is a point"
        target = None if column is None else column.name
        return Head(name=output.name, indices=(output.index,), task=self.name, target=target, reason="two numbers: a point")

    def prepare(self, head, targets, inputs):
        stored = super().prepare(head, targets, inputs)
        return None if stored is None else np.asarray(stored, dtype=np.float32)

    def loss(self, head, outputs, target, label_smoothing):
        return (outputs[0] - target).abs().sum(dim=1).mean()


TASK = Pointing()
'''
SPEC = '''
"""The toy's metric."""
from engine.contract.metric import Metric

METRICS = (Metric(name="hit_rate", title="Points that hit", goal="max", needs="targets", unit="share", precedence=1, counts_examples=True),)
'''
METRIC = '''
"""Share of the points within a half of their target."""
import numpy as np

from engine.metrics.accumulator import Mean


class Accumulator(Mean):
    """Counts hits."""

    def add(self, outputs, targets, reference):
        self.take(np.linalg.norm(outputs[0] - self.target(targets), axis=1) < 0.5)
'''
RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(size=(6, 2)).astype(np.float32)


PLUGIN = {
    "tasks/pointing.py": TASK,
    "metrics/pointing/__init__.py": "",
    "metrics/pointing/spec.py": SPEC,
    "metrics/pointing/hit_rate.py": METRIC,
}


def points(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    inputs = np.random.default_rng(seed).normal(size=(count, 6)).astype(np.float32)
    return inputs, inputs @ WEIGHT


@pytest.mark.slow
def test_a_toy_task_runs_from_upload_to_report(plugged: Client, tmp_path: Path) -> None:
    wrong = {"w": WEIGHT + 0.4 * RNG.normal(size=WEIGHT.shape).astype(np.float32), "b": np.zeros(2, np.float32)}
    save(tmp_path / "m.onnx", [helper.make_node("Gemm", ["x", "w", "b"], ["point"], "fc")], wrong, {"x": ["n", 6]}, {"point": ["n", 2]})
    splits = {"train": points(400, 1), "test": points(200, 2)}
    np.savez(tmp_path / "d.npz", **{f"{side}_{name}": pair[place] for name, pair in splits.items() for place, side in enumerate("xy")})
    model = plugged.upload("models", tmp_path / "m.onnx", "onnx")
    dataset = plugged.upload("datasets", tmp_path / "d.npz", "npz")
    job = plugged.json(
        "POST",
        "/v1/jobs",
        {
            "model": model["id"],
            "dataset": dataset["id"],
            "steps": [{"method": "train", "iterations": 150, "learning_rate": 0.02}],
            "constraints": {"accuracy": {"metric": "hit_rate", "min": 0.95}},
            "evaluation": {"latency": {"repeats": 5}},
        },
    )
    job = plugged.end(job["id"])
    assert job["status"] == "succeeded", job["error"]
    assert job["outcome"] == "constraints_met"
    report = plugged.json("GET", f"/v1/jobs/{job['id']}/report.json")
    assert [(output["task"], output["target"]) for output in report["outputs"]] == [("pointing", "y")]
    before, after = (report[side]["metrics"]["test.hit_rate"] for side in ("baseline", "result"))
    inputs, targets = splits["test"]
    assert before == (np.linalg.norm(inputs @ wrong["w"] - targets, axis=1) < 0.5).mean()
    assert after >= 0.95
    assert report["intervals"]["result"]["test.hit_rate"][0] < after
    assert "hit rate" in report["sentence"]
    page = plugged.send("GET", f"/v1/jobs/{job['id']}/report.html").read().decode()
    assert "Points that hit, test" in page
