"""SkipNet: what gates learn, what is skipped, and what is refused."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from engine.architectures.build import build_architecture
from engine.contract.errors import EngineError
from engine.contract.metadata import ModelMetadata
from engine.formats.loading import load_network
from engine.formats.onnx.counting import count_module
from engine.formats.onnx.executed import executed_macs
from engine.formats.onnx.networks import ModuleNetwork
from engine.methods.dynamic.routing.blocks import find_blocks, traced
from engine.methods.dynamic.routing.gates import Decision, RoutedNorm
from engine.methods.dynamic.routing.gating import with_gates
from engine.methods.dynamic.routing.learning import (
    Controlled,
    Reinforcement,
    entropy_term,
    macs_of_blocks,
    policy_term,
    routes,
    without_mean_of_others,
)
from engine.methods.dynamic.routing.network import SkippingNetwork
from engine.methods.dynamic.skip_routing import apply
from engine.methods.dynamic.spec_skip import SkipRouting
from engine.networks.network import Signature, TensorSpec
from engine.training.batches import Batch
from engine.training.loop import Moment
from tests.engine.conftest import CLASSES, World, cnn, make_split, resnet, signature
from tests.modelpress.alone import run_alone

BuildWorld = Callable[..., World]
EXAMPLES = 24


@pytest.fixture(autouse=True)
def same_weights() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


class PreNorm(nn.Module):
    """Pre-activation: the normalization stands inside of the branch, and nothing behind the addition."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        return features + self.conv(torch.relu(self.norm(features)))


def preactivation() -> nn.Module:
    head = (nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(256, CLASSES))
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), PreNorm(4), PreNorm(4), PreNorm(4), *head)


def built(name: str, **params: Any) -> tuple[nn.Module, Signature]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_architecture({"name": name, "params": params})


NETWORKS: dict[str, Callable[[], tuple[nn.Module, Signature]]] = {
    "resnet": lambda: (resnet(4, 3), signature()),
    "preactivation": lambda: (preactivation(), signature()),
    "projections": lambda: built("resnet8", width=4, image_size=8, in_channels=1),
    "vit": lambda: built("vit_small_images", image_size=8, depth=2, width=12, heads=2),
    "bytes": lambda: built("byte_transformer", length=8, depth=2, width=12, heads=2),
}
COUNTS = {"resnet": 3, "preactivation": 3, "projections": 3, "vit": 4, "bytes": 4}


