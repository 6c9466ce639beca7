"""A step on the graph takes each width of a slimmable network by itself, and all of them stay one file."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from engine.contract.errors import EngineError
from engine.jobs.each_setting import apply_step
from engine.methods.quantization.spec import DynamicQuantization
from engine.methods.slimming.slimmable import apply
from engine.methods.slimming.spec import Slimmable
from modelpress.runtime.subnets import SettingsFile
from tests.engine.conftest import make_split, mlp


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
