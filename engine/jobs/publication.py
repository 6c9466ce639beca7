"""From a network in memory to files that were verified: export, read back in a fresh process, score, compare, time."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from engine.contract.errors import EngineError
from engine.contract.figures import MOST_SETTINGS, Figures, Latency, Setting, Timing
from engine.formats import export_onnx, export_safetensors
from engine.formats.onnx import runtime
from engine.formats.onnx.notes import has_notes, remove_notes
from engine.formats.onnx.runtime import Feed
from engine.jobs.inputs import Subject
from engine.measuring.counting import Counts, count_onnx
from engine.measuring.examiner.client import Examiner
from engine.measuring.examiner.messages import CompareRequest, DigestRequest, Score, TensorDigest
from engine.measuring.examples import RandomExamples, SplitExamples
from engine.measuring.measurement import FileSizes, file_sizes
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
    sizes: FileSizes
    settings: tuple[Setting, ...] = ()
    """The settings that were measured on this file."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Of the first of them."""


@dataclass(frozen=True)
class MeasuredFile:
    """One setting of the state as a file that runs, and what was measured on it."""

    setting: Setting
    runnable: Path
    """The file that was scored and timed; published where ONNX is."""
    score: Score
    timings: tuple[Timing, ...]
    counts: Counts
    sizes: FileSizes
    """Of the file in the first format that the spec exports."""

    def figures(self) -> Figures:
        """The figures of this setting."""
        return figures_of(self.score, self.sizes, self.counts, tuple(timing.result for timing in self.timings))


@dataclass(frozen=True)
class Publication:
    """The files of one state, and what was measured on them."""

    step_index: int
    files: tuple[PublishedFile, ...]
    measured: tuple[MeasuredFile, ...]
    """One entry for each setting of the network."""


def figures_of(score: Score, sizes: FileSizes, counts: Counts, latencies: tuple[Latency, ...]) -> Figures:
    """What was measured on one file."""
    return Figures(
        metrics=dict(score.metrics),
        file_bytes=sizes.file_bytes,
        gzip_bytes=sizes.gzip_bytes,
        params_count=counts.params_count,
        nonzero_params_count=counts.nonzero_params_count,
        macs_count=counts.macs_count,
        latency_ms=latencies[0],
        latencies=latencies,
    )


def publish(
    network: Network,
    step_index: int,
    subject: Subject,
    examiner: Examiner,
    directory: Path,
    *,
    score: Score | None,
    enter: Callable[[str], None],
) -> Publication:
    """Write, verify and time the files of one state: one ONNX file for each of its settings.

    Args:
        network: The state.
        step_index: The step that it came out of.
        subject: The job's inputs.
        examiner: A process that has never seen the network.
        directory: Receives the files.
        score: What the examiner found for the file of the first setting, if it was asked.
        enter: Called with the name of each phase.

    Raises:
        EngineError: `export_mismatch` where a file computes something else than the network.
    """
    enter("exporting")
    directory.mkdir(parents=True, exist_ok=True)
    formats = tuple(dict.fromkeys(subject.spec.export))
    settings = _checked(network.settings)
    plain = {setting.name: _plain(network.at(setting)) for setting in settings}
    place = directory if "onnx" in formats else subject.work / f"measured_{step_index}"
    place.mkdir(exist_ok=True)
    runnable = {setting.name: place / file_name(setting, first=setting == settings[0]) for setting in settings}
    for name, path in runnable.items():
        _write_onnx(plain[name], path)
    tensors, whole = directory / "model.safetensors", plain[settings[0].name] if len(settings) == 1 else _plain(network)
    if "safetensors" in formats:
        _export_tensors(whole, tensors)
    enter("verifying")
    for name, path in runnable.items():
        if plain[name].onnx_path is None:
            _compare(plain[name], path, subject, examiner)
    if "safetensors" in formats:
        _compare_tensors(whole, tensors, examiner)
    scores = {
        setting.name: examiner.score(subject.to_score(runnable[setting.name], as_timed=network.batch_dependent))
        for setting in settings[score is not None :]
    }
    found = ({} if score is None else {settings[0].name: score}) | {name: waiting() for name, waiting in scores.items()}
    enter("measuring")
    files = [PublishedFile(tensors, "safetensors", file_sizes(tensors))] if "safetensors" in formats else []
    measured = []
    for setting in settings:
        path, own = runnable[setting.name], found[setting.name]
        timings = examiner.time(subject.to_time(path))()
        # The exporter folds normalizations into the layers before them: what is counted is what is in the file.
        counts = count_onnx(path, own.shapes) if "onnx" in formats else subject.count(plain[setting.name], own.shapes)
        if "onnx" in formats:
            files.append(PublishedFile(path, "onnx", file_sizes(path), (setting,), own.metrics))
        sizes = files[-1].sizes if formats[0] == "onnx" else files[0].sizes
        measured.append(MeasuredFile(setting, path, own, timings, counts, sizes))
    files.sort(key=lambda file: formats.index(file.format))
    return Publication(step_index, tuple(files), tuple(measured))


