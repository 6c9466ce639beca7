"""Small networks of every task: trained on its targets, distilled from a teacher, scored; losses equal torch's own."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.contract.errors import EngineError
from engine.contract.heads import Head
from engine.contract.metadata import ModelMetadata
from engine.contract.params import TrainingFields
from engine.formats.onnx.networks import ModuleNetwork
from engine.heads.find import find_heads, outputs_of
from engine.methods.context import Context
from engine.methods.distillation.distillation import apply as distil
from engine.methods.distillation.spec import Distillation
from engine.methods.job_parts import Known
from engine.networks.network import Signature, TensorSpec
from engine.outputs import losses
from engine.outputs.evidence import Column
from engine.tasks import catalogue, task_of

COUNT = 160


@dataclass
class Rows:
    """A split of arrays."""

    inputs: Mapping[str, np.ndarray]
    targets: Mapping[str, np.ndarray]

    @property
    def count(self) -> int:
        return len(next(iter(self.inputs.values())))

    def targets_at(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        return {name: array[indices] for name, array in self.targets.items()}

    def batch(self, indices: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        return {name: array[indices] for name, array in self.inputs.items()}, self.targets_at(indices)


@dataclass
class Splits:
    splits: Mapping[str, Rows]

    def train(self, *, seed: int) -> Rows:
        return self.splits["train"]

    def validation(self, *, seed: int) -> Rows:
        return self.splits["test"]


class Outputs(nn.Module):
    """Several heads on one trunk."""

    def __init__(self, *heads: nn.Module) -> None:
        super().__init__()
        self.trunk, self.heads = nn.Sequential(nn.Linear(8, 24), nn.ReLU()), nn.ModuleList(heads)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        h = self.trunk(x)
        return tuple(head(h) for head in self.heads)


class Tokens(nn.Module):
    """Scores of the next token, or of a class, at every position."""

    def __init__(self, classes: int, last: bool) -> None:
        super().__init__()
        self.table, self.mix, self.scores, self.last = nn.Embedding(9, 16), nn.Linear(16, 16), nn.Linear(16, classes), last

    def forward(self, ids: Tensor) -> Tensor:
        found = self.scores(torch.relu(self.mix(self.table(ids))))
        return found if self.last else found.transpose(1, 2)


class Last(nn.Module):
    """Channels last."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1)


def vector(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(8, 24), nn.ReLU(), *layers)


def image(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), *layers)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(COUNT, *shape)).astype(np.float32)


VECTORS, IMAGES = noise(8), noise(3, 6, 6)
IDS = np.cumsum(np.random.default_rng(1).integers(1, 3, (COUNT, 7)), axis=1) % 9
TURN = np.random.default_rng(5).normal(size=(8, 5)).astype(np.float32)
SCORES = VECTORS @ TURN
PIXELS = IMAGES.reshape(COUNT, 3, 6, 6)

