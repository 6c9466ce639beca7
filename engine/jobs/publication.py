"""From a network in memory to files that were verified: export, read back in a fresh process, score, compare, time."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from engine.contract.errors import EngineError
from engine.contract.figures import MOST_SETTINGS, Figures, Latency, OtherCpu, Setting, Timing
from engine.formats.onnx.counting import count_onnx
from engine.jobs.inputs import JobInputs
from engine.jobs.layer_changes import Layers
from engine.jobs.other_cpu import on_other_cpu
from engine.jobs.other_formats import OtherFormats
from engine.jobs.verification import check_copy, compare, scored_others
from engine.measuring.examiner.client import Examiner
from engine.measuring.examiner.messages import Score
from engine.measuring.measurement import FileSizes
from engine.measuring.sizes import Sizes
from engine.networks.network import Counts, Network, Shapes
from modelpress.runtime.subnets import open_settings

RUNNABLE = "onnx"
"""The format in which every result is measured, whether it is published or not."""


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
    other_cpu: OtherCpu | None = None
    """What a file with 8-bit products gives on the other kind of processor."""

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
    layers: Layers
    """In the first setting."""
    refused: tuple[EngineError, ...] = ()
    """Why formats of the spec could not be published."""


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
    inputs: JobInputs,
    examiner: Examiner,
    directory: Path,
    *,
    score: Score | None,
    shapes: Shapes,
    sizes: Sizes,
    enter: Callable[[str], None],
) -> Publication:
    """Write, verify and time the files of one state: one ONNX file for each of its settings, or one for all of them.

    Args:
        network: The state.
        step_index: The step that it came out of.
        inputs: The job's inputs.
        examiner: A process that has never seen the network.
        directory: Receives the files.
        score: What the examiner found for the file of the first setting, if it was asked.
        shapes: Shapes of one example of the baseline's inputs.
        sizes: Compresses the files beside the rest.
        enter: Called with the name of each phase.

    Raises:
        EngineError: `export_mismatch` where a file computes something else than the network.
    """
    enter("exporting")
    directory.mkdir(parents=True, exist_ok=True)
    formats = tuple(dict.fromkeys(inputs.spec.export))
    settings = _checked(network.settings)
    plain = network.plain()
    networks = {setting.name: plain.at(setting) for setting in settings}
    place = directory if RUNNABLE in formats else inputs.work / f"measured_{step_index}"
    place.mkdir(exist_ok=True)
    runnable = {setting.name: place / file_name(setting, first=setting == settings[0]) for setting in settings}
    if network.one_file:
        runnable = _cut(plain, runnable, inputs.work / f"settings_{step_index}")
    else:
        for name, path in runnable.items():
            networks[name].write_onnx(path)
    others = OtherFormats.write(plain, [name for name in formats if name != RUNNABLE], directory, inputs.work / f"others_{step_index}")
    with contextlib.closing(others):
        enter("verifying")
        # The examiner scores the files while they are compared with the network and compressed; nothing runs beside the timing.
        scores = {
            setting.name: examiner.score(inputs.to_score(runnable[setting.name], networks[setting.name], as_timed=network.batch_dependent))
            for setting in settings[score is not None :]
        }
        for path in runnable.values() if RUNNABLE in formats else ():
            sizes.begin(path)
        layers = Layers.compared(inputs, runnable[settings[0].name])
        count = partial(_counted, published=RUNNABLE in formats)
        counted = {} if inputs.added(network) else {name: count(path, networks[name], shapes) for name, path in runnable.items()}
        for name, path in runnable.items():
            networks[name].measure(on_file=partial(check_copy, path), on_module=partial(compare, path, networks[name], inputs, examiner))
        others.check(examiner)
        for item in others.written:
            for path in item.paths:
                sizes.begin(path)
        found = ({} if score is None else {settings[0].name: score}) | {name: waiting() for name, waiting in scores.items()}
        first = networks[settings[0].name]
        own_file = runnable[settings[0].name]
        scored = scored_others(others, inputs, examiner, runnable=own_file, network=first, score=found[settings[0].name])
        files = [PublishedFile(path, item.format, sizes.of(path), metrics=own.metrics) for item, own in scored for path in item.paths]
    formats = tuple(name for name in formats if name not in others.refused)
    if not formats:
        raise next(iter(others.refused.values()))
    own_sizes = {name: sizes.of(path) for name, path in runnable.items() if RUNNABLE in formats}
    enter("measuring")
    measured = []
    for setting in settings:
        path, own = runnable[setting.name], found[setting.name]
        own_network = networks[setting.name]
        timings = examiner.time(inputs.to_time(path, own_network, varied=own_network.input_dependent))()
        if setting == settings[0]:
            layers = layers.profiled(inputs, path, own_network, timings[0], examiner)
        counts = counted[setting.name] if setting.name in counted else count(path, own_network, own.shapes)
        if own_network.input_dependent:
            counts = replace(counts, macs_count=examiner.count(inputs.to_count(path, own_network))().macs_count)
        if RUNNABLE in formats and (setting == settings[0] or not network.one_file):
            files.append(PublishedFile(path, RUNNABLE, own_sizes[setting.name], settings if network.one_file else (setting,), own.metrics))
        stored = own_sizes[setting.name] if formats[0] == RUNNABLE else next(file.sizes for file in files if file.format == formats[0])
        other = on_other_cpu(inputs.to_score(path, own_network, as_timed=network.batch_dependent), own, examiner, inputs.work)
        measured.append(MeasuredFile(setting, path, own, timings, counts, stored, other))
    files.sort(key=lambda file: formats.index(file.format))
    return Publication(step_index, tuple(files), tuple(measured), layers, tuple(others.refused.values()))


def _counted(path: Path, network: Network, shapes: Shapes, *, published: bool) -> Counts:
    """How large a file is that is published: the exporter folds normalizations into the layers before them. A graph, of which it is a copy, has been
    counted already."""
    if not published:
        return network.count(shapes)
    return network.measure(on_file=lambda _: network.count(shapes), on_module=lambda _: count_onnx(path, shapes))


def _cut(network: Network, paths: Mapping[str, Path], directory: Path) -> dict[str, Path]:
    """Write one file for all settings, and the others beside it as they are cut out of it; the files that run, by setting."""
    directory.mkdir(exist_ok=True)
    (first, whole), *others = paths.items()
    network.write_onnx(whole)
    packed = open_settings(whole)
    found = {first: whole}
    for name, path in others:
        found[name] = directory / path.name
        with found[name].open("wb") as file:
            file.writelines(packed.cut(packed.setting(name)))
    return found


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
