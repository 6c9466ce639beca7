"""Parameters and MACs: by hand, and the same for a file, for its module and for its quantized form."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime.quantization as ort_quantization
import pytest
import torch
from torch import nn

from engine.contract.metadata import ModelMetadata
from engine.formats import load_network
from engine.formats.onnx.counting import Counts, count_graph, count_onnx
from engine.formats.onnx.networks import ModuleNetwork
from engine.networks import masks
from engine.networks.network import Signature, TensorSpec
from tests.engine.formats.onnx.exporting import export
from tests.engine.formats.onnx.graphs import BATCH, model, node, normal
from tests.engine.formats.onnx.networks import CASES


@pytest.mark.parametrize(
    ("operator", "shape", "constants", "params", "macs"),
    [
        (
            node("Conv", ["x", "w", "b"], ["y"], strides=[2, 2], pads=[1, 1, 1, 1]),
            (3, 8, 8),
            {"w": (4, 3, 3, 3), "b": (4,)},
            112,
            4 * 16 * 27,
        ),
        (node("Conv", ["x", "w"], ["y"], group=4), (4, 6, 6), {"w": (4, 1, 3, 3)}, 36, 4 * 16 * 9),
        (node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2]), (2, 4, 4), {"w": (2, 3, 2, 2)}, 24, 2 * 16 * 3 * 4),
        (node("Gemm", ["x", "w", "b"], ["y"], transB=1), (5,), {"w": (7, 5), "b": (7,)}, 42, 35),
        (node("MatMul", ["x", "w"], ["y"]), (6, 5), {"w": (5, 7)}, 35, 6 * 35),
        (node("MatMul", ["x", "x"], ["y"]), (4, 4), {}, 0, 64),
        (node("Einsum", ["x", "w"], ["y"], equation="bij,jk->bik"), (3, 4), {"w": (4, 5)}, 20, 60),
        (node("BatchNormalization", ["x", "s", "o", "m", "v"], ["y"]), (4, 3), {"s": (4,), "o": (4,), "m": (4,), "v": (4,)}, 8, 0),
        (node("Gather", ["t", "i"], ["y"]), (3,), {"t": (9, 4), "i": None}, 36, 0),
        (node("Relu", ["x"], ["y"]), (3,), {}, 0, 0),
    ],
)
def test_counts_by_hand(operator: onnx.NodeProto, shape: tuple, constants: dict, params: int, macs: int) -> None:
    arrays = {name: np.array([1, 2]) if size is None else np.abs(normal(*size)) + 1 for name, size in constants.items()}
    assert count_graph(model([operator], {"x": [BATCH, *shape]}, ["y"], arrays)) == Counts(params, params, macs)


def test_a_recurrent_layer_multiplies_once_a_step() -> None:
    arrays = {"w": normal(1, 20, 3), "r": normal(1, 20, 5), "b": normal(1, 40)}
    nodes = [node("Transpose", ["x"], ["t"], perm=[1, 0, 2]), node("LSTM", ["t", "w", "r", "b"], ["y"], hidden_size=5)]
    assert count_graph(model(nodes, {"x": [BATCH, 6, 3]}, ["y"], arrays)) == Counts(200, 200, 6 * 20 * (3 + 5))


def test_a_fixed_batch_is_divided_out() -> None:
    proto = model([node("MatMul", ["x", "w"], ["y"])], {"x": [4, 5]}, ["y"], {"w": normal(5, 7)})
    assert count_graph(proto).macs_count == 35


def test_open_dimensions_take_the_size_of_the_examples() -> None:
    proto = model([node("Conv", ["x", "w"], ["y"])], {"x": [BATCH, 1, "height", "width"]}, ["y"], {"w": normal(1, 1, 1, 1)})
    assert count_graph(proto, {"x": (1, 7, 9)}).macs_count == 63


def test_shared_weights_count_once_and_zeros_do_not_count_as_nonzero() -> None:
    weight = np.array([[1, 0, 2], [0, 0, 3], [4, 5, 0]], np.float32)
    proto = model([node("MatMul", ["x", "w"], ["h"]), node("MatMul", ["h", "w"], ["y"])], {"x": [BATCH, 3]}, ["y"], {"w": weight})
    assert count_graph(proto) == Counts(9, 5, 18)


@pytest.mark.parametrize("name", [name for name in CASES if name != "tied_lm"])
def test_a_file_and_its_module_count_the_same(name: str, tmp_path: Path) -> None:
    path = export(CASES[name].network(), CASES[name], tmp_path / "m.onnx", exporter="legacy")
    network = load_network(path, "onnx", ModelMetadata(), tmp_path)
    assert count_onnx(path) == network.with_module(network.module).count()


class Reader(ort_quantization.CalibrationDataReader):  # type: ignore[misc]  # it has no types
    def __init__(self, name: str) -> None:
        self._batches = iter([{"in0": CASES[name].inputs(2)[0].numpy()}])

    def get_next(self) -> dict | None:
        return next(self._batches, None)


@pytest.mark.parametrize("name", ["resnet", "mlp", "token_mlp"])
@pytest.mark.parametrize("how", ["static", "per-channel", "dynamic"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_quantization_changes_no_count(name: str, how: str, tmp_path: Path) -> None:
    """Scales and zero points are no parameters; a weight at its zero point is zero."""
    source, target = export(CASES[name].network(), CASES[name], tmp_path / "m.onnx", exporter="legacy"), tmp_path / "q.onnx"
    if how == "dynamic":
        ort_quantization.quantize_dynamic(source, target)
    else:
        ort_quantization.quantize_static(source, target, Reader(name), per_channel=how == "per-channel")
    before, after = count_onnx(source), count_onnx(target)
    assert (after.params_count, after.macs_count) == (before.params_count, before.macs_count)
    assert 0.9 * before.nonzero_params_count < after.nonzero_params_count <= before.params_count


def test_masks_and_parametrizations_are_folded_in() -> None:
    layer = nn.Linear(6, 5)
    keep = torch.zeros(5, 6, dtype=torch.bool)
    keep[:, :3] = True
    masks.hold(layer, {"weight": masks.Mask(keep)})
    signature = Signature((TensorSpec("x", (None, 6)),), (TensorSpec("y", (None, 5)),))
    assert ModuleNetwork(signature, layer).count() == Counts(35, 20, 30)
    assert masks.held(layer)


class Remembering(nn.Module):
    """A learned state and a learned token, spread over the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.state, self.token, self.vector = (nn.Parameter(torch.randn(*shape)) for shape in ((1, 1, 6), (1, 1, 4), (6,)))
        self.cell = nn.GRU(4, 6, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = torch.cat([self.token.expand(x.shape[0], 1, 4), x], 1)
        return self.cell(tokens, self.state.expand(1, x.shape[0], 6).contiguous())[0] @ self.vector


def test_a_parameter_that_is_spread_over_the_batch_and_a_product_with_a_vector() -> None:
    module = Remembering()
    signature = Signature((TensorSpec("x", (None, 5, 4)),), (TensorSpec("y", (None, 6)),))
    params = 6 + 4 + 6 + 18 * (4 + 6 + 2)
    assert ModuleNetwork(signature, module).count() == Counts(params, params, 6 * (18 * (4 + 6) + 6))
    assert all(parameter.requires_grad for parameter in module.parameters())
