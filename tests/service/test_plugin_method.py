"""A method with two settings, in a folder that an operator names: upload, job, report, and no other file changed."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from onnx import helper

from tests.engine.small import save
from tests.plain import Client

PLUGIN = {
    "methods/toys/__init__.py": "",
    "methods/toys/spec.py": '''
"""The toy's parameters."""
from typing import ClassVar, Literal

from pydantic import Field

from engine.contract.method import MethodParams, Requires


class TwoWidths(MethodParams):
    """One network that runs with all of its hidden units or with the first of them."""

    title: ClassVar[str] = "Two widths"
    requires: ClassVar[Requires] = Requires(trainable=True)
    examples: ClassVar = ({"method": "two_widths", "narrow": 0.5},)

    method: Literal["two_widths"] = "two_widths"
    narrow: float = Field(0.5, gt=0, lt=1)
    """Share of the hidden units that the narrow setting has."""
''',
    "methods/toys/two_widths.py": '''
"""Hidden units that may be left out."""
from torch import nn

from engine.contract.display import Bar, Bars, Column, Curve, Line, Note, Table
from engine.contract.figures import Setting


def apply(network, params, context):
    """The same weights, in two widths."""
    first, second = (layer for layer in network.module.modules() if isinstance(layer, nn.Linear))
    whole = nn.Sequential(first, nn.ReLU(), second)
    settings = tuple(Setting(name=f"width {width:g}", values={"width": width}) for width in (1.0, params.narrow))

    def select(module, setting):
        first, _, second = module
        units = round(setting.values["width"] * first.out_features)
        left, right = nn.Linear(first.in_features, units), nn.Linear(units, second.out_features)
        left.weight.data, left.bias.data = first.weight.data[:units].clone(), first.bias.data[:units].clone()
        right.weight.data, right.bias.data = second.weight.data[:, :units].clone(), second.bias.data.clone()
        return nn.Sequential(left, nn.ReLU(), right).eval()

    units = [setting.values["width"] * first.out_features for setting in settings]
    context.show(Table(title="Widths", columns=(Column(title="setting"), Column(title="units", unit="count")),
                       rows=tuple((setting.name, count) for setting, count in zip(settings, units))))
    context.show(Curve(title="Units", x=Column(title="width", unit="share"), y=Column(title="units"),
                       lines=(Line(name="hidden", points=tuple((s.values["width"], u) for s, u in zip(settings, units))),)))
    context.show(Bars(title="Share", unit="share", bars=tuple(Bar(name=s.name, values=(s.values["width"],)) for s in settings)))
    context.show(Note(text="Both settings share <one> set of weights."))
    context.report("units", units)
    return network.with_module(whole, settings=settings, select=select)
