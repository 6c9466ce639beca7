"""Early exits: stages, cumulative costs, calibration on validation alone, and files that compute what the network in memory does."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import nn

from engine.contract.figures import Setting
from engine.formats.onnx.counting import count_module, count_onnx
from engine.formats.onnx.executed import executed_macs
from engine.methods.dynamic.early_exit import apply
from engine.methods.dynamic.exits.network import BudgetNetwork, ExitNetwork
from engine.methods.dynamic.exits.thresholds import NEVER
from engine.methods.dynamic.exits.training import joint_loss, of_all_exits
from engine.training.batches import Batch, fingerprint
from modelpress.runtime import load
from tests.engine.conftest import CLASSES, World, cnn, make_split
from tests.engine.methods.dynamic.exits import Build, Residual, exits_of, params

MODULES = {"cnn": cnn, "residual": Residual}


@pytest.fixture(params=[*MODULES, "msdnet"])
def module(request: pytest.FixtureRequest, msdnet: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    return msdnet if request.param == "msdnet" else MODULES[request.param]()


def _check_borderline(exits: ExitNetwork, inputs: torch.Tensor, first: torch.Tensor) -> None:
    """Examples about as sure as they have to be: another runtime may send them another way."""
    threshold = float(first[7])
    network = BudgetNetwork(exits, [threshold + 1e-6, *[NEVER] * (len(exits.stages) - 2)])
    near = (first - threshold).abs() < 1e-5 * max(1.0, abs(threshold))
    with torch.no_grad():
        assert network.borderline(inputs)[7]
        assert int(network.borderline(inputs).sum()) <= int(near.sum()) + 1
        assert not BudgetNetwork(exits, [NEVER] * (len(exits.stages) - 1)).borderline(inputs).any()


def test_everything_about_a_network_with_exits(world: Build, module: nn.Module, tmp_path: Path) -> None:
    """One trained network, many checks: training is what takes time."""
    own = world(module, train=240)
    before = fingerprint(module)
    network = apply(own.network, params(budgets=[0.6, 0.9], controls=["random_exits"]), own.context)
    assert fingerprint(module) == before, "the given network is left alone"
    exits = exits_of(network.plain())
    images = own.data.splits["test"].images[:50]
    inputs = torch.from_numpy(images)
    with torch.no_grad():
        answers, confidences = exits.answers(inputs)
    count = len(answers)
    assert [setting.name for setting in network.settings] == ["budget 0.6", "budget 0.9", *(f"exit {k}" for k in range(1, count + 1))]

    # In evaluation it is the network itself: its last exit.
    assert torch.equal(network.module(inputs), answers[-1][0])

    # Costs are cumulative: the plain network to that exit, and all exits before it.
    costs = own.context.reported["exits"]
    fixed = [network.plain().at(Setting(name=f"exit {k + 1}", values={"exit": k + 1.0})).module for k in range(count)]
    plain = [count_module(layer, network.signature).macs_count for layer in fixed]
    alone = [_exit_macs(exits, k, inputs) for k in range(count)]
    assert [row["macs_count"] for row in costs] == [plain[k] + sum(alone[:k]) for k in range(count)]
    assert own.context.reported["whole_macs_count"] == count_module(module, network.signature).macs_count

    files = {}
    for setting in network.settings:
        files[setting.name] = tmp_path / f"{setting.name}.onnx"
        network.plain().at(setting).write_onnx(files[setting.name])
    for k in range(count):
        np.testing.assert_allclose(_run(files[f"exit {k + 1}"], images), answers[k][0].numpy(), rtol=1e-3, atol=1e-4)
        assert count_onnx(files[f"exit {k + 1}"]).macs_count == plain[k]

    # A budget's file gives every example the answer of its own exit: one by one, in a batch, and in the runtime; so does the module.
    manifest = _published(own, tmp_path)
    for place, row in enumerate(own.context.reported["budgets"]):
        name = network.settings[place].name
        thresholds = [NEVER if value is None else value for value in row["thresholds"]]
        taken = _first_sure(np.column_stack([item.numpy() for item in confidences]), thresholds)
        wanted = np.stack([answers[exit][0][i].numpy() for i, exit in enumerate(taken)])
        runtime = load(manifest, budget=row["budget"])
        found = runtime.run({"x": images})
        assert (found.exits - 1).tolist() == taken.tolist()
        one_by_one = np.concatenate([_run(files[name], images[i : i + 1]) for i in range(len(images))])
        regrouped = np.concatenate([runtime.run({"x": images[i : i + 1]}).outputs["y"] for i in range(len(images))])
        parts = runtime.run({"x": images}, batch_size=7)
        assert parts.exits.tolist() == found.exits.tolist()
        module_outputs, module_taken = BudgetNetwork(exits, thresholds).routed(inputs)
        assert module_taken.tolist() == taken.tolist()
        _check_borderline(exits, inputs, confidences[0])
        for outputs in (
            _run(files[name], images),
            one_by_one,
            found.outputs["y"],
            regrouped,
            parts.outputs["y"],
            module_outputs[0].detach().numpy(),
        ):
            np.testing.assert_allclose(outputs, wanted, rtol=1e-3, atol=1e-4)
        # What it really multiplies is what its exits cost; an exit at which nothing can stop is not even computed.
        macs = executed_macs(files[name], [{"x": images}], threads=1)
        skipped = [alone[k] if thresholds[k] == NEVER else 0 for k in range(count - 1)]
        assert macs == sum(costs[exit]["macs_count"] - sum(skipped[:exit]) for exit in taken)
        assert found.macs_count == pytest.approx(np.mean([costs[exit]["macs_count"] for exit in taken]))
    for k, answer in enumerate(load(manifest).anytime({"x": images})):
        np.testing.assert_allclose(answer.outputs["y"], answers[k][0].numpy(), rtol=1e-3, atol=1e-4)


@torch.no_grad()
def _exit_macs(exits: ExitNetwork, place: int, inputs: torch.Tensor) -> int:
    """Multiply-accumulates of the layers of one exit, seen from outside: outputs times weights of each."""
    found: list[int] = []

    def count(layer: nn.Module, _: Any, output: torch.Tensor) -> None:
        found.append(layer.weight.numel() * output[0, 0].numel())

    names = (f"exit{place + 1}.", f"classifiers.{place}.")
    layers = [layer for name, layer in exits.stages[place].named_modules() if name.startswith(names) and hasattr(layer, "weight")]
    handles = [layer.register_forward_hook(count) for layer in layers if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert handles or place == len(exits.stages) - 1
    exits.answers(inputs)
    for handle in handles:
        handle.remove()
    return sum(found)


def _first_sure(confidences: np.ndarray, thresholds: list[float]) -> np.ndarray:
    found = []
    for row in confidences:
        found.append(next((k for k, value in enumerate(thresholds) if row[k] >= np.float32(value)), len(thresholds)))
    return np.array(found)


def _run(path: Path, images: np.ndarray) -> np.ndarray:
    return np.asarray(ort.InferenceSession(path).run(None, {"x": images})[0])


def _published(own: World, folder: Path) -> Path:
    """The step's files as the job would move them."""
    target = folder / "published"
    target.mkdir()
    for file in own.context.files:
        (target / own.context.published_name(file.path)).write_bytes(file.path.read_bytes())
    return target / "step0-exits.json"