def file_name(setting: Setting, *, first: bool) -> str:
    """Name of the ONNX file of one setting; that of the first is `model.onnx`, so that one setting needs no other name."""
    if first:
        return "model.onnx"
    return f"model-{re.sub(r'[^A-Za-z0-9.]+', '-', setting.name).strip('-.')}.onnx"


def _checked(settings: tuple[Setting, ...]) -> tuple[Setting, ...]:
    """The settings, each with a name and a file of its own. Raises `internal_error`: a method made something else."""
    names = [file_name(setting, first=False) for setting in settings]
    if not 1 <= len(settings) <= MOST_SETTINGS or (
        len(settings) > 1 and (len(set(names)) < len(names) or not all(s.name for s in settings))
    ):
        raise EngineError(
            "internal_error",
            f"A network has from 1 to {MOST_SETTINGS} settings, each with a name of its own, not {[s.name for s in settings]}.",
            hint="Please report this with the spec.",
            category="internal",
        )
    return settings


def _write_onnx(network: Network, path: Path) -> None:
    if network.onnx_path is None:
        export_onnx(network, path)
        return
    # As it stands, but for the notes that its exporter made on the graph.
    model = onnx.load(network.onnx_path)
    if has_notes(model):
        onnx.save_model(remove_notes(model), str(path))
    else:
        shutil.copyfile(network.onnx_path, path)


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
    request = CompareRequest(file=file, names=tuple(feed), inputs=inputs, expected=expected, threads=subject.job.threads)
    found = examiner.compare(request)()
    difference, scale = found.max_abs_difference, found.max_abs_value
    relative = HALF_TOLERANCE if network.weights_type == "float16" else RELATIVE_TOLERANCE
    if difference is None or difference > ABSOLUTE_TOLERANCE + relative * scale:
        raise EngineError(
            "export_mismatch",
            f"The exported file differs from the network by {difference} where outputs are up to {scale:.4g}; it is not published.",
            hint="Please report this with the spec; another export format may work.",
            category="internal",
            details=found.model_dump(),
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
    stored = examiner.digest(DigestRequest(file=file))()
    expected, aliases = _digests(network)
    missing = {name for name in expected if name not in stored and aliases.get(name, name) not in stored}
    wrong = sorted(missing | (set(stored) - set(expected)) | {name for name in stored if stored[name] != expected.get(name)})
    if wrong:
        raise EngineError(
            "export_mismatch",
            f"The safetensors file does not hold the network's weights: {', '.join(wrong[:5])} differ.",
            category="internal",
        )


def _digests(network: Network) -> tuple[dict[str, TensorDigest], dict[str, str]]:
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
        shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
        return {name: _digest(shapes[name], array) for name, array in arrays.items()}, owners
    return {name: _digest(array.shape, array) for name, array in arrays.items()}, owners


def _owners(addresses: Mapping[str, int]) -> dict[str, str]:
    names: dict[int, list[str]] = {}
    for name, address in addresses.items():
        names.setdefault(address, []).append(name)
    return {name: other for group in names.values() for name in group for other in group if other != name}


def _digest(shape: tuple[int, ...], array: NDArray[Any]) -> TensorDigest:
    return TensorDigest(shape=shape, sha256=hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest())
