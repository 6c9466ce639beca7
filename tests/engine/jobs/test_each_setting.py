"""A step on the graph takes each width of a slimmable network by itself, and all of them stay one file."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from engine.contract.errors import EngineError
from engine.contract.metadata import ModelMetadata
from engine.jobs.each_setting import apply_step
from engine.jobs.inspection import inspect_model
from engine.jobs.run import run_job
from engine.methods.quantization.spec import DynamicQuantization
from engine.methods.slimming.slimmable import apply
from engine.methods.slimming.spec import Slimmable
from modelpress.runtime.subnets import SettingsFile
from tests.engine.conftest import make_split, mlp
from tests.engine.small import write_job


def test_each_width_is_quantized_and_comes_back_out_of_one_file(world, tmp_path: Path) -> None:
    here = world(mlp())
    slim = apply(here.network, Slimmable(widths=(0.5, 1.0), iterations=2), here.context)
    context = here.context.for_step(1, (0.0, 1.0), slim)
    made = apply_step(DynamicQuantization(), slim, context)
    assert (made.settings, made.one_file) == (slim.settings, True)
    assert context.reported["settings"].keys() == {"width 1", "width 0.5"}
    made.write_onnx(tmp_path / "all.onnx")
    packed = SettingsFile((tmp_path / "all.onnx").read_bytes())
    images = make_split(20, 3).images
    for setting in made.settings:
        cut = b"".join(packed.cut(packed.setting(setting.name)))
        made.at(setting).write_onnx(tmp_path / "one.onnx")
        slim.at(setting).write_onnx(tmp_path / "float.onnx")
        answers = [ort.InferenceSession(form).run(None, {"x": images})[0] for form in (cut, tmp_path / "one.onnx", tmp_path / "float.onnx")]
        assert np.array_equal(answers[0], answers[1])
        assert 0 < np.abs(answers[0] - answers[2]).max() < 0.1 * np.abs(answers[2]).max()
        assert "MatMulInteger" in {node.op_type for node in onnx.load_from_string(cut).graph.node}
    with pytest.raises(EngineError, match=r"width 1, width 0\.5"):
        made.module  # noqa: B018 - raises


def test_an_uploaded_file_of_several_widths_is_read_as_the_widest_and_says_so(world, tmp_path: Path) -> None:
    here = world(mlp())
    apply(here.network, Slimmable(widths=(0.5, 1.0), iterations=2), here.context).write_onnx(tmp_path / "all.onnx")
    found = inspect_model(tmp_path / "all.onnx", "onnx", ModelMetadata(), tmp_path)
    assert found.settings == ("width 1", "width 0.5")
    assert found.params_count == here.network.count().params_count
    write_job(tmp_path / "job", spec={"steps": [{"method": "dynamic_quantization"}]}, model=tmp_path / "all.onnx")
    assert run_job(tmp_path / "job", lambda event: None) == 0
    report = json.loads((tmp_path / "job" / "out" / "report.json").read_text())
    (warning,) = (item for item in report["warnings"] if item["code"] == "settings_left_out")
    assert warning["details"]["settings"] == ["width 1", "width 0.5"]
    here.network.write_onnx(tmp_path / "one.onnx")
    assert "settings" not in inspect_model(tmp_path / "one.onnx", "onnx", ModelMetadata(), tmp_path).model_dump()
