"""The distillation loss equals the paper's limits, and teachers are asked correctly."""

import copy

import pytest
import torch
from torch import nn

from engine.contract.errors import EngineError
from engine.methods.distillation.distillation import apply
from engine.methods.distillation.spec import Distillation
from engine.networks import masks
from engine.networks.masks import Mask
from engine.outputs.losses import distillation_loss
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
