"""What every method promises, held against the whole catalogue: a new method is tested here without being named here."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from engine.contract.events import Checkpointed, Event
from engine.contract.metadata import DatasetMetadata, ModelMetadata
from engine.contract.method import MethodParams, catalogue
from engine.data.loading import load_dataset
from engine.formats.loading import load_network
from engine.methods.context import Context
from engine.methods.step import StepContext
from engine.networks.example_inputs import example_inputs
from engine.networks.network import Network
from engine.training.batches import fingerprint
from engine.training.checkpoints import Checkpoints

HERE = Path(__file__).parents[1] / "methods"
EXAMPLES = [pytest.param(name, example, id=f"{name}-{i}") for name, cls in catalogue().items() for i, example in enumerate(cls.examples)]


@pytest.fixture(params=list(catalogue()))
def method(request: pytest.FixtureRequest) -> type[MethodParams]:
    return catalogue()[request.param]


@pytest.fixture(scope="module")
def uploads(tmp_path_factory: pytest.TempPathFactory, make_residual_network: Any, toy_split: Callable[[int, int], Any]) -> Path:
    """A folder with a residual network in an ONNX file and a dataset in an npz file."""
    folder = tmp_path_factory.mktemp("uploads")
    make_residual_network().write_onnx(folder / "model.onnx")
    arrays = {}
    for name, split in (("train", toy_split(96, 1)), ("test", toy_split(40, 2))):
        arrays |= {f"x_{name}": split.images, f"y_{name}": split.labels}
    np.savez(folder / "data.npz", **arrays)
    return folder


@pytest.fixture
def run(uploads: Path, tmp_path: Path) -> Callable[..., Network]:
    """Runs a step on a network and a dataset that were read from files; counts what it trains and keeps the checkpoints it writes."""

    def run(params: MethodParams, seed: int = 0, *, saving: bool = False, resume: bytes | None = None) -> Network:
        work = tmp_path / f"work-{len(list(tmp_path.iterdir()))}"
        work.mkdir()
        run.copies, run.optimizer_steps = [], 0
        run.events = []

        def emit(event: Event) -> None:
            if isinstance(event, Checkpointed):
                run.copies.append((work / event.path).read_bytes())
            else:
                run.events.append(event)

        checkpoints = Checkpoints(work, {}, emit, seconds=0 if saving else 1e9)
        if resume is not None:
            (work / "resume.zip").write_bytes(resume)
            checkpoints.resume(work / "resume.zip")
        resumed = [event.type for event in run.events]
        assert ("resumed" in resumed) == (resume is not None), "the checkpoint was used"
        run.events.clear()
        network = load_network(uploads / "model.onnx", "onnx", ModelMetadata(), work)
        data = load_dataset(uploads / "data.npz", "npz", DatasetMetadata(), network.signature, work)
        context = Context(
            seed=seed,
            device=torch.device("cpu"),
            work=work,
            emit=emit,
            checkpoints=checkpoints,
            baseline=network,
            data=data,
            load_teacher=lambda _: network,
        )
        run.network = network
        handle = register_optimizer_step_post_hook(count)
        try:
            return params.implementation()(network, params, context.for_step(0, (0.0, 1.0)))
        finally:
            handle.remove()

    def count(*_: Any) -> None:
        run.optimizer_steps += 1

    return run


def test_it_is_described(method: type[MethodParams]) -> None:
    assert method.title
    assert method.__doc__
    assert method.references
    assert all(field.description for name, field in method.model_fields.items() if name != "method")


def test_its_defaults_or_its_examples_are_valid(method: type[MethodParams]) -> None:
    assert method.examples
    for example in method.examples:
        params = method.model_validate(example)
        assert params.wire_name() == example["method"] == method.wire_name()
        assert method.model_validate(params.model_dump(mode="json", exclude_defaults=True)) == params
        written_out = params.model_dump(mode="json")
        assert method.model_validate(written_out) == params, "workers are given the spec with every default written out"


def test_one_documented_function_implements_it(method: type[MethodParams]) -> None:
    apply = method.implementation()
    assert Path(inspect.getfile(apply)).stem == method.wire_name()
    assert inspect.getdoc(apply)
    assert list(inspect.signature(apply).parameters) == ["network", "params", "context"]
    hints = inspect.get_annotations(apply)
    assert hints["params"] in (method, method.__name__)
    assert "Context" in str(hints["context"])
    assert issubclass(Context, StepContext)


def test_it_has_tests_of_its_own(method: type[MethodParams]) -> None:
    assert (HERE / method.family() / f"test_{method.wire_name()}.py").is_file()


@pytest.mark.parametrize(("name", "example"), EXAMPLES)
def test_running_it(run: Any, name: str, example: dict[str, Any], uploads: Path, tmp_path: Path) -> None:
    """Same seed, same network, also when saved or resumed; outputs keep their shape; the given network is left alone."""
    params = catalogue()[name].model_validate(example)
    file = (uploads / "model.onnx").read_bytes()
    first, second = run(params), run(params, saving=True)
    copies, steps = run.copies, run.optimizer_steps
    assert bool(copies) == bool(steps), "what trains is saved"
    inputs = example_inputs(first.signature, 3)
    files = [network.measure(on_file=lambda path: path, on_module=lambda module: None) for network in (first, second)]
    if files[0] is None:
        assert fingerprint(first.module) == fingerprint(second.module)
        if copies:
            assert fingerprint(run(params, resume=copies[len(copies) // 2]).module) == fingerprint(first.module)
            assert run.optimizer_steps < steps
        assert not any(tensor.is_cuda for tensor in first.module.state_dict().values())
        shape = tuple(first.module(*inputs).shape)
    else:
        assert files[1] is not None
        assert files[0].read_bytes() == files[1].read_bytes()
        if copies:
            again = run(params, resume=copies[len(copies) // 2])
            assert again.measure(on_file=lambda path: path.read_bytes(), on_module=lambda module: b"") == files[0].read_bytes()
            assert run.optimizer_steps < steps
        session = ort.InferenceSession(str(files[0]))
        shape = session.run(None, {session.get_inputs()[0].name: inputs[0].numpy()})[0].shape
    assert shape == (3, 5)
    assert first.signature == run.network.signature
    assert (uploads / "model.onnx").read_bytes() == file
    if params.requires.trainable:
        fresh = load_network(uploads / "model.onnx", "onnx", ModelMetadata(), tmp_path)
        assert fingerprint(run.network.module) == fingerprint(fresh.module)
    _check_events(run.events)


def _check_events(events: list[Event]) -> None:
    fractions = [event.fraction for event in events if event.type == "progress"]
    assert fractions == sorted(fractions)
    assert all(0 <= fraction <= 1 for fraction in fractions)
    assert all(event.step_index == 0 for event in events)
    assert any(event.type == "phase" for event in events)
