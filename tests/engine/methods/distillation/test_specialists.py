"""Combined answers are the minimum that the paper defines; specialists repair what the generalist confuses."""

import copy

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import nn

from engine.contract.errors import EngineError
from engine.contract.heads import Head
from engine.contract.spec import parse
from engine.methods.distillation.clusters import clusters_of, covariance
from engine.methods.distillation.combined import Combined, combine, oversampling, reduced, specialized
from engine.methods.distillation.spec_specialists import Specialists
from engine.methods.distillation.specialists import apply

HEAD = Head(name="y", indices=(0,), task="classification", target="y", class_axis=1, classes_count=5, scale="logits")


def drawn(seed, inside, rows=6, classes=6):
    """Answers of a generalist and of specialists, and who takes part."""
    generator = torch.Generator().manual_seed(seed)
    general = torch.softmax(3 * torch.randn(rows, classes, generator=generator, dtype=torch.float64), 1)
    parts = [specialized(2 * torch.randn(rows, classes, generator=generator, dtype=torch.float64), one, 1.0) for one in inside]
    active = (torch.rand(rows, len(inside), generator=generator) < 0.7).double()
    return general, torch.stack([own for own, _ in parts], 1), torch.stack([rest for _, rest in parts], 1), active


def divergence(logits, general, special, dustbin, active, inside):
    """KL(general ‖ q) + Σ KL(special ‖ q), up to what does not depend on q, of every row."""
    q = torch.log_softmax(logits, 1)
    rest = torch.stack([torch.logsumexp(q[:, one == 0], 1) for one in inside], 1)
    said = (special * q[:, None]).sum(2) + dustbin * rest
    return -(general * q).sum(1) - (active * said).sum(1)


def by_descent(*given):
    """The minimum over the logits, as the paper does it."""
    logits = given[0].log().clone().requires_grad_()
    optimizer = torch.optim.LBFGS([logits], lr=1, max_iter=200, tolerance_grad=1e-9, tolerance_change=1e-13, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        value = divergence(logits, *given).sum()
        value.backward()
        return value

    optimizer.step(closure)
    return torch.softmax(logits.detach(), 1)


@pytest.mark.parametrize("clusters", [[[0, 1], [2, 3]], [[0, 1, 2], [2, 3, 4], [1, 5]]], ids=["apart", "overlapping"])
def test_the_combined_answer_is_the_minimum_of_the_summed_divergences(clusters):
    inside = torch.zeros(len(clusters), 6, dtype=torch.float64)
    for number, cluster in enumerate(clusters):
        inside[number, cluster] = 1
    given = (*drawn(len(clusters), inside), inside)
    found, expected = combine(*given, steps=60), by_descent(*given)
    torch.testing.assert_close(found.sum(1), torch.ones(6, dtype=torch.float64))
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)
    excess = divergence(found.log(), *given) - divergence(expected.log(), *given)
    assert float(excess.max()) < 1e-5


def test_one_step_is_the_minimum_where_one_specialist_takes_part():
    inside = torch.tensor([[1.0, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 0]], dtype=torch.float64)
    general, special, dustbin, _ = drawn(3, inside)
    active = torch.eye(2, dtype=torch.float64)[torch.arange(6) % 2]
    given = (general, special, dustbin, active, inside)
    torch.testing.assert_close(combine(*given, steps=1), by_descent(*given), atol=1e-6, rtol=0)


def test_where_nobody_takes_part_the_generalist_is_right():
    inside = torch.tensor([[1.0, 1, 0, 0, 0, 0]], dtype=torch.float64)
    general, special, dustbin, _ = drawn(4, inside)
    torch.testing.assert_close(combine(general, special, dustbin, torch.zeros(6, 1, dtype=torch.float64), inside, steps=5), general)


def test_the_dustbin_is_corrected_by_bayes_rule():
    """A model that has learned the odds of an oversampled set gives the odds of the whole set."""
    rng = np.random.default_rng(0)
    likelihood = rng.dirichlet(np.ones(6), size=2)  # of six inputs, for special examples and for others
    special, total, share = 300, 1000, 0.6
    learned = np.stack([share * likelihood[0], (1 - share) * likelihood[1]])
    learned /= learned.sum(axis=0)
    logits = torch.from_numpy(np.log(np.stack([learned[0] / 2, learned[0] / 2, learned[1]], axis=1)))
    own, rest = specialized(logits, torch.tensor([1.0, 1.0, 0.0]), oversampling(special, total, share))
    joint = np.stack([special / total * likelihood[0], (1 - special / total) * likelihood[1]])
    np.testing.assert_allclose(own.sum(1).numpy(), joint[0] / joint.sum(axis=0))
    np.testing.assert_allclose(rest.numpy(), joint[1] / joint.sum(axis=0))


def test_reduced_logits_are_those_of_the_classes_and_of_all_others_together():
    logits = torch.randn(4, 5)
    own, rest = specialized(logits, torch.tensor([0.0, 1, 0, 1, 0]), 1.0)
    shares = torch.softmax(reduced(logits, torch.tensor([1, 3]), torch.tensor([0, 2, 4])), 1)
    torch.testing.assert_close(shares, torch.stack([own[:, 1], own[:, 3], rest], 1))


