"""A job that goes on from any of its checkpoints ends with the very weights of an undisturbed one, and repeats no training."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from engine.contract.events import Checkpointed
from engine.contract.job import DRAIN_FILE
from engine.jobs.run import run_job
from engine.methods.learning.spec import Train
from engine.methods.learning.train import apply as train
from engine.methods.pruning.lottery_ticket import apply as find_ticket
from engine.methods.pruning.magnitude_pruning import apply as prune_weights
from engine.methods.pruning.soft_filter_pruning import apply as prune_softly
from engine.methods.pruning.sparse_structure_selection import apply as select_structures
from engine.methods.pruning.spec import LotteryTicket, MagnitudePruning, SoftFilterPruning, SparseStructureSelection, StructuredPruning
from engine.methods.pruning.structured_pruning import apply as prune_channels
from engine.training import checkpoints as module_under_test
from engine.training.checkpoints import Checkpoints
from tests.engine.conftest import cnn
from tests.engine.small import cnn_file, dataset_file, write_job

SPEC = {"steps": "of a test"}


@pytest.fixture
def steps():
    """Counts steps of all optimizers."""
    counted = []
    handle = register_optimizer_step_post_hook(lambda *_: counted.append(1))
    yield counted
    handle.remove()


def lively():
    torch.manual_seed(0)
    network = cnn()
    network.insert(6, nn.Dropout(0.3))
    return network


def training(optimizer):
    return {"iterations": 11, "batch_size": 48, "optimizer": optimizer, "learning_rate": 0.01}


METHODS = {
    "sgd": (train, Train(epochs=3, batch_size=48, optimizer="sgd", schedule="multistep", learning_rate=0.05), 15),
    "everything": (
        train,
        Train(
            epochs=6,
            batch_size=48,
            learning_rate=0.05,
            ema_decay=0.9,
            early_stopping={"patience": 2},
            augment={"flip": "both", "shift": 2, "crop": 0.5, "cutout": 0.3, "mixup": 0.4, "color_jitter": 0.2},
        ),
        None,
    ),
    "rounds": (prune_channels, StructuredPruning(pruning_ratio=0.5, iterations=2, finetune=training("adamw")), 22),
    "ticket": (
        find_ticket,
        LotteryTicket(
            rounds=2,
            rate=0.5,
            training=training("sgd"),
            rewind="iteration",
            rewind_at=2,
            validation_every=4,
            controls=("random_mask",),
            control_repeats=1,
        ),
        38,
    ),
    "soft": (prune_softly, SoftFilterPruning(epochs=3, batch_size=48, learning_rate=0.02, finetune=training("sgd")), 26),
    "selection": (
        select_structures,
        SparseStructureSelection(
            penalty=0.5, iterations=15, batch_size=48, optimizer="sgd", learning_rate=0.05, schedule="constant", finetune=training("adam")
        ),
        26,
    ),
    **{
        f"gradual {importance}": (
            prune_weights,
            MagnitudePruning(sparsity=0.8, schedule="gradual", importance=importance, finetune=training("adam")),
            11,
        )
        for importance in ("magnitude_l1", "taylor", "random")
    },
}


def run(world, tmp_path, method, *, resume=None, seconds=0.0, name="a"):
    """One attempt in a directory of its own; returns the weights, the events and copies of all checkpoints."""
    setting = world(lively())
    copies = []
    directory = tmp_path / name

    def emit(event):
        setting.events.append(event)
        if isinstance(event, Checkpointed):
            copies.append(Path(shutil.copy(directory / event.path, tmp_path / f"{name}-{len(copies)}.zip")))

    setting.context.checkpoints = Checkpoints(directory, SPEC, emit, seconds=seconds)
    if resume is not None:
        setting.context.checkpoints.resume(resume)
    apply, params, _ = METHODS[method] if isinstance(method, str) else method
    weights = apply(setting.network, params, setting.context).module.state_dict()
    setting.context.finished()
    return weights, setting, copies


def same(left, right):
    return list(left) == list(right) and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("method", METHODS)
def test_going_on_from_any_checkpoint_ends_with_the_same_weights(world, tmp_path, steps, method):
    expected, undisturbed, _ = run(world, tmp_path, method, seconds=1e9)
    total = METHODS[method][2] or len(steps)
    assert len(steps) == total
    kept, _, copies = run(world, tmp_path, method, name="b")
    assert same(kept, expected), "saving changes nothing"
    for index in (0, len(copies) // 3, len(copies) - 2, len(copies) - 1):
        steps.clear()
        resumed, setting, _ = run(world, tmp_path, method, resume=copies[index], seconds=1e9, name=f"c{index}")
        assert same(resumed, expected)
        assert len(steps) < total
        assert "Resumed from a checkpoint" in setting.of("log")[0].message
        assert len(setting.of("resumed")) == 1
        assert setting.context.reported == undisturbed.context.reported
        assert setting.context.metrics == undisturbed.context.metrics
    assert not steps, "nothing was left to be trained after the last checkpoint"


def test_a_worker_that_stops_gets_a_checkpoint_at_once_and_only_one(world, tmp_path):
    directory = tmp_path / "a"
    directory.mkdir()
    (directory / DRAIN_FILE).touch()
    _, _, copies = run(world, tmp_path, "sgd", seconds=1e9)
    with zipfile.ZipFile(copies[0]) as archive:
        assert json.loads(archive.read("index.json"))["trainings"]["0-1"]["info"]["iteration"] == 1
    assert len(copies) == 2, "the other one is that of the finished step"


def test_checkpoints_of_other_jobs_and_damaged_ones_are_not_used(world, tmp_path):
    _, _, copies = run(world, tmp_path, "sgd")
    other = tmp_path / "other.zip"
    with zipfile.ZipFile(copies[0]) as source, zipfile.ZipFile(other, "w") as sink:
        for name in source.namelist():
            index = json.loads(source.read(name)) if name == "index.json" else None
            sink.writestr(name, json.dumps(index | {"spec_sha256": "0"}) if index else source.read(name))
    (tmp_path / "cut.zip").write_bytes(copies[0].read_bytes()[:-100])
    for number, file in enumerate((other, tmp_path / "cut.zip")):
        weights, setting, _ = run(world, tmp_path, "sgd", resume=file, seconds=1e9, name=f"d{number}")
        assert [event.code for event in setting.of("warning")] == ["checkpoint_unusable"]
        assert same(weights, run(world, tmp_path, "sgd", seconds=1e9, name=f"e{number}")[0])


def test_a_checkpoint_that_is_on_its_way_stays_whole(tmp_path):
    """A store may read a checkpoint for longer than it takes to write several more, or begin when they were written."""
    found = []
    kept = Checkpoints(tmp_path, SPEC, found.append, seconds=1e9)
    kept.save(0, 1, {"x": torch.zeros(2000)}, {}, done=False, seconds=1.0)
    first = tmp_path / found[0].path
    content = first.read_bytes()
    with first.open("rb") as slow:
        start = slow.read(100)
        for number in range(2, 6):
            kept.save(0, number, {"x": torch.ones(2000)}, {}, done=False, seconds=1.0)
            with zipfile.ZipFile(first) as archive:
                assert archive.testzip() is None
        assert start + slow.read() == content
    assert len(found) == 5


def test_views_and_shared_tensors_are_saved_whole(tmp_path):
    checkpoints = Checkpoints(tmp_path, {}, lambda event: None, seconds=1e9)
    whole = torch.arange(12.0).reshape(3, 4)
    tensors = {
        "whole": whole,
        "again": whole,
        "row": whole[1],
        "turned": whole.T,
        "last": nn.Parameter(torch.ones(2, 3, 4, 4).to(memory_format=torch.channels_last)),
        "one": torch.tensor(3),
        "none": torch.empty(0),
    }
    checkpoints.save(0, 0, tensors, {}, done=True, seconds=1.0)
    found = checkpoints.find(0, 0).tensors()
    assert set(found) == set(tensors)
    assert all(torch.equal(found[name], value) for name, value in tensors.items())


def test_the_quickest_trainings_are_forgotten_first(tmp_path, monkeypatch):
    monkeypatch.setattr(module_under_test, "_MOST_BYTES", 3000)
    found = []
    kept = Checkpoints(tmp_path, SPEC, found.append, seconds=1e9)
    for number, seconds in enumerate((5.0, 1.0, 9.0), 1):
        kept.save(0, number, {"x": torch.zeros(300)}, {}, done=True, seconds=seconds)
    assert [kept.find(0, number) is not None for number in (1, 2, 3)] == [True, False, True]
    assert not found, "a finished training waits for the next checkpoint"
    kept.write()
    kept.write()
    assert len(found) == 1


def test_a_whole_job_goes_on_in_another_directory(tmp_path, steps):
    model, data = cnn_file(tmp_path / "model.onnx"), dataset_file(tmp_path / "data.npz")
    spec = {
        "steps": [
            {"method": "structured_pruning", "pruning_ratio": 0.5, "finetune": {"epochs": 2}},
            {"method": "magnitude_pruning", "sparsity": 0.5, "finetune": {"epochs": 2}},
        ],
        "evaluation": {"latency": {"batch_sizes": [1], "repeats": 5}},
        "export": ["safetensors"],
    }
    copies = []

    def attempt(name, **fields):
        directory = write_job(tmp_path / name, spec, model=model, dataset=data, **fields)
        heard = []

        def emit(event):
            heard.append(event)
            if isinstance(event, Checkpointed) and name == "first":
                assert event.step_index is None, "another attempt goes through every step again"
                copies.append(shutil.copy(directory / event.path, tmp_path / f"{len(copies)}.zip"))

        assert run_job(directory, emit) == 0, heard[-1]
        steps_done = len(steps)
        steps.clear()
        return load_file(directory / "out" / "model.safetensors"), steps_done, heard

    expected, total, _ = attempt("first", checkpoint_seconds=0)
    resumed, left, heard = attempt("second", resume=str(copies[-4]))
    assert same(resumed, expected)
    assert 0 < left < total / 2
    assert any(event.type == "log" and "1 finished training(s), and one at optimizer step" in event.message for event in heard)
