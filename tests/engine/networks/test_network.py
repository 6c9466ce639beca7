"""The two kinds of network behind one interface: settings, folding, graphs with a module beside them."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from engine.contract.errors import EngineError
from engine.contract.figures import Setting
from engine.formats.onnx.networks import GraphNetwork, ModuleNetwork, array_of
from engine.networks import masks
from engine.networks.network import Counts, Network, Signature, TensorSpec

SIGNATURE = Signature((TensorSpec("x", (None, 6)),), (TensorSpec("y", (None, 5)),))


class Slim(nn.Module):
    """A hidden layer of which the first neurons are used."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.width = nn.Linear(6, 8), nn.Linear(8, 5), 8

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(nn.functional.linear(x, self.first.weight[: self.width], self.first.bias[: self.width]))
        return nn.functional.linear(hidden, self.last.weight[:, : self.width], self.last.bias)


def at_width(module: nn.Module, setting: Setting) -> nn.Module:
    chosen = copy.deepcopy(module)
    chosen.width = int(float(setting.values["width"]) * 8)  # type: ignore[assignment]
    return chosen


def slim() -> Network:
    settings = tuple(Setting(name=f"width {width}", values={"width": width}) for width in (1.0, 0.5))
    return ModuleNetwork(SIGNATURE, nn.Linear(6, 5)).with_module(Slim().eval(), settings=settings, select=at_width)


def kind(network: Network) -> str:
    return network.measure(on_file=lambda path: path.name, on_module=lambda module: type(module).__name__)


def test_a_setting_is_a_network_of_its_own() -> None:
    network = slim()
    whole, half = (network.at(setting) for setting in network.settings)
    assert (len(whole.settings), half.settings) == (1, (network.settings[1],))
    inputs = torch.randn(3, 6)
    assert not torch.allclose(whole.module(inputs), half.module(inputs))
    assert (whole.count().macs_count, half.count().macs_count) == (6 * 8 + 8 * 5, 6 * 4 + 4 * 5)
    assert network.plain().at(network.settings[1]).plain() is not half, "folded before it was chosen"


def test_what_is_written_of_a_setting_computes_what_it_computes(tmp_path: Path) -> None:
    import onnxruntime

    half = slim().at(slim().settings[1])
    half.write_onnx(tmp_path / "half.onnx")
    inputs = torch.randn(3, 6)
    session = onnxruntime.InferenceSession(tmp_path / "half.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"x": inputs.numpy()})[0], half.module(inputs).detach().numpy(), atol=1e-5)


def test_a_plain_network_is_folded_once_and_leaves_the_masked_one_alone() -> None:
    layer = nn.Linear(6, 5)
    keep = torch.arange(30).reshape(5, 6) % 2 == 0
    masks.hold(layer, {"weight": masks.Mask(keep)})
    network = ModuleNetwork(SIGNATURE, layer)
    plain = network.plain()
    assert plain.plain() is plain
    assert network.count() == plain.count() == Counts(35, 15 + 5, 30)
    assert list(dict(network.tensors())) == ["weight", "bias"]
    assert masks.held(layer)


def test_a_graph_may_keep_a_trainable_module_beside_it(tmp_path: Path) -> None:
    module = nn.Linear(6, 5)
    network = ModuleNetwork(SIGNATURE, module)
    path = network.file(tmp_path / "linear.onnx")
    both = network.with_onnx(path, module=module)
    assert (kind(both), both.module, both.file(tmp_path / "other.onnx")) == ("linear.onnx", module, path)
    assert both.count() == network.count()
    with pytest.raises(EngineError, match="no trainable weights"):
        _ = network.with_onnx(path).module
    assert kind(both.with_module(module)) == "Linear", "the graph of the old weights is void"


def test_a_graph_copies_itself_and_names_its_constants(tmp_path: Path) -> None:
    network = GraphNetwork(SIGNATURE, ModuleNetwork(SIGNATURE, nn.Linear(6, 5)).file(tmp_path / "a.onnx"))
    network.write_onnx(tmp_path / "b.onnx")
    assert (tmp_path / "b.onnx").read_bytes() == (tmp_path / "a.onnx").read_bytes()
    assert {array.shape for _, array in network.tensors()} == {(5, 6), (5,)}


def test_several_settings_do_not_become_one_graph_silently(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"width 1\.0, width 0\.5"):
        slim().with_onnx(tmp_path / "one.onnx")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.int8, torch.bool])
def test_values_of_every_type_are_kept_bit_for_bit(dtype: torch.dtype) -> None:
    tensor = torch.tensor([0.0, 1.0, 2.5, 7.0]).to(dtype)
    array = array_of(tensor)
    assert array.dtype.itemsize == tensor.element_size()
    assert array.tobytes() == tensor.view(torch.uint8).numpy().tobytes()