@pytest.mark.usefixtures("unwritten")
def test_thresholds_come_from_validation_examples_alone(world: Build) -> None:
    """Other examples to evaluate, other thresholds? No. Other validation examples? Yes, and training is not touched."""
    torch.manual_seed(1)
    module = cnn()
    validation = make_split(80, 5)
    found = []
    for test, held in ((2, validation), (7, validation), (2, make_split(80, 6))):
        own = world(module, train=120, test=make_split(60, test), validation=held)
        network = apply(own.network, params(budgets=[0.8], iterations=8), own.context)
        budget = own.context.reported["budgets"][0]
        found.append((fingerprint(network.module.stages[0].get_submodule("0")), budget["thresholds"], budget["evaluated"]["shares"]))
        # Just as many validation examples stop as the budget says.
        costs = [row["macs_count"] for row in own.context.reported["exits"]]
        mean = float(np.dot(budget["validation"]["shares"], costs))
        assert mean == pytest.approx(0.8 * own.context.reported["whole_macs_count"], rel=0.03)
    assert found[0][:2] == found[1][:2]
    assert found[0][2] != found[1][2]
    assert found[0][0] == found[2][0]
    assert found[0][1] != found[2][1]


def test_training_sums_the_weighted_losses_of_all_exits(world: Build) -> None:
    own = world(cnn(), train=60)
    examples = own.data.splits["train"]
    batch = Batch.of(examples, np.arange(16), ("x",), torch.device("cpu"))
    drawn = [torch.randn(16, CLASSES, generator=torch.Generator().manual_seed(k)) for k in range(3)]
    labels = torch.from_numpy(examples.labels[:16])
    heads = own.context.reading()
    losses = [nn.functional.cross_entropy(item, labels) for item in drawn]
    # The last exit stands first in what the network gives, and last among the weights.
    value = joint_loss(heads, (0.5, 1.0, 2.0), 1, params())((drawn[2], drawn[0], drawn[1]), batch)
    torch.testing.assert_close(value, 0.5 * losses[0] + 1.0 * losses[1] + 2.0 * losses[2])
    taught = joint_loss(heads, (1, 0, 1), 1, params(self_distillation={"alpha": 0.25, "temperature": 2.0}))(
        (drawn[2], drawn[0], drawn[1]), batch
    )
    soft = torch.softmax(drawn[2] / 2, 1)
    likeness = 4 * (soft * (soft.log() - torch.log_softmax(drawn[0] / 2, 1))).sum(1).mean()
    torch.testing.assert_close(taught, 0.75 * losses[0] + 0.25 * likeness + losses[2])


