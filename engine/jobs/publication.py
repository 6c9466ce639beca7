"""From a network in memory to files that were verified: export, read back in a fresh process, score, compare, time."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from engine.contract.errors import EngineError
from engine.formats import export_onnx, export_safetensors
from engine.formats.onnx import runtime
from engine.formats.onnx.notes import has_notes, remove_notes
from engine.formats.onnx.runtime import Feed
from engine.jobs.inputs import Subject
from engine.jobs.recorder import sha256_of
from engine.measuring.counting import count_onnx
from engine.measuring.examiner.client import Examiner
from engine.measuring.examples import RandomExamples, SplitExamples
from engine.measuring.measurement import file_sizes
from engine.networks.network import Network

COMPARED_EXAMPLES = 16
ABSOLUTE_TOLERANCE, RELATIVE_TOLERANCE = 1e-4, 1e-3
"""An exported float network may differ from the one in memory by 1e-4 plus a thousandth of its largest output: other kernels
add up in another order, which costs some 1e-6; a wrong operator costs far more."""

HALF_TOLERANCE = 1e-2
"""The same for weights stored in half precision: what the exporter folds into a weight is rounded once more."""


@dataclass(frozen=True)
class PublishedFile:
    """A verified file that the job publishes."""

    path: Path
    format: str
    sha256: str
    file_bytes: int
    gzip_bytes: int
    metrics: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Publication:
    """The files of one state, and what was measured on them."""

    step_index: int
    runnable: Path
    """The file that was scored and timed; among `files` where ONNX is published."""
    files: list[PublishedFile]
    score: dict[str, Any]
    latencies: list[dict[str, Any]]
    counts: dict[str, int]


def publish(
    network: Network,
    step_index: int,
    subject: Subject,
    examiner: Examiner,
    directory: Path,
    *,
    score: dict[str, Any] | None,
    enter: Callable[[str], None],
) -> Publication:
    """Write, verify and time the files of one state.

    Args:
        network: The state.
        step_index: The step that it came out of.
        subject: The job's inputs.
        examiner: A process that has never seen the network.
        directory: Receives the files.
        score: What the examiner said about `network.onnx_path` already, if it was asked.
        enter: Called with the name of each phase.

    Raises:
        EngineError: `export_mismatch` where a file does not say what the network says.
    """
    enter("exporting")
    directory.mkdir(parents=True, exist_ok=True)
    formats = dict.fromkeys(subject.spec.export)
    runnable = directory / "model.onnx" if "onnx" in formats else subject.work / f"measured_{step_index}.onnx"
    plain = _plain(network)
    if network.onnx_path is not None:
        _copy(network.onnx_path, runnable)
    else:
        export_onnx(plain, runnable)
    if "safetensors" in formats:
        _export_tensors(plain, directory / "model.safetensors")
    enter("verifying")
    if network.onnx_path is None:
        _compare(plain, runnable, subject, examiner)
    if "safetensors" in formats:
        _compare_tensors(plain, directory / "model.safetensors", examiner)
    if score is None:
        score = examiner.ask("score", **subject.request(runnable))()
    enter("measuring")
    latency = subject.spec.evaluation.latency
    request = {**subject.request(runnable), "result": str(runnable), "threads": latency.threads}
    latencies = examiner.ask("latency", **request, batch_sizes=latency.batch_sizes, repeats=latency.repeats)()
    files = [_file(directory / f"model.{format}", format, score["metrics"] if format == "onnx" else {}) for format in formats]
    # The exporter folds normalizations into the layers before them: what is counted is what is in the file.
    counts = asdict(count_onnx(runnable, score["shapes"])) if "onnx" in formats else subject.count(plain, score["shapes"])
    return Publication(step_index, runnable, files, score, latencies, counts)


def _copy(source: Path, target: Path) -> None:
    """A file that is published as it stands, but for the notes that its exporter made on the graph."""
    model = onnx.load(source)
    if has_notes(model):
        onnx.save_model(remove_notes(model), str(target))
    else:
        shutil.copyfile(source, target)


def _file(path: Path, format: str, metrics: dict[str, Any]) -> PublishedFile:
    return PublishedFile(path, format, sha256_of(path), metrics=metrics, **file_sizes(path))


def _plain(network: Network) -> Network:
    """The network without the masks and parametrizations that held it during training, on the CPU."""
    if network.onnx_path is not None:
        return network
    from engine.formats.onnx.export import as_stored

    return network.with_module(as_stored(network))


def _compare(network: Network, file: Path, subject: Subject, examiner: Examiner) -> None:
    """The exported file against the module in memory, on the same inputs."""
    feed = _some_inputs(subject, file)
    inputs, expected = subject.work / "compared_inputs.npz", subject.work / "compared_outputs.npz"
    np.savez(inputs, *feed.values())
    np.savez(expected, *_module_outputs(network, feed))
    said = examiner.ask(
        "compare", file=str(file), names=list(feed), inputs=str(inputs), expected=str(expected), threads=subject.job.threads
    )()
    difference, scale = said["max_abs_difference"], said["max_abs_value"]
    relative = HALF_TOLERANCE if network.weights_type == "float16" else RELATIVE_TOLERANCE
    if difference is None or difference > ABSOLUTE_TOLERANCE + relative * scale:
        raise EngineError(
            "export_mismatch",
            f"The exported file differs from the network by {difference} where outputs are up to {scale:.4g}; it is not published.",
            hint="Please report this with the spec; another export format may work.",
            category="internal",
            details=said,
        )


def _some_inputs(subject: Subject, file: Path) -> Feed:
    session = runtime.open_session(file, threads=subject.job.threads)
    if subject.data is None:
        return next(
            iter(RandomExamples(session, seed=subject.spec.seed, signature=subject.baseline.signature).batches(COMPARED_EXAMPLES))
        ).feed
    split = subject.data.splits[subject.split]
    return next(iter(SplitExamples(subject.split, split, session).batches(min(COMPARED_EXAMPLES, split.count)))).feed


def _module_outputs(network: Network, feed: Feed) -> list[NDArray[Any]]:
    import torch

    with torch.no_grad():
        given = [torch.from_numpy(np.require(feed[tensor.name], requirements=("C", "W"))) for tensor in network.signature.inputs]
        outputs = network.module(*given)
    return [output.numpy() for output in ([outputs] if isinstance(outputs, torch.Tensor) else outputs)]


def _export_tensors(network: Network, path: Path) -> None:
    """The state dict of the module; of a quantized graph its constants: 8-bit weights, scales and zero-points by their names."""
    if network.onnx_path is None:
        export_safetensors(network, path)
        return
    from safetensors.numpy import save_file

    graph = onnx.load(network.onnx_path).graph
    save_file({item.name: np.asarray(onnx.numpy_helper.to_array(item), order="C") for item in graph.initializer}, path)


def _compare_tensors(network: Network, file: Path, examiner: Examiner) -> None:
    """The safetensors file against the weights in memory, bit for bit."""
    stored: Mapping[str, list[Any]] = examiner.ask("tensors", file=str(file))()
    expected, aliases = _digests(network)
    missing = {name for name in expected if name not in stored and aliases.get(name, name) not in stored}
    wrong = sorted(missing | (set(stored) - set(expected)) | {name for name in stored if stored[name] != expected.get(name)})
    if wrong:
        raise EngineError(
            "export_mismatch",
            f"The safetensors file does not hold the network's weights: {', '.join(wrong[:5])} differ.",
            category="internal",
        )


def _digests(network: Network) -> tuple[dict[str, list[Any]], dict[str, str]]:
    """Shape and sha256 of the bytes of each tensor, and for a tensor that shares its memory with another one, that one's name."""
    arrays: dict[str, NDArray[Any]]
    if network.onnx_path is not None:
        graph = onnx.load(network.onnx_path).graph
        arrays, owners = {item.name: onnx.numpy_helper.to_array(item) for item in graph.initializer}, {}
    else:
        import torch

        state = network.module.state_dict()
        arrays = {name: tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy() for name, tensor in state.items()}
        owners = _owners({name: tensor.data_ptr() for name, tensor in state.items() if tensor.numel()})
        shapes = {name: list(tensor.shape) for name, tensor in state.items()}
        return {name: [shapes[name], _digest(array)] for name, array in arrays.items()}, owners
    return {name: [list(array.shape), _digest(array)] for name, array in arrays.items()}, owners


def _owners(addresses: Mapping[str, int]) -> dict[str, str]:
    names: dict[int, list[str]] = {}
    for name, address in addresses.items():
        names.setdefault(address, []).append(name)
    return {name: other for group in names.values() for name in group for other in group if other != name}


def _digest(array: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