KINDS: dict[str, tuple[Callable[[], nn.Module], np.ndarray, dict[str, np.ndarray], str, dict[str, Any]]] = {
    "classification": (lambda: vector(nn.Linear(24, 5)), VECTORS, {"y": SCORES.argmax(1)}, "top1", {}),
    "classification, softmax": (lambda: vector(nn.Linear(24, 5), nn.Softmax(1)), VECTORS, {"y": SCORES.argmax(1)}, "top1", {}),
    "binary": (lambda: vector(nn.Linear(24, 1)), VECTORS, {"y": SCORES[:, 0] > 0}, "top1", {}),
    "binary, sigmoid": (lambda: vector(nn.Linear(24, 1), nn.Sigmoid()), VECTORS, {"y": (SCORES[:, 0] > 0).astype(int)}, "top1", {}),
    "multi_label": (lambda: vector(nn.Linear(24, 5)), VECTORS, {"y": (SCORES > 0).astype(np.uint8)}, "exact_match", {}),
    "multi_label, sigmoid": (
        lambda: vector(nn.Linear(24, 5), nn.Sigmoid()),
        VECTORS,
        {"y": (SCORES > 0).astype(np.float64)},
        "f1_macro",
        {},
    ),
    "regression": (lambda: vector(nn.Linear(24, 1)), VECTORS, {"y": SCORES[:, 1]}, "r2", {}),
    "regression of several": (lambda: vector(nn.Linear(24, 3)), VECTORS, {"y": SCORES[:, :3]}, "r2", {}),
    "segmentation": (lambda: image(nn.Conv2d(12, 3, 1)), IMAGES, {"y": PIXELS.argmax(1)}, "miou", {}),
    "segmentation, channels last": (lambda: image(nn.Conv2d(12, 3, 1), Last()), IMAGES, {"y": PIXELS.argmax(1)}, "pixel_accuracy", {}),
    "segmentation, yes or no": (lambda: image(nn.Conv2d(12, 1, 1)), IMAGES, {"y": (PIXELS[:, 0] > 0).astype(np.uint8)}, "miou", {}),
    "token_classification": (lambda: Tokens(3, last=True), IDS, {"y": IDS % 3}, "token_accuracy", {}),
    "token_classification, channels first": (lambda: Tokens(3, last=False), IDS, {"y": IDS % 3}, "token_accuracy", {}),
    "causal_lm": (lambda: Tokens(9, last=True), IDS, {}, "token_accuracy", {"task": "causal_lm"}),
    "embedding": (lambda: vector(nn.Linear(24, 4)), VECTORS, {"y": SCORES.argmax(1)}, "recall_at_1", {"task": "embedding"}),
}
REACHED = {"causal_lm": 0.4, "multi_label": 0.5, "embedding": 0.5}
"""The next token is one of two; of five labels every one has to be right."""


def built(kind: str, seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return KINDS[kind][0]().eval()


def context(kind: str, module: nn.Module, tmp_path: Path, *, targets: bool = True) -> Context:
    _, inputs, stored, _, declared = KINDS[kind]
    kept = stored if targets else {}
    name = "ids" if inputs.ndim == 2 and inputs.dtype.kind == "i" else "x"
    parts = {"train": slice(0, 120), "test": slice(120, None)}
    splits = {split: Rows({name: inputs[part]}, {key: array[part] for key, array in kept.items()}) for split, part in parts.items()}
    with torch.no_grad():
        answers = module(torch.from_numpy(inputs))
    signature = Signature(
        (TensorSpec(name, (None, *inputs.shape[1:]), str(inputs.dtype)),), (TensorSpec("out", (None, *answers.shape[1:])),)
    )
    columns = {key: Column.of(key, [array]) for key, array in kept.items()}
    found = find_heads(outputs_of(["out"], [answers.numpy()], {name: inputs}), columns, ModelMetadata.model_validate(declared))
    return Context(
        seed=0,
        device=torch.device("cpu"),
        work=tmp_path,
        emit=lambda event: None,
        baseline=ModuleNetwork(signature, module),
        data=Splits(splits),
        known=lambda: Known(found.heads),
    ).for_step(0, (0.0, 1.0))


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_learns_its_task(kind: str, tmp_path: Path) -> None:
    module = built(kind, 0)
    setting = context(kind, module, tmp_path)
    (head,) = setting.reading()
    metric = KINDS[kind][3]
    assert head.task == kind.split(",", maxsplit=1)[0].split(" ", maxsplit=1)[0]
    assert metric in (*task_of(head).metrics, *task_of(head).more)
    learner = copy.deepcopy(module)
    before = setting.evaluate(learner, "test")[f"test.{metric}"]
    history = setting.train(learner, TrainingFields(iterations=150, learning_rate=2e-2, batch_size=60, weight_decay=0.0))
    after = setting.evaluate(learner, "test")[f"test.{metric}"]
    assert after > max(before, REACHED.get(head.task, 0.7))
    assert history.epochs[-1]["train.loss"] < history.epochs[0]["train.loss"]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "causal_lm"])