def test_classes_that_are_answered_together_fall_into_one_cluster():
    rng = np.random.default_rng(0)
    groups = np.array([0, 1, 0, 2, 1, 2])
    answers = rng.dirichlet(np.ones(6), size=600) * 0.1
    for row, group in enumerate(rng.integers(0, 3, 600)):
        answers[row, groups == group] += 0.45
    found = covariance(answers)
    np.testing.assert_allclose(found, np.cov(answers.T))
    assert clusters_of(found, 3, np.random.default_rng(1)) == [[0, 2], [1, 4], [3, 5]]


@pytest.fixture
def confused(trained_mlp):
    """A network that cannot tell class 0 from class 1."""
    with torch.no_grad():
        for parameter in (trained_mlp[5].weight, trained_mlp[5].bias):
            parameter[:2] = parameter[:2].mean(0)
    return trained_mlp


def stages(setting):
    return {row["stage"]: row["test.top1"] for row in setting.context.reported["stages"]}


def test_specialists_repair_what_the_generalist_confuses_and_all_is_one_file(world, confused, tmp_path):
    setting = world(confused)
    before = copy.deepcopy(confused.state_dict())
    params = Specialists(clusters=[[0, 1], [2, 3]], epochs=6, learning_rate=5e-3)
    result = apply(setting.network, params, setting.context)
    found = stages(setting)
    assert found["combined"] > found["before"] + 0.1
    rows = setting.context.reported["specialists"]
    assert rows[0]["classes"] == "0, 1"
    assert rows[0]["specialist_right_among_its_classes"] > rows[0]["generalist_right_among_its_classes"] + 0.3
    assert all(torch.equal(before[name], value) for name, value in confused.state_dict().items()), "the given network is left alone"
    result.write_onnx(tmp_path / "one.onnx")
    images = setting.data.splits["test"].images
    (answer,) = ort.InferenceSession(tmp_path / "one.onnx").run(None, {"x": images})
    with torch.no_grad():
        expected = result.module(torch.from_numpy(images))
    np.testing.assert_allclose(answer, expected.numpy(), atol=1e-4)
    np.testing.assert_allclose(np.exp(answer).sum(axis=1), 1, atol=1e-5)


def test_what_they_say_together_is_learned_by_one_network_of_the_old_size(world, confused):
    setting = world(confused)
    params = Specialists(
        clusters=[[0, 1]], epochs=6, learning_rate=5e-3, distil={"epochs": 6, "learning_rate": 5e-3, "alpha": 1, "temperature": 2.0}
    )
    result = apply(setting.network, params, setting.context)
    found = stages(setting)
    assert found["distilled"] > found["before"] + 0.1
    assert {name: value.shape for name, value in result.module.state_dict().items()} == {
        name: value.shape for name, value in confused.state_dict().items()
    }
    assert [(file.kind, file.format) for file in setting.context.files] == [("specialists", "onnx")]
    assert setting.context.files[0].path.is_file()


def test_several_probable_classes_wake_the_specialists_of_all_of_them(confused):
    inside = torch.tensor([[1.0, 1, 0, 0, 0], [0, 0, 1, 1, 0]])
    specialists = [nn.Sequential(nn.Flatten(), nn.Linear(64, 5)) for _ in range(2)]
    x = torch.randn(7, 1, 8, 8)
    with torch.no_grad():
        general = torch.softmax(confused(x), 1)
        parts = [specialized(module(x), one, 1.0) for module, one in zip(specialists, inside, strict=True)]
        for count in (1, 2, 3):
            combined = Combined(confused, specialists, HEAD, inside, torch.ones(2), active_classes=count)
            top = torch.topk(general, count, dim=1).indices
            active = torch.stack([one[top].amax(1) for one in inside], 1)
            expected = combine(
                general, torch.stack([own for own, _ in parts], 1), torch.stack([rest for _, rest in parts], 1), active, inside, steps=60
            )
            torch.testing.assert_close(combined(x).exp(), expected, atol=1e-5, rtol=1e-3)


def test_clusters_of_single_classes_need_no_specialist(world, trained_mlp):
    setting = world(trained_mlp)
    result = apply(setting.network, Specialists(count=5, epochs=1), setting.context)
    assert [event.code for event in setting.of("warning")] == ["no_specialists"]
    x = torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(result.module(x), torch.log_softmax(trained_mlp(x), 1), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("clusters", [[[0, 7]], [[0, 1, 2, 3, 4]]])
def test_clusters_that_do_not_fit_are_refused(world, trained_mlp, clusters):
    setting = world(trained_mlp)
    with pytest.raises(EngineError) as caught:
        apply(setting.network, Specialists(clusters=clusters, epochs=1), setting.context)
    assert caught.value.code == "spec_invalid"


def test_a_cluster_of_one_class_is_refused_before_anything_runs():
    step = {"method": "specialists", "epochs": 1, "clusters": [[0, 1], [2]]}
    spec, problems = parse({"model": "mdl_a", "dataset": "ds_a", "steps": [step]})
    assert spec is None
    assert "clusters[1]" in problems[0].detail
