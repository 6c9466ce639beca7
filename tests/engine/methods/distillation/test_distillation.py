"""The distillation losses equal the papers' formulas and limits, and teachers are asked correctly."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from engine.contract.errors import EngineError
from engine.contract.spec import parse
from engine.methods.distillation.distillation import apply
from engine.methods.distillation.spec import Distillation
from engine.networks import masks
from engine.networks.masks import Mask
from engine.networks.network import Signature, TensorSpec
from engine.outputs.losses import distillation_loss
from engine.outputs.matching import centered, decoupled, matched_decisions, matched_logits
from engine.training.batches import Batch


def soft(teacher, temperature):
    return torch.softmax(teacher / temperature, dim=1)


def gradient(student, teacher, temperature):
    student = student.clone().requires_grad_()
    distillation_loss(student, soft(teacher, temperature), temperature).backward()
    return student.grad


@pytest.fixture
def logits():
    generator = torch.Generator().manual_seed(0)
    return 3 * torch.randn(16, 10, generator=generator, dtype=torch.float64), 3 * torch.randn(
        16, 10, generator=generator, dtype=torch.float64
    )


def test_high_temperature_is_logit_matching(logits):
    """Section 2.1: for T much larger than the logits, classes · T² · dC/dz is the difference of the zero-mean logits."""
    student, teacher = logits
    expected = (student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    got = 10 * len(student) * gradient(student, teacher, 1000.0)
    assert float((got - expected).norm() / expected.norm()) < 0.01


def test_the_gradient_keeps_its_size_when_the_temperature_changes(logits):
    student, teacher = logits
    norms = [float(gradient(student, teacher, temperature).norm()) for temperature in (2.0, 5.0, 10.0, 50.0)]
    assert max(norms) / min(norms) < 3


def test_loss_is_a_mean_over_examples_not_over_classes(logits):
    student, teacher = logits
    rows = [float(distillation_loss(student[i : i + 1], soft(teacher[i : i + 1], 4.0), 4.0)) for i in range(len(student))]
    assert float(distillation_loss(student, soft(teacher, 4.0), 4.0)) == pytest.approx(sum(rows) / len(rows))
    p, q = soft(teacher, 4.0), torch.log_softmax(student / 4.0, 1)
    assert float(distillation_loss(student, p, 4.0)) == pytest.approx(float(16 * (p * (p.log() - q)).sum(1).mean()))


def test_a_perfect_student_has_no_loss_and_no_gradient(logits):
    teacher = logits[1]
    assert float(distillation_loss(teacher, soft(teacher, 3.0), 3.0)) == pytest.approx(0, abs=1e-12)
    assert float(gradient(teacher, teacher, 3.0).abs().max()) < 1e-12


def test_student_comes_closer_to_the_teacher_without_labels(world, trained_mlp):
    student = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 5))
    setting = world(trained_mlp)
    setting.data.splits["train"].labels = None
    network = setting.network.with_module(student)
    params = Distillation(alpha=1, temperature=4.0, epochs=6, learning_rate=5e-3)
    result = apply(network, params, setting.context)
    stages = setting.context.reported["stages"]
    assert stages[1]["test.agreement"] > stages[0]["test.agreement"] + 0.2
    assert result.signature is network.signature


def test_alpha_zero_is_plain_training(world, trained_mlp):
    params = Distillation(alpha=0, iterations=4, optimizer="sgd")
    setting, plain = world(trained_mlp), world(trained_mlp)
    distilled = apply(setting.network, params, setting.context).module
    trained = copy.deepcopy(trained_mlp)
    plain.context.train(trained, params)
    for left, right in zip(distilled.parameters(), trained.parameters(), strict=True):
        torch.testing.assert_close(left, right)


def test_an_ensemble_is_the_mean_of_softened_probabilities(world, trained_mlp, monkeypatch):
    other = copy.deepcopy(trained_mlp)
    with torch.no_grad():
        other[5].weight.neg_()
    setting = world(trained_mlp, teachers={"mdl_2": other})
    seen = []

    def record(logits, teacher, temperature):
        seen.append(teacher)
        return logits.sum() * 0

    monkeypatch.setattr("engine.outputs.losses.distillation_loss", record)
    apply(
        setting.network,
        Distillation(teacher=("baseline", "mdl_2"), alpha=1, iterations=1, temperature=2.0, batch_size=200),
        setting.context,
    )
    images = setting.data.splits["train"].images
    with torch.no_grad():
        x = torch.from_numpy(images)
        expected = (soft(trained_mlp(x), 2.0) + soft(other(x), 2.0)) / 2
    torch.testing.assert_close(seen[0].sum(0), expected.sum(0))
    torch.testing.assert_close(seen[0].sort(0).values, expected.sort(0).values)


def test_the_teacher_is_asked_once_an_example_in_evaluation_mode(world, trained_mlp):
    calls = []

    class Teacher(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = trained_mlp
            self.drop = nn.Dropout(0.9)

        def forward(self, x):
            assert not self.training
            assert not torch.is_grad_enabled()
            Teacher.seen += len(x)
            return self.drop(self.body(x))

    Teacher.seen = 0
    setting = world(trained_mlp, teachers={"mdl_t": Teacher().train()})
    apply(setting.network, Distillation(teacher="mdl_t", epochs=3), setting.context)
    assert Teacher.seen == 200 + 32, "200 examples once, and the probe"
    assert not calls


def test_masks_hold_through_distillation(world, trained_mlp):
    module = copy.deepcopy(trained_mlp)
    masks.hold(module, {"1.weight": Mask(module[1].weight.detach() > 0)})
    setting = world(trained_mlp)
    result = apply(setting.network.with_module(module), Distillation(epochs=1, optimizer="sgd", weight_decay=0.1), setting.context)
    assert torch.equal(masks.fold(result.module)[1].weight == 0, masks.fold(module)[1].weight == 0)


@pytest.mark.parametrize(
    "teacher", [nn.Sequential(nn.Flatten(), nn.Linear(64, 7)), nn.Sequential(nn.Flatten(), nn.Linear(100, 5))], ids=["classes", "inputs"]
)
def test_a_teacher_that_does_not_fit_is_refused(world, trained_mlp, teacher):
    setting = world(trained_mlp, teachers={"mdl_t": teacher})
    with pytest.raises(EngineError) as caught:
        apply(setting.network, Distillation(teacher="mdl_t", epochs=1), setting.context)
    assert caught.value.code == "shape_mismatch"


def test_labels_are_demanded_only_when_they_are_used(world, trained_mlp):
    setting = world(trained_mlp)
    setting.data.splits["train"].labels = None
    with pytest.raises(EngineError, match="needs targets"):
        apply(setting.network, Distillation(alpha=0.9, epochs=1), setting.context)


def test_batches_keep_their_places(world, trained_mlp):
    import numpy as np

    split = world(trained_mlp).data.splits["train"]
    batch = Batch.of(split, np.array([5, 3]), ["x"], torch.device("cpu"))
    assert torch.equal(batch.inputs[0], torch.from_numpy(split.images[[5, 3]]))
    assert batch.stored["y"].tolist() == split.labels[[5, 3]].tolist()


def test_matching_logits_is_the_limit_of_high_temperatures(logits):
    student, teacher = (item.clone().requires_grad_() for item in logits)
    limit = matched_logits(student, centered(teacher.detach()))
    limit.backward()
    assert float(distillation_loss(student.detach(), soft(teacher.detach(), 1000.0), 1000.0)) == pytest.approx(limit.item(), rel=0.01)
    far = gradient(student.detach(), teacher.detach(), 1000.0)
    assert float((student.grad - far).norm() / far.norm()) < 0.01
    assert matched_logits(student + 3, centered(teacher.detach() - 7)).item() == pytest.approx(limit.item()), "constants do not count"


def test_matching_decisions_is_the_limit_of_high_temperatures(logits):
    student, teacher = logits
    p, q = torch.sigmoid(teacher / 1000), torch.sigmoid(student / 1000)
    divergence = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
    assert float(matched_decisions(student, teacher)) == pytest.approx(1e6 * float(divergence), rel=0.01)


def test_decoupled_divergence_by_its_definition(logits):
    student, teacher = logits
    target, temperature = torch.arange(16) % 10, 3.0
    p, q = soft(teacher, temperature), soft(student, temperature)
    rows = torch.arange(16)
    expected = 0.0
    for row in range(16):
        t = target[row]
        others = [i for i in range(10) if i != t]
        both = [torch.stack([x[row, t], 1 - x[row, t]]) for x in (p, q)]
        rest = [x[row, others] / x[row, others].sum() for x in (p, q)]
        expected += sum(w * float((a * (a / b).log()).sum()) for w, (a, b) in zip((0.7, 5.0), (both, rest), strict=True))
    got = decoupled(student, p, target, temperature, (0.7, 5.0))
    assert float(got) == pytest.approx(temperature**2 * expected / 16)
    weights = 1 - p[rows, target]
    parts = [decoupled(student[i : i + 1], p[i : i + 1], target[i : i + 1], temperature, (1.0, float(weights[i]))) for i in range(16)]
    assert float(torch.stack(parts).mean()) == pytest.approx(float(distillation_loss(student, p, temperature)))
    assert float(decoupled(student, p, torch.where(rows < 4, -1, target), temperature, (0.7, 5.0))) == pytest.approx(
        float(decoupled(student[4:], p[4:], target[4:], temperature, (0.7, 5.0)))
    )


def test_decoupled_divergence_of_a_sure_teacher_is_finite():
    student, teacher = torch.zeros(1, 3, requires_grad=True), torch.tensor([[90.0, 0.0, -5.0]])
    value = decoupled(student, soft(teacher, 1.0), torch.tensor([0]), 1.0, (1.0, 8.0))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("weights", [(), (1.0, 3.0)])
def test_ensembles_are_means_of_probabilities_or_of_logits(world, trained_mlp, monkeypatch, weights):
    other = copy.deepcopy(trained_mlp)
    with torch.no_grad():
        other[5].weight.neg_()
    shares = [w / sum(weights) for w in weights] or [0.5, 0.5]
    seen = []
    monkeypatch.setattr("engine.outputs.losses.distillation_loss", lambda logits, teacher, _: (seen.append(teacher), logits.sum() * 0)[1])
    for ensemble in ("arithmetic", "geometric"):
        setting = world(trained_mlp, teachers={"mdl_2": other})
        params = Distillation(
            teacher=("baseline", "mdl_2"),
            ensemble=ensemble,
            teacher_weights=weights,
            alpha=1,
            iterations=1,
            temperature=2.0,
            batch_size=200,
        )
        apply(setting.network, params, setting.context)
        x = torch.from_numpy(setting.data.splits["train"].images)
        with torch.no_grad():
            a, b = trained_mlp(x), other(x)
        mean = shares[0] * soft(a, 2.0) + shares[1] * soft(b, 2.0)
        expected = mean if ensemble == "arithmetic" else soft(shares[0] * a + shares[1] * b, 2.0)
        torch.testing.assert_close(seen[-1].sort(0).values, expected.sort(0).values, atol=1e-5, rtol=1e-4)


def test_stored_logits_teach_what_their_network_teaches(world, trained_mlp):
    results = []
    for stored in (False, True):
        setting = world(trained_mlp, teachers={"mdl_t": copy.deepcopy(trained_mlp)})
        split = setting.data.splits["train"]
        student = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
        with torch.no_grad():
            student[1].weight.zero_(), student[1].bias.zero_()
            answers = trained_mlp(torch.from_numpy(split.images)).numpy()
        if stored:
            split.extra = {"y.big": answers}
        params = Distillation(teacher="logits:big" if stored else "mdl_t", epochs=2)
        results.append(apply(setting.network.with_module(student), params, setting.context).module[1].weight)
    torch.testing.assert_close(*results, atol=1e-6, rtol=1e-5)


def test_stored_logits_that_are_missing_are_named(world, trained_mlp):
    setting = world(trained_mlp)
    with pytest.raises(EngineError, match=r"y\.big") as caught:
        apply(setting.network, Distillation(teacher="logits:big", epochs=1), setting.context)
    assert caught.value.code == "dataset_invalid"


def test_teacher_and_student_see_the_same_augmented_tensor(world):
    seen = {"teacher": [], "student": []}

    class Spy(nn.Module):
        def __init__(self, role):
            super().__init__()
            self.role, self.head = role, nn.Linear(64, 5)

        def forward(self, x):
            if self.role == "teacher" or self.training:
                seen[self.role].append(x.clone())
            return self.head(x.flatten(1))

    setting = world(Spy("student"), teachers={"mdl_t": Spy("teacher")})
    params = Distillation(teacher="mdl_t", epochs=2, batch_size=100, augment={"shift": 2, "flip": "both", "mixup": 0.5})
    apply(setting.network, params, setting.context)
    taught = seen["teacher"][1:]  # the first time, its shapes were looked at
    assert len(taught) == len(seen["student"]) == 4, "asked each time, as the pictures are others each time"
    assert all(torch.equal(one, two) for one, two in zip(taught, seen["student"], strict=True))


def test_a_new_architecture_is_trained_and_put_behind_a_resize(world, trained_mlp):
    setting = world(trained_mlp)
    params = Distillation(student={"name": "lenet_300_100", "params": {"image_size": 8}}, epochs=2)
    result = apply(setting.network, params, setting.context)
    assert result.module(torch.zeros(3, 1, 8, 8)).shape == (3, 5)
    assert setting.context.reported["student"] == params.student
    small = nn.Sequential(nn.Flatten(), nn.Linear(16, 5))
    setting = world(trained_mlp)
    signature = Signature((TensorSpec("x", (None, 1, 4, 4)),), (TensorSpec("y", (None, 5)),))
    setting.context.load_teacher = lambda name: type(setting.network)(signature, small)
    resized = apply(setting.network, Distillation(student="mdl_s", iterations=1, learning_rate=1e-9), setting.context).module
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(resized(x), small(functional.avg_pool2d(x, 2)), atol=1e-6, rtol=1e-4)


def test_a_teacher_of_another_size_and_normalization_gets_its_own(world, trained_mlp):
    seen = []

    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(16, 5)

        def forward(self, x):
            seen.append(x)
            return self.head(x.flatten(1))

    signature = Signature((TensorSpec("x", (None, 1, 4, 4)),), (TensorSpec("y", (None, 5)),))
    setting = world(trained_mlp)
    setting.context.load_teacher = lambda name: type(setting.network)(signature, Small())
    with pytest.raises(EngineError, match="4×4") as caught:
        apply(setting.network, Distillation(teacher="mdl_t", epochs=1), setting.context)
    assert "teacher_preprocessing" in caught.value.hint
    params = Distillation(teacher="mdl_t", iterations=1, teacher_preprocessing={"scale": 2.0, "mean": 0.5, "std": 0.25})
    apply(setting.network, params, setting.context)
    x = torch.from_numpy(setting.data.splits["train"].images[:32])
    torch.testing.assert_close(seen[0], functional.avg_pool2d((2 * x - 0.5) / 0.25, 2), atol=1e-4, rtol=1e-4)


def test_the_baseline_on_hard_labels_is_the_same_student_trained_on_labels(world, trained_mlp):
    student = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    setting, plain = world(trained_mlp), world(trained_mlp)
    params = Distillation(epochs=2, baselines=["hard_labels"])
    apply(setting.network.with_module(copy.deepcopy(student)), params, setting.context)
    alone = copy.deepcopy(student)
    plain.context.train(alone, params)
    rows = {row["network"]: row for row in setting.context.reported["compared"]}
    assert rows["hard labels"]["test.top1"] == plain.context.evaluate(alone, "test")["test.top1"]
    assert set(rows) == {"teacher baseline", "student", "hard labels"}
    assert len(setting.context.reported["training"]) == 2, "the baseline leaves no trace in the series"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher": "logits:big", "augment": {"shift": 1}}, "as they are"),
        ({"ensemble": "geometric"}, "name several"),
        ({"target_weight": 2.0}, "target_weight belong to loss: dkd"),
        ({"teacher": ["baseline", "mdl_2"], "teacher_weights": [1.0]}, "1 numbers for 2"),
        ({"teacher": ["baseline", "mdl_2"], "feature_layers": [{"student": "1", "teacher": "1"}]}, "exactly one teacher"),
        ({"loss": "dkd", "augment": {"mixup": 1.0}}, "mixed examples"),
        ({"class_prior": [0.5, 0.5]}, "prior_match"),
        ({"bias_correction": "prior_match", "class_prior": [0.5, 0.4]}, "0.9"),
        ({"teacher": "network", "alpha": 1}, "nothing to learn"),
        ({"student": "lenet_6"}, "not builtin"),
    ],
)
def test_specs_that_contradict_themselves_are_refused(change, message):
    step = {"method": "distillation", "epochs": 1, **change}
    spec, problems = parse({"model": "mdl_a", "dataset": "ds_a", "steps": [step]})
    assert spec is None
    assert message in problems[0].detail


def test_uploaded_students_are_fetched_like_teachers():
    assert Distillation(teacher=("baseline", "mdl_2"), student="mdl_3", epochs=1).teachers() == ("mdl_2", "mdl_3")