def test_a_student_learns_from_the_teacher_alone(kind: str, tmp_path: Path) -> None:
    teacher = built(kind, 0)
    setting = context(kind, teacher, tmp_path, targets=False)
    student = setting.baseline.with_module(built(kind, 1))
    before = setting.evaluate(student.module, "test")
    result = distil(student, Distillation(alpha=1, iterations=150, learning_rate=1e-2, batch_size=60), setting)
    after = setting.evaluate(result.module, "test")
    metric, least = ("test.agreement", 0.8) if "test.agreement" in before else ("test.sqnr_db", 8)
    assert after[metric] > max(before[metric], least)


def test_two_heads_of_different_tasks_are_both_kept(tmp_path: Path) -> None:
    torch.manual_seed(0)
    box = nn.Linear(24, 3)
    teacher = Outputs(nn.Linear(24, 6), box).eval()
    for parameter in teacher.parameters():
        parameter.data *= 2
    box.weight.data *= 100  # in another unit
    with torch.no_grad():
        first, _box = (answer.numpy() for answer in teacher(torch.from_numpy(VECTORS)))
    rows = Rows({"x": VECTORS}, {"y": first.argmax(1)})
    signature = Signature((TensorSpec("x", (None, 8)),), (TensorSpec("first", (None, 6)), TensorSpec("box", (None, 3))))
    setting = Context(
        seed=0,
        device=torch.device("cpu"),
        work=tmp_path,
        emit=lambda event: None,
        baseline=ModuleNetwork(signature, teacher),
        data=Splits({"train": rows, "test": rows}),
    ).for_step(0, (0.0, 1.0))
    assert [head.task for head in setting.reading()] == ["classification", "fidelity"]
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        student.trunk[0].weight[::3] = 0
    before = setting.evaluate(student, "test")
    params = Distillation(alpha=0.5, iterations=300, learning_rate=2e-2, batch_size=80, weight_decay=0.0)
    result = distil(setting.baseline.with_module(student), params, setting)
    figures = setting.evaluate(result.module, "test")
    assert before["test.agreement.first"] < 0.9
    assert figures["test.agreement.first"] > 0.93
    assert figures["test.sqnr_db.box"] > before["test.sqnr_db.box"] + 10
    assert figures["test.top1"] == figures["test.top1.first"]
    assert "test.top1.box" not in figures
    for name in ("sqnr_db", "cosine"):
        assert figures[f"test.{name}"] == min(figures[f"test.{name}.first"], figures[f"test.{name}.box"])


