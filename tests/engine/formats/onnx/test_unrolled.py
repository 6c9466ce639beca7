"""What becomes of a network whose loop was unrolled: trained, pruned, written, counted, read again."""

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from engine.contract.errors import EngineError
from engine.contract.metadata import InputSpec, ModelMetadata
from engine.formats import load_network
from engine.formats.onnx.counting import count_onnx
from engine.jobs.inspection import inspect_model
from engine.networks.network import Network
from engine.structure.graph import ChannelGraph
from engine.structure.proof import removable
from tests.engine.formats.onnx.graphs import assert_same, normal, run_imported, run_reference
from tests.engine.formats.onnx.recurrences import NETWORKS, STEPS, gru
from tests.engine.structure.masking import mask_as_cut


def loaded(proto: onnx.ModelProto, folder: Path) -> Network:
    onnx.save(proto, folder / "in.onnx")
    return load_network(folder / "in.onnx", "onnx", ModelMetadata(), folder)


def example(proto: onnx.ModelProto, count: int) -> np.ndarray:
    return normal(count, *(dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim[1:]))


def stored(proto: onnx.ModelProto) -> int:
    """Bytes of weights."""
    return sum(numpy_helper.to_array(item).nbytes for item in proto.graph.initializer if item.data_type == onnx.TensorProto.FLOAT)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_file_of_it_computes_the_same_with_each_weight_stored_once(name: str, tmp_path: Path) -> None:
    proto = NETWORKS[name]()
    x = example(proto, 5)
    assert_same(proto, {"x": x})
    network = loaded(proto, tmp_path)
    network.with_module(network.module).write_onnx(tmp_path / "out.onnx")
    written = onnx.load(tmp_path / "out.onnx")
    onnx.checker.check_model(written, full_check=True)
    assert [(item.name, item.type.tensor_type.elem_type) for item in (*written.graph.input, *written.graph.output)] == [("x", 1), ("y", 1)]
    np.testing.assert_allclose(run_reference(written, {"x": x})[0], run_reference(proto, {"x": x})[0], atol=1e-5)
    assert stored(written) <= stored(proto) + 64
    counts, module = count_onnx(tmp_path / "out.onnx"), network.with_module(network.module).count()
    assert counts == module
    assert counts.params_count == count_onnx(tmp_path / "in.onnx").params_count
    again = load_network(tmp_path / "out.onnx", "onnx", ModelMetadata(), tmp_path).module
    np.testing.assert_allclose(run_imported(again, {"x": x})[0], run_reference(proto, {"x": x})[0], atol=1e-5)  # type: ignore[arg-type]
    assert sum(item.numel() for item in again.parameters()) == sum(item.numel() for item in network.module.parameters())


def test_a_multiplication_counts_each_time(tmp_path: Path) -> None:
    network = loaded(gru(), tmp_path)
    assert network.with_module(network.module).count().macs_count == STEPS * (4 * 12 + (12 + 16) * 48) + 16 * 3
    layers = {item.name: item.macs_count for item in inspect_model(tmp_path / "in.onnx", "onnx", ModelMetadata(), tmp_path).layers}
    assert layers["kernel"] == STEPS * 12 * 48


@pytest.mark.parametrize("name", NETWORKS)
def test_the_loop_of_the_file_has_the_multiplications_of_the_unrolled_network(name: str, tmp_path: Path) -> None:
    """Shape inference says nothing of a state's shape, so that the file is run once."""
    network = loaded(NETWORKS[name](), tmp_path)
    want = network.with_module(network.module).count().macs_count
    assert want
    assert count_onnx(tmp_path / "in.onnx").macs_count == want
    assert inspect_model(tmp_path / "in.onnx", "onnx", ModelMetadata(), tmp_path).macs_count == want


def test_counting_leaves_the_names_of_a_graph_alone(tmp_path: Path) -> None:
    proto = gru()
    proto.graph.node.extend([onnx.helper.make_node("NonZero", ["y"], ["where"], "untrainable")])
    proto.graph.output.extend([onnx.helper.make_tensor_value_info("where", onnx.TensorProto.INT64, None)])
    onnx.save(proto, tmp_path / "in.onnx")
    found = inspect_model(tmp_path / "in.onnx", "onnx", ModelMetadata(), tmp_path)
    assert not found.trainable
    macs = {layer.name: layer.macs_count for layer in found.layers}
    assert macs["node_last"] == STEPS * (12 + 16) * 48