''',
}
UNITS, CLASSES = 16, 3
RNG = np.random.default_rng(0)
WEIGHTS = {
    "w0": RNG.standard_normal((UNITS, 8)).astype(np.float32),
    "b0": RNG.standard_normal(UNITS).astype(np.float32),
    "w1": RNG.standard_normal((CLASSES, UNITS)).astype(np.float32),
    "b1": RNG.standard_normal(CLASSES).astype(np.float32),
}


def outputs(inputs: np.ndarray, units: int) -> np.ndarray:
    """What the network gives with so many of its hidden units."""
    hidden = np.maximum(inputs @ WEIGHTS["w0"][:units].T + WEIGHTS["b0"][:units], 0)
    found: np.ndarray = hidden @ WEIGHTS["w1"][:, :units].T + WEIGHTS["b1"]
    return found


def macs(units: int) -> int:
    return 8 * units + units * CLASSES


@pytest.mark.slow
def test_a_toy_method_with_two_settings_runs_from_upload_to_report(plugged: Client, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gemm", ["x", "w0", "b0"], ["h"], "first", transB=1),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("Gemm", ["r", "w1", "b1"], ["y"], "second", transB=1),
    ]
    save(tmp_path / "m.onnx", nodes, WEIGHTS, {"x": ["n", 8]}, {"y": ["n", CLASSES]})
    inputs = np.random.default_rng(1).standard_normal((200, 8)).astype(np.float32)
    labels = outputs(inputs, UNITS).argmax(axis=1)
    np.savez(tmp_path / "d.npz", x_test=inputs, y_test=labels)
    _check(plugged, tmp_path, inputs, labels)


def _check(client: Client, folder: Path, inputs: np.ndarray, labels: np.ndarray) -> None:
    assert client.json("GET", "/v1/methods/two_widths")["family"] == "toys"
    model = client.upload("models", folder / "m.onnx", "onnx")
    dataset = client.upload("datasets", folder / "d.npz", "npz")
    spec = {
        "model": model["id"],
        "dataset": dataset["id"],
        "steps": [{"method": "two_widths"}],
        "constraints": {"max_macs_count": macs(UNITS) - 1},
        "evaluation": {"latency": {"repeats": 5}},
        "export": ["onnx", "safetensors"],
    }
    job = client.end(client.json("POST", "/v1/jobs", spec)["id"])
    assert job["status"] == "succeeded", job["error"]

    # Every setting is measured on its own file; the first is the result, and the outcome rests on the best.
    wide, narrow = job["summary"]["settings"]
    assert [item["setting"] for item in (wide, narrow)] == [
        {"name": "width 1", "values": {"width": 1.0}},
        {"name": "width 0.5", "values": {"width": 0.5}},
    ]
    assert job["summary"]["result"] == wide["figures"]
    assert [item["figures"]["macs_count"] for item in (wide, narrow)] == [macs(UNITS), macs(UNITS // 2)]
    assert wide["figures"]["metrics"]["test.top1"] == 1
    expected = outputs(inputs, UNITS // 2)
    assert narrow["figures"]["metrics"]["test.top1"] == pytest.approx((expected.argmax(axis=1) == labels).mean())
    assert narrow["comparison"]["macs_ratio"] == 2
    outcomes = [item["verdict"]["outcome"] for item in (wide, narrow)]
    assert outcomes == ["constraints_not_met", "constraints_met"]
    assert (job["outcome"], job["summary"]["judged_setting"]) == ("constraints_met", "width 0.5")

    # Each file shows the figures of its own setting, and computes with so many units.
    files = {file["filename"]: file for file in client.json("GET", f"/v1/jobs/{job['id']}/artifacts")["data"]}
    assert {"model.onnx", "model-width-0.5.onnx", "model.safetensors", "report.json"} == set(files)
    assert [files[name]["settings"] for name in ("model.onnx", "model-width-0.5.onnx", "model.safetensors")] == [[wide], [narrow], []]
    small = files["model-width-0.5.onnx"]
    assert narrow["figures"]["file_bytes"] == small["size_bytes"] < wide["figures"]["file_bytes"] == files["model.onnx"]["size_bytes"]
    client.download(f"/v1/artifacts/{small['id']}/content", folder / "narrow.onnx")
    (found,) = ort.InferenceSession(folder / "narrow.onnx").run(None, {"x": inputs})
    np.testing.assert_allclose(found, expected, atol=1e-4)

    # The pages draw what the method shows and one row a setting, and know neither.
    report = client.json("GET", f"/v1/jobs/{job['id']}/report.json")
    assert report["settings"] == job["summary"]["settings"]
    assert report["steps"][0]["report"]["units"] == [16, 8]
    page = client.send("GET", f"/v1/jobs/{job['id']}/report.html").read().decode()
    text = client.send("GET", f"/v1/jobs/{job['id']}/report.md").read().decode()
    for readable in (page, text):
        assert "width 0.5 (width 0.5)" in readable
        assert "Both settings share &lt;one&gt; set of weights." in readable
        assert "Widths: step 1" in readable
        assert "Quality against operations" in readable
        assert "Quality against latency" in readable
    assert "<polyline" in page
    assert "<rect" in page
