"""The process that scores published files, seen from its parent."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from safetensors.numpy import save_file

from engine.contract.errors import EngineError
from engine.formats.onnx import runtime
from engine.measuring.examiner.client import Examiner
from engine.measuring.examiner.messages import CompareRequest, DigestRequest, ExaminedDataset, ExampleSource, ScoreRequest
from engine.measuring.examples import Batch, RandomExamples
from engine.measuring.outputs import OutputStore, stored_outputs
from engine.networks.network import Signature, TensorSpec
from engine.process.linux import stat_of
from tests.engine.conftest import CLASSES, make_split
from tests.engine.small import IMAGE, cnn_file, dataset_file, save, trained_cnn

SIGNATURE = Signature((TensorSpec("x", (None, *IMAGE)),), (TensorSpec("y", (None, CLASSES)),))


@pytest.fixture(scope="module")
def examiner() -> Iterator[Examiner]:
    with Examiner() as process:
        yield process


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    cnn_file(folder / "first.onnx", trained_cnn(0))
    cnn_file(folder / "second.onnx", trained_cnn(1))
    dataset_file(folder / "data.npz", test=150)
    return folder


def request(folder: Path, file: str, **changes: Any) -> ScoreRequest:
    source = ExampleSource(
        dataset=ExaminedDataset(path=folder / "data.npz", format="npz"),
        signature=changes.pop("signature", SIGNATURE),
        split="test",
        seed=0,
        work=folder / "work",
    )
    if "dataset" in changes:
        source = source.model_copy(update={"dataset": changes.pop("dataset")})
    asked: dict[str, Any] = {
        "file": folder / file,
        "baseline": folder / "first.onnx",
        "outputs": folder / "outputs",
        "source": source,
        "metrics": ("top1", "cross_entropy"),
        "batch_size": 64,
        "threads": 1,
    }
    return ScoreRequest(**asked | changes)


def test_metrics_are_those_of_the_whole_split_whatever_the_batch(examiner: Examiner, folder: Path) -> None:
    images = make_split(150, 2)
    outputs = [ort.InferenceSession(folder / f"{name}.onnx").run(None, {"x": images.images})[0] for name in ("first", "second")]
    scores = [examiner.score(request(folder, f"{name}.onnx", batch_size=size))() for name in ("first", "second") for size in (7, 150)]
    for score, own in zip(scores, (outputs[0], outputs[0], outputs[1], outputs[1]), strict=True):
        found = score.metrics
        assert score.examples_count == 150
        assert found["test.top1"] == pytest.approx((own.argmax(1) == images.labels).mean())
        assert found["test.agreement"] == pytest.approx((own.argmax(1) == outputs[0].argmax(1)).mean())
        shifted = own - own.max(1, keepdims=True)
        loss = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(150), images.labels]
        assert found["test.cross_entropy"] == pytest.approx(loss.mean(), rel=1e-4)
    noise = 10 * np.log10(np.square(outputs[0]).sum() / np.square(outputs[0] - outputs[1]).sum())
    assert scores[2].metrics["test.sqnr_db"] == pytest.approx(noise, rel=1e-3)
    assert scores[0].metrics["test.sqnr_db"] == 200


def test_outputs_that_were_kept_are_the_files(examiner: Examiner, folder: Path) -> None:
    assert stored_outputs(folder / "elsewhere") is None
    examiner.score(request(folder, "first.onnx", outputs=str(folder / "elsewhere")))()
    stored = stored_outputs(folder / "elsewhere")
    assert stored is not None
    (kept,) = stored
    (own,) = ort.InferenceSession(folder / "first.onnx").run(None, {"x": make_split(150, 2).images})
    np.testing.assert_allclose(kept, own, atol=1e-5)


def test_outputs_that_were_not_kept_are_computed_again(examiner: Examiner, folder: Path) -> None:
    kept = examiner.score(request(folder, "second.onnx"))()
    again = examiner.score(request(folder, "second.onnx", outputs=str(folder / "nothing")))()
    assert kept.metrics == pytest.approx(again.metrics)


def test_outputs_that_are_too_large_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.measuring.outputs.MAX_STORED_OUTPUT_BYTES", 100)
    store = OutputStore(tmp_path / "outputs", 10)
    outputs = [np.ones((5, 3), np.float32)]
    assert store.keep(Batch({}, {}, 5), slice(0, 5), outputs) is outputs
    store.close()
    assert not store.complete
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("off", [0.0, 0.25])
def test_a_file_is_compared_with_what_it_is_to_give(examiner: Examiner, folder: Path, tmp_path: Path, off: float) -> None:
    images = make_split(5, 2).images
    (own,) = runtime.run(runtime.open_session(folder / "first.onnx", threads=1), {"x": images})
    np.savez(tmp_path / "inputs.npz", images)
    np.savez(tmp_path / "expected.npz", np.where(np.arange(CLASSES) == 1, own + np.float32(off), own))
    request = CompareRequest(
        file=folder / "first.onnx", names=("x",), inputs=tmp_path / "inputs.npz", expected=tmp_path / "expected.npz", threads=1
    )
    found = examiner.compare(request)()
    assert found.max_abs_difference == pytest.approx(off, abs=1e-6)
    assert found.max_abs_value == pytest.approx(np.abs(own).max(), abs=off + 1e-6)


def test_a_file_that_gives_nan_is_refused(examiner: Examiner, folder: Path) -> None:
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"], "flatten"),
        helper.make_node("MatMul", ["f", "w"], ["p"], "product"),
        helper.make_node("Sqrt", ["p"], ["y"], "root"),
    ]
    weights = {"w": np.random.default_rng(0).standard_normal((64, CLASSES)).astype(np.float32)}
    save(folder / "nan.onnx", nodes, weights, {"x": ["batch", *IMAGE]}, {"y": ["batch", CLASSES]})
    with pytest.raises(EngineError) as caught:
        examiner.score(request(folder, "nan.onnx"))()
    assert caught.value.code == "export_mismatch"
    with pytest.raises(EngineError) as caught:
        examiner.score(request(folder, "nan.onnx", baseline=str(folder / "nan.onnx"), outputs=str(folder / "nan")))()
    assert caught.value.code == "non_finite_outputs"


def test_masked_classes_may_be_infinitely_unlikely(examiner: Examiner, folder: Path) -> None:
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"], "flatten"),
        helper.make_node("MatMul", ["f", "w"], ["p"], "product"),
        helper.make_node("Add", ["p", "mask"], ["y"], "sum"),
    ]
    weights = {
        "w": np.random.default_rng(0).standard_normal((64, CLASSES)).astype(np.float32),
        "mask": np.float32([0, 0, 0, 0, -np.inf]),
    }
    save(folder / "mask.onnx", nodes, weights, {"x": ["batch", *IMAGE]}, {"y": ["batch", CLASSES]})
    asked = request(folder, "mask.onnx", baseline=str(folder / "mask.onnx"), outputs=str(folder / "mask"))
    found = examiner.score(asked)().metrics
    assert found["test.agreement"] == 1
    assert 0 < found["test.top1"] < 1
    assert found["test.sqnr_db"] == 200
    assert "test.cross_entropy" not in found


def test_targets_that_fit_no_output_are_left_out_with_the_reason(examiner: Examiner, folder: Path) -> None:
    save(folder / "image.onnx", [helper.make_node("Abs", ["x"], ["y"], "abs")], {}, {"x": ["batch", *IMAGE]}, {"y": ["batch", *IMAGE]})
    same = {"baseline": str(folder / "image.onnx"), "outputs": str(folder / "image")}
    score = examiner.score(request(folder, "image.onnx", **same))()
    assert set(score.metrics) == {"test.sqnr_db", "test.cosine"}
    assert score.heads[0].task == "fidelity"
    assert "not one class number for every place" in score.unused_targets["y"]


def test_a_damaged_file_is_an_error_and_the_process_goes_on(examiner: Examiner, folder: Path) -> None:
    (folder / "broken.onnx").write_bytes((folder / "first.onnx").read_bytes()[:500])
    with pytest.raises(EngineError) as caught:
        examiner.score(request(folder, "broken.onnx"))()
    assert caught.value.code == "model_invalid"
    assert examiner.score(request(folder, "first.onnx"))().examples_count == 150


def test_answers_come_back_to_their_questions(examiner: Examiner, folder: Path) -> None:
    asked = [examiner.score(request(folder, f"{name}.onnx")) for name in ("first", "second", "first")]
    second, first, last = asked[1](), asked[0](), asked[2]()
    assert first.metrics == last.metrics != second.metrics


def test_tensors_are_told_by_their_bytes(examiner: Examiner, tmp_path: Path) -> None:
    save_file({"a": np.float32([1, 2]), "b": np.float32([1, np.nextafter(np.float32(2), np.float32(3))])}, tmp_path / "t.safetensors")
    digests = examiner.digest(DigestRequest(file=tmp_path / "t.safetensors", format="safetensors"))()
    assert digests["a"].shape == digests["b"].shape == (2,)
    assert digests["a"].sha256 != digests["b"].sha256


def test_a_killed_process_is_a_sentence() -> None:
    with Examiner() as process:
        process._process.send_signal(signal.SIGKILL)
        process._process.wait(10)
        with pytest.raises(EngineError) as caught:
            process.digest(DigestRequest(file=Path("x"), format="safetensors"))()
        assert (caught.value.code, caught.value.category, caught.value.retryable) == ("child_killed", "transient", True)


def test_a_crashed_process_tells_by_which_signal() -> None:
    with Examiner() as process:
        process._process.send_signal(signal.SIGBUS)
        process._process.wait(10)
        with pytest.raises(EngineError) as caught:
            process.digest(DigestRequest(file=Path("x"), format="safetensors"))()
        assert (caught.value.code, caught.value.details) == ("runtime_crashed", {"signal": signal.SIGBUS})


def test_an_answer_that_fails_is_an_error_and_the_process_goes_on(examiner: Examiner, tmp_path: Path) -> None:
    with pytest.raises(EngineError) as caught:
        examiner.digest(DigestRequest(file=tmp_path / "nothing", format="safetensors"))()
    assert (caught.value.code, caught.value.category) == ("internal_error", "internal")
    test_tensors_are_told_by_their_bytes(examiner, tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's; elsewhere the closed input ends the process")
def test_it_dies_with_its_parent(tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from engine.measuring.examiner.client import Examiner\n"
        "from engine.measuring.examiner.messages import DigestRequest\n"
        "e = Examiner()\n"
        "try: e.digest(DigestRequest(file='x', format='safetensors'))()\n"
        "except Exception: pass\n"
        "print(e._process.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=Path(__file__).parents[4]) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    for _ in range(100):
        if not _runs(child):
            return
        time.sleep(0.05)
    raise AssertionError(f"process {child} lives on")


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return stat_of(pid)[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_random_inputs_fit_names_types_and_shared_dimensions(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Transpose", ["state"], ["turned"], "turn", perm=[1, 0, 2]),
        helper.make_node("ReduceSum", ["turned"], ["flat"], "flat", keepdims=0, noop_with_empty_axes=0),
        helper.make_node("ReduceMean", ["x"], ["mean"], "mean", axes=[1], keepdims=1),
        helper.make_node("Cast", ["rate"], ["floating"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Add", ["mean", "floating"], ["sum"], "sum"),
        helper.make_node("Add", ["sum", "flat"], ["y"], "all"),
    ]
    inputs = {"x": ["batch", "time"], "state": [2, "batch", 3], "rate": (TensorProto.INT64, [])}
    session = runtime.open_session(save(tmp_path / "net.onnx", nodes, {}, inputs, {"y": ["batch", 1]}), threads=1)
    examples = RandomExamples(session, seed=0)
    batches = list(examples.batches(48))
    assert [batch.count for batch in batches] == [48, 16]
    assert batches[0].feed["x"].shape[0] == 48
    assert batches[0].feed["state"].shape == (2, 48, 3)
    assert batches[0].feed["rate"].dtype == np.int64
    assert all(np.array_equal(a.feed["x"], b.feed["x"]) for a, b in zip(batches, examples.batches(48), strict=True))
    alone = list(examples.batches(1))
    assert np.array_equal(np.concatenate([batch.feed["x"] for batch in alone]), np.concatenate([batch.feed["x"] for batch in batches]))
    assert np.array_equal(np.concatenate([batch.feed["state"] for batch in alone[:48]], axis=1), batches[0].feed["state"])
    other = next(iter(RandomExamples(session, seed=1).batches(48)))
    assert not np.array_equal(batches[0].feed["x"], other.feed["x"])


def test_open_dimensions_get_a_size_that_runs(tmp_path: Path) -> None:
    shape = np.array([0, 2, 112], np.int64)
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"], "reshape")]
    path = save(tmp_path / "net.onnx", nodes, {"shape": shape}, {"x": ["batch", "length"]}, {"y": ["batch", 2, 112]})
    feed = RandomExamples(runtime.open_session(path, threads=1), seed=0).feed(5)
    assert feed["x"].shape == (5, 224)


def test_open_dimensions_get_the_size_that_the_owner_states(tmp_path: Path) -> None:
    """An uploaded file is tried with the shapes of `input_specs`, as everything that is made of it is."""
    nodes = [helper.make_node("Relu", ["x"], ["y"], "relu")]
    path = save(tmp_path / "net.onnx", nodes, {}, {"x": ["batch", "height", "width"]}, {"y": ["batch", "height", "width"]})
    signature = Signature((TensorSpec("x", (None, 48, None)),), (TensorSpec("y", (None, 48, None)),))
    assert RandomExamples(runtime.open_session(path, threads=1), seed=0, signature=signature).feed(5)["x"].shape == (5, 48, 64)
