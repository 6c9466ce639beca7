"""Layers inside of a student become like those of its teacher."""

import copy

import pytest
import torch
from torch import nn

from engine.contract.errors import EngineError
from engine.methods.distillation.distillation import apply
from engine.methods.distillation.features import Features, attention_distance
from engine.methods.distillation.spec import Distillation, FeaturePair
from engine.training.batches import Batch


def batch_of(world, module, count=20):
    import numpy as np

    split = world(module).data.splits["train"]
    return Batch.of(split, np.arange(count), ["x"], torch.device("cpu"))


def test_attention_distance_by_its_definition():
    own, wanted = torch.randn(4, 3, 5, 6), torch.randn(4, 7, 5, 6)
    expected = 0.0
    for example in range(4):
        maps = [(item[example] ** 2).mean(0).flatten() for item in (own, wanted)]
        maps = [item / item.norm() for item in maps]
        expected += float((maps[0] - maps[1]).square().sum())
    assert float(attention_distance(own, wanted)) == pytest.approx(expected / 4, rel=1e-5)


def test_a_student_that_is_its_teacher_has_no_loss(world, trained_cnn):
    student, batch = copy.deepcopy(trained_cnn), batch_of(world, trained_cnn)
    pairs = [FeaturePair(student="4", teacher="4", kind=kind) for kind in ("features", "attention")]
    features = Features(student, trained_cnn, pairs, batch, seed=0)
    features.module(*batch.inputs), trained_cnn(*batch.inputs)
    assert features.loss().item() == pytest.approx(0, abs=1e-10)
    features.close()
    assert not student[4]._forward_hooks


def test_widths_are_joined_by_a_projection_and_sizes_by_means(world, trained_cnn):
    student = nn.Sequential(nn.Conv2d(1, 3, 3, stride=2), nn.Flatten(), nn.Linear(27, 5))
    batch = batch_of(world, trained_cnn)
    pair = FeaturePair(student="0", teacher="4", weight=2.0)
    features = Features(student, trained_cnn, [pair], batch, seed=0)
    features.module(*batch.inputs), trained_cnn(*batch.inputs)
    own, wanted = student[0](batch.inputs[0]), trained_cnn[:5](batch.inputs[0])
    pooled = nn.functional.adaptive_avg_pool2d(wanted, (3, 3))
    projected = features.module.projections[0](own.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    expected = 2 * (projected - pooled).square().mean() / wanted.var()
    assert features.loss().item() == pytest.approx(expected.item(), rel=1e-5)


def test_features_are_learned_through_the_projection(world, trained_cnn):
    student = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(192, 5))
    pair = {"student": "0", "teacher": "0", "weight": 5.0}
    setting = world(trained_cnn)
    params = Distillation(feature_layers=[pair], epochs=6, learning_rate=0.01)
    result = apply(setting.network.with_module(student), params, setting.context).module
    records = setting.context.reported["training"]
    assert records[-1]["train.loss"] < 0.5 * records[0]["train.loss"]
    assert [name for name, _ in result.named_parameters()] == [name for name, _ in student.named_parameters()], "no projection is left"


@pytest.mark.parametrize(
    ("pair", "code"),
    [
        ({"student": "9", "teacher": "0"}, "layer_not_found"),
        ({"student": "0", "teacher": "head"}, "layer_not_found"),
        ({"student": "0", "teacher": "7"}, "shape_mismatch"),
        ({"student": "7", "teacher": "7", "kind": "attention"}, "shape_mismatch"),
    ],
)
def test_layers_that_do_not_fit_are_refused(world, trained_cnn, pair, code):
    setting = world(trained_cnn)
    with pytest.raises(EngineError) as caught:
        apply(setting.network, Distillation(feature_layers=[pair], epochs=1), setting.context)
    assert caught.value.code == code
    assert caught.value.hint