def test_the_loss_of_validation_examples_is_that_of_all_exits(world: Build) -> None:
    own = world(cnn(), train=60)
    module = apply(own.network, params(iterations=1), own.context).module
    assert isinstance(module, ExitNetwork)
    batch = Batch.of(own.data.splits["train"], np.arange(16), ("x",), torch.device("cpu"))
    joint = joint_loss(own.context.reading(), (0.5,) * (len(module.stages) - 1) + (2.0,), module.outputs, params())
    with torch.no_grad():
        found = of_all_exits(module, joint)(module.eval()(*batch.inputs), batch)
        answers, _ = module.answers(*batch.inputs)
    losses = [nn.functional.cross_entropy(outputs[0], torch.from_numpy(own.data.splits["train"].labels[:16])) for outputs in answers]
    torch.testing.assert_close(found, 0.5 * torch.stack(losses[:-1]).sum() + 2.0 * losses[-1])


def test_the_last_exit_teaches_and_does_not_learn_from_the_earlier_ones(world: Build) -> None:
    own = world(cnn(), train=60)
    batch = Batch.of(own.data.splits["train"], np.arange(16), ("x",), torch.device("cpu"))
    last, first = (torch.randn(16, CLASSES, requires_grad=True) for _ in range(2))
    joint_loss(own.context.reading(), (1, 0), 1, params(self_distillation={}))((last, first), batch).backward()
    assert last.grad is None
    assert first.grad is not None


@pytest.mark.usefixtures("unwritten")
def test_a_kept_network_stays_what_it_was(world: Build) -> None:
    torch.manual_seed(3)
    module = cnn()
    own = world(module, train=120)
    network = apply(own.network, params(exits=1, backbone="keep", budgets=[]), own.context)
    images = torch.from_numpy(own.data.splits["test"].images[:20])
    assert torch.equal(network.module(images), module(images))
    state = exits_of(network).state_dict()
    kept = {name.split(".", 2)[2]: value for name, value in state.items() if "exit1" not in name and "confidence" not in name}
    assert all(torch.equal(value, module.state_dict()[name]) for name, value in kept.items())
    assert set(kept) == set(module.state_dict())


@pytest.mark.usefixtures("unwritten")
def test_random_exits_cost_as_much_and_know_less(world: Build) -> None:
    own = world(cnn(), train=240)
    apply(own.network, params(budgets=[0.7], exits=1, controls=["random_exits"], iterations=60), own.context)
    (budget,) = own.context.reported["budgets"]
    exits = own.context.reported["exits"]
    # Dealt out at random, the exits' shares mix their accuracies.
    mixed = np.dot(budget["evaluated"]["shares"], [row["evaluated.top1"] for row in exits])
    assert budget["random_exits"]["top1"] == pytest.approx(mixed, abs=0.02)


@pytest.mark.usefixtures("unwritten")
def test_temperatures_are_fitted_for_each_exit(world: Build) -> None:
    own = world(cnn(), train=240)
    network = apply(own.network, params(budgets=[0.7]), own.context)
    plain = world(cnn(), train=240)
    apply(plain.network, params(budgets=[0.7], temperature_scaling=False), plain.context)
    assert [row["temperature"] for row in plain.context.reported["exits"]] == [1.0] * 3
    fitted = [row["temperature"] for row in own.context.reported["exits"]]
    assert len(set(fitted)) == 3
    assert [float(exits_of(network).confidence(k).temperature) for k in range(3)] == pytest.approx(fitted)


def test_the_manifest_says_which_files_belong_together(world: Build, tmp_path: Path) -> None:
    own = world(cnn(), train=60)
    apply(own.network, params(budgets=[0.8, 1.0], iterations=2), own.context)
    path = _published(own, tmp_path)
    document = json.loads(path.read_text())
    assert [item["budget"] for item in document["budgets"]] == [0.8, 1.0]
    assert all(len(item["thresholds"]) == 2 for item in document["budgets"])
    assert sorted(entry["name"] for entry in document["files"].values()) == [f"step0-stage{k}.onnx" for k in (1, 2, 3)]
    assert {file.kind for file in own.context.files} == {"stage", "exits"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"budgets": [0.5, 0.5]}, "each budget is given once"),
        ({"budgets": [35]}, "did you mean 0.35"),
        ({"budgets": [], "anytime": False}, "at least one budget"),
        ({"positions": []}, "at least one position"),
        ({"loss_weights": [0, 0]}, "above 0"),
        ({"positions": ["0"], "loss_weights": [1, 1, 1]}, "one entry for each of positions"),
    ],
)
def test_parameters_that_say_nothing_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        params(**changes)