def test_a_head_that_has_been_lost_shows_in_the_overall_value(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Outputs(nn.Linear(24, 6), nn.Linear(24, 4)).eval()
    rows = Rows({"x": VECTORS}, {"y.a": np.arange(COUNT) % 6, "y.b": np.arange(COUNT) % 4})
    signature = Signature((TensorSpec("x", (None, 8)),), (TensorSpec("a", (None, 6)), TensorSpec("b", (None, 4))))
    network = ModuleNetwork(signature, module)
    setting = Context(
        seed=0,
        device=torch.device("cpu"),
        work=tmp_path,
        emit=lambda event: None,
        baseline=network,
        data=Splits({"train": rows, "test": rows}),
    )
    damaged = copy.deepcopy(module)
    damaged.heads[1].weight.data.neg_()
    figures = setting.evaluate(damaged, "test")
    assert figures["test.agreement.a"] == 1
    assert figures["test.agreement"] == figures["test.agreement.b"] < 0.5
    assert figures["test.cross_entropy"] == max(figures["test.cross_entropy.a"], figures["test.cross_entropy.b"])


def head(**fields: Any) -> Head:
    return Head(name="y", indices=(0,), task="classification", **fields)


def test_losses_equal_torchs_own() -> None:
    torch.manual_seed(0)
    scores, target = torch.randn(6, 5, 4, dtype=torch.float64), torch.randint(0, 4, (6, 5))
    dense = head(class_axis=2, scale="logits", ignored=-100)
    expected = functional.cross_entropy(scores.transpose(1, 2), target)
    assert losses.cross_entropy(dense, scores, target, 0.0) == pytest.approx(float(expected))
    ended = head(class_axis=2, scale="probabilities", ignored=-100)
    assert losses.cross_entropy(ended, scores.softmax(2), target, 0.1) == pytest.approx(
        float(functional.cross_entropy(scores.transpose(1, 2), target, label_smoothing=0.1))
    )
    hidden = target.clone()
    hidden[:, 2:] = -100
    kept = functional.cross_entropy(scores[:, :2].flatten(0, 1), target[:, :2].flatten())
    assert losses.cross_entropy(dense, scores, hidden, 0.0) == pytest.approx(float(kept))
    assert losses.cross_entropy(dense, scores, torch.full_like(target, -100), 0.0) == 0
    yes, logits = torch.randint(0, 2, (6,)), torch.randn(6, 1, dtype=torch.float64)
    plain = functional.binary_cross_entropy_with_logits(logits[:, 0], yes.double())
    assert losses.binary_cross_entropy(head(threshold=0, scale="logits"), logits, yes, 0.0) == pytest.approx(float(plain))
    shares = head(threshold=0.5, scale="probabilities")
    assert losses.binary_cross_entropy(shares, logits.sigmoid(), yes, 0.0) == pytest.approx(float(plain), rel=1e-6)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ({"class_axis": 2}, (6, 5, 4)),
        ({"class_axis": 1}, (6, 4, 5)),
        ({"class_axis": 3}, (2, 3, 5, 4)),
        ({"threshold": 0.0}, (6, 3)),
        ({}, (6, 3)),
    ],
)
def test_a_student_like_its_teacher_has_no_loss(kind: dict[str, Any], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    output, other, own = torch.randn(shape), torch.randn(shape), head(**kind)
    for temperature in (1.0, 4.0):
        wanted = losses.softened(own, output, temperature)
        assert float(losses.unlike(own, output, wanted, temperature)) == pytest.approx(0, abs=1e-6)
        assert float(losses.unlike(own, other, wanted, temperature)) > 0.01


def test_positions_weigh_in_distillation_as_they_do_in_training() -> None:
    """The loss of (examples, positions, classes) is that of the positions as examples; a softmax over time would not be."""
    torch.manual_seed(0)
    student, teacher, own = torch.randn(6, 5, 4), torch.randn(6, 5, 4), head(class_axis=2)
    rows = head(class_axis=1)
    expected = losses.unlike(rows, student.flatten(0, 1), losses.softened(rows, teacher.flatten(0, 1), 2.0), 2.0)
    assert float(losses.unlike(own, student, losses.softened(own, teacher, 2.0), 2.0)) == pytest.approx(float(expected))


def test_a_contrast_is_small_where_like_things_are_near() -> None:
    labels = torch.tensor([0, 0, 1, 1, 2])
    near = functional.one_hot(labels, 3).float()
    assert float(losses.contrast(near, labels)) < 1e-3
    assert float(losses.contrast(near, torch.tensor([0, 1, 0, 1, 2]))) > 5
    assert float(losses.contrast(near, torch.arange(5))) == 0


def test_targets_that_fit_nothing_refuse_training_with_the_reason_and_nothing_else(tmp_path: Path) -> None:
    module = built("regression of several", 0)
    rows = Rows({"x": VECTORS}, {"y": SCORES[:, 0]})
    network = ModuleNetwork(Signature((TensorSpec("x", (None, 8)),), (TensorSpec("out", (None, 3)),)), module)
    data = Splits({"train": rows, "test": rows})
    setting = Context(seed=0, device=torch.device("cpu"), work=tmp_path, emit=lambda event: None, baseline=network, data=data)
    assert set(setting.evaluate(module, "test")) == {"test.agreement", "test.cosine", "test.sqnr_db"}
    with pytest.raises(EngineError, match="is for regression") as caught:
        setting.train(module, TrainingFields(iterations=1))
    assert caught.value.code == "shape_mismatch"


def test_every_task_names_metrics_that_are_there() -> None:
    from engine.contract.metric import catalogue as metrics

    for name, task in catalogue().items():
        assert task.name == name
        assert {*task.metrics, *task.more, *([task.risk] if task.risk else [])} <= set(metrics())
        assert task.risk is None or metrics()[task.risk].goal == "min"