def inputs_of(signature: Signature, count: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(count)
    shape = (count, *signature.inputs[0].shape[1:])
    if signature.inputs[0].dtype == "int64":
        return (torch.randint(0, 200, shape, generator=generator),)
    return (torch.randn(shape, generator=generator),)


def gated(module: nn.Module, signature: Signature, **params: Any) -> SkippingNetwork:
    """With gates that close for about half of the examples: the threshold of each lies in the widest gap of the middle probabilities."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module.train()
        for _ in range(3):  # statistics that normalizations have after a training
            module(*inputs_of(signature, 16))
        graph = traced(module).eval()
        found = find_blocks(graph, (inputs_of(signature, 2), inputs_of(signature, 3)))
        network = with_gates(graph, found.blocks, SkipRouting(**params)).eval()
        for parameter in network.gate_parameters:
            parameter.data.normal_()
    for number, decision in enumerate(network.decisions):
        network.network(*inputs_of(signature, EXAMPLES))
        values = network.last()[0][:, number].detach().sort().values
        middle = values[EXAMPLES // 4 : -EXAMPLES // 4]
        place = int(middle.diff().argmax())
        assert middle[place + 1] - middle[place] > 1e-4
        decision.threshold.fill_(float(middle[place] + middle[place + 1]) / 2)
    return network


@pytest.mark.parametrize(
    ("name", "uploaded"), [("resnet", True), ("preactivation", False), ("projections", False), ("vit", False), ("bytes", True)]
)
def test_a_masked_network_a_skipping_one_and_its_file_give_the_same(tmp_path: Path, name: str, uploaded: bool) -> None:
    """In torch, in one If a block of the file, in batches and one by one; and the file executes just what the routes take."""
    module, signature = NETWORKS[name]()
    if uploaded:
        ModuleNetwork(signature, module.eval()).write_onnx(tmp_path / "upload.onnx")
        loaded = load_network(tmp_path / "upload.onnx", "onnx", ModelMetadata(), tmp_path)
        module, signature = loaded.module, loaded.signature
    network = gated(module, signature)
    inputs = inputs_of(signature, EXAMPLES)
    with torch.no_grad():
        masked = network.network(*inputs)
        taken = network.last()[1]
        assert len(network.routes) == COUNTS[name]
        assert all(0 < share < 1 for share in taken.float().mean(0))
        assert_close(network(*inputs), masked, rtol=0, atol=1e-5)
        assert_close(network.without_gates()(*inputs), module.eval()(*inputs), rtol=0, atol=1e-5)
    network.write_onnx(signature, tmp_path / "routed.onnx", half=False)
    onnx.checker.check_model(onnx.load(tmp_path / "routed.onnx"), full_check=True)
    session = ort.InferenceSession(tmp_path / "routed.onnx")
    key, array = signature.inputs[0].name, inputs[0].numpy()
    (together,) = session.run(None, {key: array})
    alone = np.concatenate([session.run(None, {key: array[place : place + 1]})[0] for place in range(EXAMPLES)])
    assert_close(torch.from_numpy(together), masked, rtol=0, atol=1e-5)
    assert_close(torch.from_numpy(alone), masked, rtol=0, atol=1e-5)
    branches, _, rest = macs_of_blocks(network, inputs)
    executed = executed_macs(tmp_path / "routed.onnx", [{key: array}], threads=1)
    gates = executed_macs(tmp_path / "routed.onnx", [{key: array[:1]}], threads=1)
    assert executed is not None
    assert gates is not None
    first = sum(macs for macs, on in zip(branches, taken[0], strict=True) if on)
    of_gates = gates - first - rest
    assert of_gates > 0
    assert executed == EXAMPLES * (rest + of_gates) + sum(int(on.sum()) * macs for on, macs in zip(taken.T, branches, strict=True))


def test_an_example_whose_gate_stands_at_its_threshold_is_borderline() -> None:
    module, signature = resnet(8, 2), Signature((TensorSpec("x", (None, 1, 8, 8)),), (TensorSpec("y", (None, CLASSES)),))
    network = gated(module, signature).eval()
    inputs = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        network(inputs)
        probabilities, _ = network.last()
        network.set_threshold(float(probabilities[4, 0]))
        near = (probabilities - probabilities[4, 0]).abs() <= 1e-5
        assert network.borderline(inputs).tolist() == near.any(1).tolist()
        assert network.borderline(inputs)[4]


def test_the_file_runs_with_onnxruntime_and_numpy_alone_and_skipping_is_faster(tmp_path: Path) -> None:
    """A network of which no block runs against the same with all, in turns; the best of three tries, as other processes disturb."""
    module, signature = resnet(32, 4), Signature((TensorSpec("x", (None, 1, 8, 8)),), (TensorSpec("y", (None, CLASSES)),))
    network = gated(module, signature)
    for name, threshold in (("none", 1.0), ("all", -1.0)):
        network.set_threshold(threshold)
        network.write_onnx(signature, tmp_path / f"{name}.onnx", half=False)
    code = """
import time
import numpy as np
import onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = 1
one, other = (ort.InferenceSession(f"{name}.onnx", options) for name in ("none", "all"))
feed = {"x": np.random.default_rng(0).standard_normal((1, 1, 8, 8)).astype(np.float32)}
def ratio():
    spent = [[], []]
    for _ in range(40):
        for times, session in zip(spent, (one, other)):
            begin = time.perf_counter()
            session.run(None, feed)
            times.append(time.perf_counter() - begin)
    return np.median(spent[0]) / np.median(spent[1])
print(min(ratio() for _ in range(3)))
"""
    assert float(run_alone(code, tmp_path)) < 0.9


def test_reinforcement_has_the_gradient_of_the_expected_cost() -> None:
    """Summed over all routes by their chances, the estimate is the gradient of J; exactly, whatever stands in for the loss."""
    alpha, costs = 0.7, torch.tensor([0.5, 1.5])
    logits = torch.tensor([0.3, -0.8], dtype=torch.float64, requires_grad=True)

    def loss(route: tuple[float, ...]) -> float:
        return 1.0 + 2.0 * route[0] - 3.0 * route[1] + 1.7 * route[0] * route[1]

    def cost(route: tuple[float, ...]) -> float:
        return loss(route) - alpha / 2 * sum((1 - on) * float(each) for on, each in zip(route, costs, strict=True))

    all_routes = list(itertools.product((0.0, 1.0), repeat=2))

    def chance(route: tuple[float, ...]) -> Tensor:
        p = logits.sigmoid()
        return torch.stack([p[i] if on else 1 - p[i] for i, on in enumerate(route)]).prod()

    (expected,) = torch.autograd.grad(torch.stack([chance(route) * cost(route) for route in all_routes]).sum(), logits)
    estimated = torch.zeros(2, dtype=torch.float64)
    for route in all_routes:
        taken = torch.tensor([route], dtype=torch.float64)
        earned = (1 - taken) * costs * alpha / 2
        price = loss(route) - earned.flip(1).cumsum(1).flip(1)
        (gradient,) = torch.autograd.grad(policy_term(logits.sigmoid()[None], taken, price), logits)
        estimated += float(chance(route).detach()) * gradient
    assert_close(estimated, expected, rtol=1e-9, atol=1e-12)


def test_the_baseline_leaves_the_expectation_as_it_is() -> None:
    """Over all pairs of routes of two examples, the mean of the other example's reward changes nothing but the spread."""
    logits = torch.tensor([0.4], dtype=torch.float64, requires_grad=True)
    found = {}
    for baseline in (False, True):
        total = torch.zeros(1, dtype=torch.float64)
        spread = 0.0
        for pair in itertools.product((0.0, 1.0), repeat=2):
            taken = torch.tensor(pair, dtype=torch.float64)[:, None]
            price = 5 + 3 * taken
            p = logits.sigmoid().expand(2)[:, None]
            (gradient,) = torch.autograd.grad(policy_term(p, taken, without_mean_of_others(price) if baseline else price), logits)
            chance = float(torch.where(taken > 0, p, 1 - p).prod().detach())
            total += chance * gradient
            spread += chance * float(gradient) ** 2
        found[baseline] = (float(total), spread)
    assert found[True][0] == pytest.approx(found[False][0], rel=1e-9)
    assert found[True][1] < found[False][1] / 4


def test_the_loss_of_reinforcement_is_paid_by_what_comes_after_and_moves_gates_by_the_policy_alone(world: BuildWorld) -> None:
    made = world(resnet(4, 2))
    network = gated(made.network.module, signature())
    params = SkipRouting(alphas=(0.8,), baseline="none", policy_weight=0.5, loss_weight=2.0, anneal=0, exploration=0.3)
    loss = made.context.loss(network, made.data.splits["train"])
    reinforced = Reinforcement(network, loss, params, 0.8, torch.tensor([0.5, 1.5]))
    reinforced.hooks()
    batch = Batch.of(made.data.splits["train"], np.arange(6), ("x",), torch.device("cpu"))
    with torch.no_grad():
        for parameter in network.network.gates.head.parameters():
            parameter.mul_(0.1)  # near even chances
    network.learn("sample")
    network.train()
    torch.manual_seed(0)
    outputs = network(*batch.inputs)
    probabilities, taken = network.last()
    assert 0 < taken.mean() < 1
    value = reinforced(outputs, batch)
    labels = torch.from_numpy(made.data.splits["train"].labels[:6])
    each = nn.functional.cross_entropy(outputs, labels, reduction="none").detach()
    earned = (1 - taken) * torch.tensor([0.5, 1.5]) * 0.8 / 2
    price = torch.stack([2 * each - earned[:, 0] - earned[:, 1], 2 * each - earned[:, 1]], 1)
    chances = torch.where(taken > 0, probabilities, 1 - probabilities).log()
    entropy = -(probabilities * probabilities.log() + (1 - probabilities) * (1 - probabilities).log()).mean()
    expected = nn.functional.cross_entropy(outputs, labels) + 0.5 * ((chances * price).sum(1).mean() - 0.3 * 0.8 * entropy)
    assert_close(value, expected)
    weights = [p for name, p in network.network.named_parameters() if not name.startswith("gates.")]
    for got, want in zip(
        torch.autograd.grad(value, weights, retain_graph=True, allow_unused=True),
        torch.autograd.grad(nn.functional.cross_entropy(outputs, labels), weights, retain_graph=True, allow_unused=True),
        strict=True,
    ):
        assert_close(got, want)  # nothing of the policy's gradient reaches the features
    with torch.no_grad():  # looked at by early stopping, it is the expected cost itself
        answers = network.eval()(*batch.inputs)
        closed = 1 - network.last()[1].float()
        cost = nn.functional.cross_entropy(answers, labels) - (closed * torch.tensor([0.5, 1.5]) * 0.8 / 2).sum(1).mean()
        assert_close(reinforced(answers, batch), cost)
    policy = torch.autograd.grad(0.5 * ((chances * price).sum(1).mean() - 0.3 * 0.8 * entropy), network.gate_parameters, retain_graph=True)
    for got, want in zip(torch.autograd.grad(value, network.gate_parameters), policy, strict=True):
        assert_close(got, want)


class Flagged(nn.Module):
    """(N, 2) → two scores; the second class is right, and only where the flag, the first number, is 1 its branch is needed for that."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.out, self.branch, self.head = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)
        weights = ([[0.0, 0], [0, 0]], [[0.0, 0], [0, 0]], [[0.0, 0], [4, 0]], [[0.0, 0], [-2, 1]])
        for layer, weight in zip((self.first, self.out, self.branch, self.head), weights, strict=True):
            layer.weight.data, layer.bias.data = torch.tensor(weight), torch.zeros(2)
        self.head.bias.data[1] = 1.0

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.out(torch.relu(self.first(x)))
        x = x + torch.tanh(self.branch(x)) * 4
        return self.head(x)


@pytest.mark.parametrize("gate", ["recurrent", "feedforward_2"])
def test_gates_that_are_sure_are_opened_again_without_another_decision(gate: str) -> None:
    network = gated(*NETWORKS["resnet"](), gate=gate)
    inputs = inputs_of(signature(), 16)
    network.eval().set_threshold(0.5)
    network(*inputs)
    sure, decisions = (item.detach().clone() for item in network.last())
    network.reopen(inputs, 0.25)
    network(*inputs)
    probabilities = network.last()[0].detach()
    assert torch.equal(network.last()[1], decisions)
    sizes = torch.logit(probabilities).abs().mean(0)
    wanted = torch.logit(sure).abs().mean(0)
    assert_close(
        float(sizes.mean()) if gate == "recurrent" else sizes, 0.25 if gate == "recurrent" else wanted.clamp_max(0.25), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize(("opened", "learned"), [(True, True), (False, False)])
def test_reinforcement_learns_which_inputs_need_a_block(opened: bool, learned: bool) -> None:
    """Skipping pays where it costs nothing. From gates that are too sure to try anything, nothing is learned in this time."""
    torch.manual_seed(0)
    graph = traced(Flagged().eval())
    x = torch.cat([torch.randint(0, 2, (64, 1)).float(), torch.randn(64, 1) * 0.1], 1)
    params = SkipRouting(gate_bias=20.0, reinforcement={"iterations": 1})
    network = with_gates(graph, find_blocks(graph, ((x[:2],), (x[:3],))).blocks[1:], params)
    if opened:
        network.reopen((x,), params.starting_logit)
    network.learn("sample")
    labels = torch.ones(64, dtype=torch.long)

    optimizer = torch.optim.Adam(network.gate_parameters, lr=0.02)
    for _ in range(120):
        network.train()
        answers = network(x)
        probabilities, taken = network.last()
        each = nn.functional.cross_entropy(answers, labels, reduction="none").detach()[:, None]
        price = without_mean_of_others(each - (1 - taken) * 0.5)
        optimizer.zero_grad()
        (policy_term(probabilities, taken, price) - params.exploration * 0.5 * entropy_term(probabilities)).backward()
        optimizer.step()
    network.eval()(x)
    right = network.last()[1][:, 0] == (x[:, 0] > 0.5)
    assert (float(right.float().mean()) > 0.95) is learned


def test_alpha_rises_from_zero_and_is_found_again_in_another_process() -> None:
    network = gated(*NETWORKS["resnet"]())
    reinforced = Reinforcement(network, lambda outputs, batch: torch.zeros(()), SkipRouting(anneal=0.5), 1.0, torch.ones(3))
    hooks = reinforced.hooks()
    shares = [float(reinforced.share)]
    for iteration in (1, 2, 4, 5, 8):
        for hook in hooks.on_step:
            hook(Moment(iteration, 8, 1, network))
        shares.append(float(reinforced.share))
    assert shares == [0, 0.25, 0.5, 1, 1, 1]
    hooks.memory["share"].fill_(0.75)
    assert float(reinforced.share) == 0.75


def test_supervised_decisions_are_hard_forward_and_soft_backward() -> None:
    decision = Decision().train()
    probability = torch.tensor([0.9, 0.2, 0.6], requires_grad=True)
    taken = decision(probability)
    assert taken.tolist() == [1, 0, 1]
    (taken * torch.tensor([3.0, 5.0, 7.0])).sum().backward()
    assert probability.grad is not None
    assert probability.grad.tolist() == [3, 5, 7]
    decision.mode = "sample"
    torch.manual_seed(0)
    drawn = decision(torch.full((20_000,), 0.3))
    assert set(drawn.tolist()) == {0.0, 1.0}
    assert not drawn.requires_grad
    assert float(drawn.mean()) == pytest.approx(0.3, abs=0.02)


def test_normalizations_of_a_branch_learn_from_the_examples_that_take_it() -> None:
    """The same as an ordinary one that is given those examples alone; where nobody takes the branch, nothing is learned."""
    torch.manual_seed(0)
    values, taken = torch.randn(9, 3, 4, 4), torch.tensor([1.0, 0, 0, 1, 1, 0, 1, 0, 0])
    plain, other = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    routed = RoutedNorm.instead_of(other)
    assert routed is not None
    found = routed.train()(values, taken)
    assert_close(found[taken > 0], plain.train()(values[taken > 0]))
    assert_close(routed.restored().state_dict(), plain.state_dict())
    before = copy.deepcopy(routed.state_dict())
    nobody = routed(values, torch.zeros(9))
    assert_close(nobody, routed.eval()(values))
    after = routed.state_dict()
    assert_close(after["running_mean"], before["running_mean"])
    assert_close(after["running_var"], before["running_var"])


def test_given_routes_are_taken_by_the_examples_they_are_given_for() -> None:
    module, signature = NETWORKS["resnet"]()
    network = gated(module, signature)
    split = make_split(EXAMPLES, 5)
    found = routes(network, split, ("x",), torch.device("cpu"))
    own = found.probabilities > np.array([float(decision.threshold) for decision in network.decisions])
    again = Controlled(network, own, found.keys).eval()
    inputs = torch.from_numpy(split.images)
    with torch.no_grad():
        expected = network(inputs)
        again(inputs[:1])
        order = torch.randperm(EXAMPLES, generator=torch.Generator().manual_seed(0))
        assert_close(again(inputs[order]), expected[order])
        other = again.along(~own).eval()(inputs)
    assert not torch.allclose(other, expected)


TRAINED = {
    "supervised": {"iterations": 30, "learning_rate": 5e-3},
    "reinforcement": {"iterations": 60, "learning_rate": 3e-2, "schedule": "constant"},
    "embedding_size": 4,
    "hidden_size": 4,
}


def test_a_reward_for_skipping_makes_it_skip_and_what_it_did_is_reported(world: BuildWorld) -> None:
    made = world(resnet(4, 4))
    params = SkipRouting.model_validate({"alphas": [0.0, 8.0], "controls": ["full", "supervised", "random", "shuffled"], **TRAINED})
    found = apply(made.network, params, made.context)
    assert [setting.name for setting in found.settings] == ["alpha 0", "alpha 8", "supervised", "full"]
    reported = made.context.reported
    rates = {name: item["skip_rate"] for name, item in reported["routes"].items()}
    assert rates["alpha 8"] > rates["alpha 0"] + 0.3
    assert set(reported["routes"]["alpha 8"]["blocks"]) == {"5", "6", "7"}
    assert {name.split(" ")[0] for name in reported["controls"]} == {"random", "shuffled"}
    for name, item in reported["controls"].items():
        assert item["skip_rate"] == pytest.approx(rates[name.split("(")[1].rstrip(")")], abs=0.08)
        assert "test.top1" in item
    stages = {item["stage"]: item for item in reported["stages"]}
    for name, item in reported["controls"].items():
        if name.startswith("shuffled") and rates[name.split("(")[1].rstrip(")")] == 0:  # nothing to shuffle: the very network
            assert item["test.cross_entropy"] == pytest.approx(stages[name.split("(")[1].rstrip(")")]["test.cross_entropy"], rel=1e-5)
    plain = found.plain()
    full = plain.at(found.settings[-1])
    assert not full.input_dependent
    assert full.count().macs_count == count_module(made.network.module, signature()).macs_count
    assert all(plain.at(setting).input_dependent for setting in found.settings[:-1])
    assert any(event.code == "gate_constant" for event in made.of("warning"))
    assert [type(shown).__name__ for shown in made.context.shown] == ["Table", "Bars", "Table"]


@pytest.mark.parametrize("gate", ["recurrent", "feedforward_1", "feedforward_2"])
def test_gates_whose_maps_become_a_single_value_are_counted_and_trained(world: BuildWorld, gate: str) -> None:
    made = world(resnet(4, 3))
    lengths = {"supervised": {"iterations": 2}, "reinforcement": {"iterations": 2}}
    found = apply(made.network, SkipRouting.model_validate({"gate": gate, **lengths}), made.context)
    assert found.input_dependent
    assert made.context.reported["macs"]["gates"] > 0


def test_one_setting_is_a_network_that_writes_itself(world: BuildWorld) -> None:
    made = world(resnet(4, 2))
    params = SkipRouting.model_validate({"supervised": {"iterations": 1}, "reinforcement": {"iterations": 1}, "thresholds": [0.4]})
    found = apply(made.network, params, made.context)
    (setting,) = found.settings
    assert found.input_dependent
    assert found.at(setting).count().macs_count is None
    assert isinstance(found.plain().module, SkippingNetwork)
    assert float(found.module.decisions[0].threshold) == pytest.approx(0.4)


def test_thresholds_are_settings_of_one_training(world: BuildWorld) -> None:
    made = world(resnet(4, 3))
    params = SkipRouting.model_validate({"thresholds": [0.3, 0.95], "skip_first": True, **TRAINED, "reinforcement": {"iterations": 2}})
    found = apply(made.network, params, made.context).plain()
    assert [(s.name, s.values) for s in found.settings] == [
        ("alpha 0.1 threshold 0.3", {"alpha": 0.1, "threshold": 0.3}),
        ("alpha 0.1 threshold 0.95", {"alpha": 0.1, "threshold": 0.95}),
    ]
    modules = [found.at(setting).module for setting in found.settings]
    assert all(isinstance(module, SkippingNetwork) for module in modules)
    assert [float(module.decisions[0].threshold) for module in modules] == [pytest.approx(0.3), pytest.approx(0.95)]
    assert [len(module.routes) for module in modules] == [3, 3]
    assert not any(isinstance(layer, RoutedNorm) for module in modules for layer in module.modules())


def refusal(made: World, **params: Any) -> EngineError:
    with pytest.raises(EngineError) as caught:
        apply(made.network, SkipRouting(**params), made.context)
    assert caught.value.hint
    return caught.value


class Shared(nn.Module):
    """A branch of which something else reads a value in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(64, 8), nn.Linear(8, 64), nn.Linear(72, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        flat = images.flatten(1)
        middle = torch.relu(self.first(flat))
        return self.head(torch.cat([flat + self.second(middle), middle], 1))


class Decided(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :CLASSES] if images.sum() > 0 else -images.flatten(1)[:, :CLASSES]


def test_networks_that_cannot_be_routed_are_refused_by_name(world: BuildWorld) -> None:
    assert "no residual blocks" in refusal(world(cnn())).message
    shared = refusal(world(Shared()), skip_first=True)
    assert shared.code == "routing_impossible"
    assert "second: something else reads a value inside of its branch" in shared.message
    only = refusal(world(resnet(4, 1)))
    assert "The only residual block, 4, is the first" in only.message
    assert "skip_first" in str(only.hint)
    left = refusal(world(resnet(4, 3)), include=("4.conv1",))
    assert "leave none" in left.message
    assert refusal(world(resnet(4, 3)), include=("nothing*",)).code == "layer_not_found"
    assert "depends on the data" in refusal(world(Decided())).message
    flat = nn.Sequential(nn.Flatten(), Rows(), Rows(), nn.Linear(64, CLASSES))
    rows = refusal(world(flat), gate="feedforward_1")
    assert "plain rows of numbers: 2" in rows.message
    assert "recurrent" in str(rows.hint)
    unlabelled = world(resnet(4, 3), train=20)
    unlabelled.data.splits["train"].labels = None
    assert refusal(unlabelled).code == "dataset_invalid"


class Rows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 64)

    def forward(self, rows: Tensor) -> Tensor:
        return rows + torch.relu(self.linear(rows))