def test_a_loop_of_very_many_times_is_not_run_to_be_counted(tmp_path: Path) -> None:
    proto = gru()
    count = next(item for item in proto.graph.initializer if item.name == "count")
    count.CopyFrom(numpy_helper.from_array(np.array(2**40), "count"))
    onnx.save(proto, tmp_path / "endless.onnx")
    assert count_onnx(tmp_path / "endless.onnx").macs_count is None


@pytest.mark.parametrize("name", NETWORKS)
def test_training_lowers_the_loss_by_the_gradients_of_all_times(name: str, tmp_path: Path) -> None:
    proto = NETWORKS[name]()
    module, x = loaded(proto, tmp_path).module.train(), torch.from_numpy(example(proto, 32))
    target = x.flatten(1)[:, :3].argmax(1)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    losses = []
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(module(x), target)
        optimizer.zero_grad()
        loss.backward()
        assert all(item.grad is not None and item.grad.abs().sum() > 0 for item in module.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_the_gradient_of_a_shared_weight_is_the_sum_over_all_times(tmp_path: Path) -> None:
    """Beside a difference of the original in ONNX Runtime."""
    proto = gru()
    x = example(proto, 3)
    module = loaded(proto, tmp_path).module
    module(torch.from_numpy(x)).sum().backward()
    weight = next(item for item in proto.graph.initializer if item.name == "recurrent_kernel")
    values = numpy_helper.to_array(weight).copy()
    found = []
    for step in (1e-2, -1e-2):
        moved = values.copy()
        moved[3, 5] += step
        weight.CopyFrom(numpy_helper.from_array(moved, weight.name))
        found.append(float(run_reference(proto, {"x": x})[0].sum()))
    gradient = dict(module.named_parameters())["recurrent_kernel.weight"].grad
    assert gradient is not None
    assert float(gradient[5, 3]) == pytest.approx((found[0] - found[1]) / 2e-2, rel=1e-2)


@pytest.mark.parametrize("name", NETWORKS)
def test_channels_hang_together_through_the_state_and_cutting_them_equals_masking_them(name: str, tmp_path: Path) -> None:
    proto = NETWORKS[name]()
    network, values = loaded(proto, tmp_path), example(proto, 4)
    x = torch.from_numpy(values)
    cut, masked = copy.deepcopy(network.module), copy.deepcopy(network.module)
    graph, shadow = ChannelGraph(cut, (x[:2],)), ChannelGraph(masked, (x[:2],))
    names = [group.name for group in graph.groups]
    assert "kernel" in names
    assert set(removable(network.module, (x[:2],), names)) == set(names)
    for group, twin in zip(graph.groups, shadow.groups, strict=True):
        channels = group.units[1::3].reshape(-1)
        mask_as_cut(twin, channels)
        graph.remove(group, channels.tolist())
    with torch.no_grad():
        assert (cut(x) - masked(x)).abs().max() < 1e-5
        assert (cut(x) - network.module(x)).abs().max() > 1e-2
    assert sum(item.numel() for item in cut.parameters()) < 0.75 * sum(item.numel() for item in network.module.parameters())
    network.with_module(cut.eval()).write_onnx(tmp_path / "cut.onnx")
    written = onnx.load(tmp_path / "cut.onnx")
    with torch.no_grad():
        np.testing.assert_allclose(run_reference(written, {"x": values})[0], masked(x).numpy(), atol=1e-5)
    assert stored(written) < stored(proto)


def test_a_length_that_the_file_leaves_open_may_be_stated(tmp_path: Path) -> None:
    proto = gru(scanned=True)
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "steps"
    with pytest.raises(EngineError) as caught:
        _ = loaded(proto, tmp_path).module
    assert caught.value.code == "unsupported_operator"
    assert "metadata.input_specs" in str(caught.value.hint)
    stated = ModelMetadata(input_specs=[InputSpec(name="x", shape=(None, 9, 4))])
    network, x = load_network(tmp_path / "in.onnx", "onnx", stated, tmp_path), normal(3, 9, 4)
    network.with_module(network.module).write_onnx(tmp_path / "out.onnx")
    want = run_reference(proto, {"x": x})[0]
    np.testing.assert_allclose(run_reference(onnx.load(tmp_path / "out.onnx"), {"x": x})[0], want, atol=1e-5)


def test_the_file_that_is_quantized_keeps_its_loop(tmp_path: Path) -> None:
    network = loaded(gru(), tmp_path)
    _ = network.module
    kinds = [item.op_type for item in onnx.load(network.file(tmp_path / "unused.onnx")).graph.node]
    assert kinds.count("Loop") == 1
