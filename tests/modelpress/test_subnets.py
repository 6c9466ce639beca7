"""A file with several settings gives each of them back bit for bit, runs with nothing else installed, and damage is told."""

import base64
import json
import zlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engine.contract.figures import Setting
from engine.formats.onnx.networks import GraphNetwork
from engine.formats.onnx.one_file import pack
from engine.networks.network import Signature, TensorSpec
from modelpress.runtime import ArtifactError, load
from modelpress.runtime.subnets import SETTINGS_KEY, TENSORS_KEY, SettingsFile, open_settings
from tests.modelpress.alone import run_alone

RNG = np.random.default_rng(0)
WIDE = {"w": RNG.standard_normal((8, 6)).astype(np.float32), "b": RNG.standard_normal(8).astype(np.float32)}
PLACES = (0, 1, 5, 7)


def model(tensors, *, half=False, more=0):
    nodes = [helper.make_node("Relu", [f"x_{n}" if n else "x"], [f"x_{n + 1}"], name=f"Relu number {n}") for n in range(more)]
    nodes.append(helper.make_node("Gemm", [f"x_{more}" if more else "x", "w", "b"], ["y"], transB=1))
    size = tensors["w"].shape[0]
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    ends = [helper.make_tensor_value_info(name, kind, ["n", width]) for name, width in (("x", 6), ("y", size))]
    made = [numpy_helper.from_array(value.astype(np.float16) if half else value, name) for name, value in tensors.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], made)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def narrow():
    """Rows of the weight, and a bias of its own."""
    return {"w": WIDE["w"][list(PLACES)], "b": np.arange(4, dtype=np.float32)}


def packed_model(**changes):
    settings = [
        (Setting(name="width 1", values={"width": 1.0}), model(WIDE)),
        (Setting(name="width 0.5", values={"width": 0.5}), model(narrow())),
    ]
    return pack(settings, changes.get("kept", {PLACES}))


def cut(content, **values):
    packed = SettingsFile(content)
    return onnx.load_from_string(b"".join(packed.cut(packed.setting(**values))))


@pytest.mark.parametrize("kept", [{PLACES}, set(), {(0, 1, 2, 3), PLACES}])
def test_each_setting_comes_back_whatever_the_packer_was_told(kept):
    content = packed_model(kept=kept).SerializeToString()
    assert cut(content, width=1.0) == model(WIDE)
    assert cut(content, width=0.5) == model(narrow())
    own = base64.b64decode(next(p.value for p in onnx.load_from_string(content).metadata_props if p.key == TENSORS_KEY))
    assert (len(own) > WIDE["w"].nbytes // 2) == (PLACES not in kept), "what is a part of the wide weight is stored once"


def test_three_settings_beside_the_widest_cost_little_more_than_their_values():
    """Graphs of the same layers are stored once, names and shapes are compressed."""
    wide = {"w": RNG.standard_normal((64, 6)).astype(np.float32), "b": RNG.standard_normal(64).astype(np.float32)}
    models = [(Setting(name="width 1"), model(wide, more=40))]
    for size in (48, 32, 16):
        own = {"w": wide["w"][:size], "b": RNG.standard_normal(size).astype(np.float32)}
        models.append((Setting(name=f"width {size}"), model(own, more=40)))
    plain = [item.SerializeToString() for _, item in models]
    made = pack(models, {tuple(range(size)) for size in (48, 32, 16)}).SerializeToString()
    assert [cut(made, name=setting.name) for setting, _ in models] == [item for _, item in models]
    values, graph = 4 * (48 + 32 + 16), len(plain[0]) - 4 * 64 * 7
    assert len(made) - len(plain[0]) < values * 4 / 3 + graph, "the three together have less than one graph"


def test_other_types_and_other_metadata_are_kept():
    one = model(WIDE, half=True)
    helper.set_model_props(one, {"author": "someone"})
    content = pack([(Setting(name="a"), one), (Setting(name="b"), model(narrow(), half=True))], {PLACES}).SerializeToString()
    assert cut(content, name="a") == one
    assert cut(content, name="b") == model(narrow(), half=True)


def test_it_runs_at_each_setting_with_numpy_and_onnxruntime_alone(tmp_path: Path):
    onnx.save(packed_model(), tmp_path / "model.onnx")
    code = f"""
import numpy, modelpress.runtime
x = numpy.ones((2, 6), dtype=numpy.float32)
for options in ({{}}, {{"width": 0.5}}, {{"setting": "width 0.5"}}):
    network = modelpress.runtime.load({str(tmp_path / "model.onnx")!r}, **options)
    print(network.setting, network.run({{"x": x}})["y"].shape)
"""
    assert run_alone(code, tmp_path).splitlines() == ["width 1 (2, 8)", "width 0.5 (2, 4)", "width 0.5 (2, 4)"]


def test_what_is_not_there_and_what_is_damaged_is_told(tmp_path: Path):
    made = packed_model()
    onnx.save(model(WIDE), tmp_path / "plain.onnx")
    with pytest.raises(ArtifactError, match="one setting only"):
        open_settings(tmp_path / "plain.onnx")
    onnx.save(made, tmp_path / "model.onnx")
    with pytest.raises(ArtifactError, match=r"no setting width 0\.3; it has width 1, width 0\.5"):
        load(tmp_path / "model.onnx", width=0.3)
    with pytest.raises(ArtifactError, match="ends in the middle"):
        SettingsFile(made.SerializeToString()[:-5])
    text, _, graphs = zlib.decompress(base64.b64decode(next(p.value for p in made.metadata_props if p.key == SETTINGS_KEY))).partition(
        b"\0"
    )
    document = json.loads(text)
    half = document["settings"][1]
    for change, match in (
        ({"version": 9}, "another version"), ({"places": [[[0, 10**12]]]}, "damaged"),
        ({"settings": [*document["settings"], {**half, "name": "many", "tensors": [["w", "w", {}]] * 99}]}, "larger than the file"),
        ({"settings": [{**half, "tensors": [["b", 8, [4], 1]]}]}, "cut off"), ({"settings": [{**half, "tensors": [["b", 0, [-2, -2], 1]]}]}, "shape"),
        ({"settings": [{**half, "graph_bytes": 9**9}]}, "damaged"), ({"places": [[[0, 99]]]}, "outside of the tensor"), ({"settings": None}, "damaged"),
    ):  # fmt: skip
        helper.set_model_props(
            made,
            {
                SETTINGS_KEY: base64.b64encode(zlib.compress(json.dumps(document | change).encode() + b"\0" + 2 * graphs)).decode(),
                TENSORS_KEY: next(p.value for p in made.metadata_props if p.key == TENSORS_KEY),
            },
        )
        with pytest.raises(ArtifactError, match=match):
            cut(made.SerializeToString(), **({"name": "many"} if "larger" in match else {"width": 0.5}))


def test_a_graph_that_was_changed_has_no_settings_of_the_one_before(tmp_path: Path):
    """What quantization, say, writes of an uploaded file keeps everything that stands on the model, but its other settings are not its own."""
    onnx.save(packed_model(), tmp_path / "uploaded.onnx")
    signature = Signature((TensorSpec("x", (None, 6)),), (TensorSpec("y", (None, 8)),))
    network = GraphNetwork(signature, tmp_path / "uploaded.onnx")
    onnx.save(packed_model(), tmp_path / "changed.onnx")
    made = network.with_onnx(tmp_path / "changed.onnx")
    made.write_onnx(tmp_path / "published.onnx")
    assert onnx.load(tmp_path / "published.onnx") == model(WIDE)
