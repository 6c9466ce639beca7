"""Whether a written file computes what the network in memory does, which is asked of every file before it is published."""

from __future__ import annotations

import filecmp
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from engine.contract.errors import EngineError
from engine.formats.onnx.notes import remove_notes
from engine.formats.onnx.one_file import as_raw
from engine.formats.onnx.runtime import Feed
from engine.jobs.comparison import decided, module_outputs, some_inputs
from engine.jobs.inputs import JobInputs
from engine.jobs.other_formats import OtherFormats, Written
from engine.measuring.examiner.client import Examiner
from engine.measuring.examiner.messages import CompareRequest, Difference, Score
from engine.networks.network import Network
from modelpress.runtime.manifest import ArtifactError
from modelpress.runtime.subnets import open_settings

if TYPE_CHECKING:
    from torch import nn

    from engine.jobs.divergence import Divergence

ABSOLUTE_TOLERANCE, RELATIVE_TOLERANCE = 1e-4, 1e-3
"""An exported float network may differ from the one in memory by 1e-4 plus a thousandth of its largest output: other kernels
add up in another order, which costs some 1e-6; a wrong operator costs far more."""
HALF_TOLERANCE = 1e-2
"""The same for weights stored in half precision: what the exporter folds into a weight is rounded once more."""


def scored_others(
    others: OtherFormats, inputs: JobInputs, examiner: Examiner, *, runnable: Path, network: Network, score: Score
) -> list[tuple[Written, Score]]:
    """The score of each file in another format; those that its runtime computes differently are not published.

    They are compared with `network` in memory and with its ONNX file `runnable`, of which `score` is. Raises `export_mismatch`.
    """
    found = []
    for item in list(others.written):
        try:
            found.append((item, _scored_again(item, inputs, examiner, runnable=runnable, network=network, score=score)))
        except EngineError as error:
            others.withdraw(item, error)
    return found


def _scored_again(item: Written, inputs: JobInputs, examiner: Examiner, *, runnable: Path, network: Network, score: Score) -> Score:
    """The score of a file as it was read again, which is that of the ONNX file where both are the same graph. Raises `export_mismatch`."""
    if item.reloading is None:  # another runtime computes what a graph of integer kernels says in its own way: that is what the score is of
        network.measure(on_file=lambda _: None, on_module=partial(compare, item.reread, network, inputs, examiner, like=runnable))
    elif item.reread.read_bytes() == runnable.read_bytes() or _settled(item.reread) == _settled(runnable):
        return score
    else:
        item.network.at(item.network.settings[0]).measure(
            on_file=partial(check_copy, item.reread), on_module=partial(compare, item.reread, network, inputs, examiner)
        )
    return examiner.score(inputs.to_score(item.reread, network, as_timed=network.batch_dependent))()


def check_copy(file: Path, source: Path) -> None:
    """The published file against the network's own, which may hold notes besides."""
    if not filecmp.cmp(file, source, shallow=False) and _settled(file) != _settled(source):
        raise EngineError("export_mismatch", "The published file is not the network's own graph.", category="internal")


def compare(file: Path, network: Network, inputs: JobInputs, examiner: Examiner, module: nn.Module, *, like: Path | None = None) -> None:
    """The exported file against the module in memory, on the same inputs; they are those of `like`, where the file is no ONNX."""
    feed = decided(module, network.signature, some_inputs(inputs, like or file, network))
    given, expected = inputs.work / "compared_inputs.npz", inputs.work / "compared_outputs.npz"
    np.savez(given, *feed.values())
    np.savez(expected, *module_outputs(module, network.signature, feed))
    request = CompareRequest(file=file, names=tuple(feed), inputs=given, expected=expected, threads=inputs.job.threads)
    found = examiner.compare(request)()
    difference, scale = found.max_abs_difference, found.max_abs_value
    relative = HALF_TOLERANCE if network.weights_type == "float16" else RELATIVE_TOLERANCE
    if difference is None or difference > ABSOLUTE_TOLERANCE + relative * scale:
        raise _mismatch(found, _divergence(file, network, module, feed, inputs, relative) if like is None else None)


def _settled(file: Path) -> onnx.ModelProto:
    """A model without notes and without other settings that its file holds besides, its tensors stored in one way."""
    try:
        packed = open_settings(file)
        model = onnx.load_from_string(b"".join(packed.cut(packed.settings[0])))
    except ArtifactError:
        model = onnx.load(file)
    for tensor in model.graph.initializer:
        as_raw(tensor)
    return remove_notes(model)


def _divergence(  # noqa: PLR0917 - what the comparison had
    file: Path, network: Network, module: nn.Module, feed: Feed, inputs: JobInputs, relative: float
) -> Divergence | None:
    """The first layer that differs, where one is found."""
    from engine.jobs.divergence import first_divergence

    return first_divergence(
        module,
        network.signature,
        file,
        feed,
        absolute=ABSOLUTE_TOLERANCE,
        relative=relative,
        threads=inputs.job.threads,
        work=inputs.work,
    )


def _mismatch(found: Difference, where: Divergence | None) -> EngineError:
    """The error, which names the first layer that differs, where that was found."""
    return EngineError(
        "export_mismatch",
        f"The exported file differs from the network by {found.max_abs_difference} where outputs are up to {found.max_abs_value:.4g}"
        + ("" if where is None else f"; {where.sentence()}")
        + ". It is not published.",
        hint="Please report this with the spec; another export format may work.",
        category="internal",
        details={**found.model_dump(), **({} if where is None else {"first_divergence": where.details()})},
    )
