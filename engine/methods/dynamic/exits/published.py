"""The stages and their thresholds as files of the job: what `modelpress.runtime` reads."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from engine.contract.errors import EngineError
from engine.methods.context import Context
from engine.methods.dynamic.exits.network import BudgetNetwork, ExitNetwork
from engine.methods.dynamic.exits.thresholds import NEVER, Calibrated
from engine.networks.network import Signature
from engine.training.batches import Examples
from modelpress.runtime import load
from modelpress.runtime.manifest import VERSION

MANIFEST = "exits.json"
_COMPARED_EXAMPLES = 16
_ABSOLUTE, _RELATIVE, _RELATIVE_OF_HALF = 1e-4, 1e-3, 1e-2
"""How far the stages' outputs may be from the network's in memory: kernels add up in another order."""


def publish_stages(
    network: ExitNetwork, signature: Signature, calibrated: Sequence[Calibrated], costs: Sequence[float], context: Context, *, half: bool
) -> None:
    """Write every stage as an ONNX file and the manifest beside them, and hand them to the job.

    `network` is plain and on the CPU.
    """
    graphs = network.files.graphs(network, signature, half=half)
    folder = context.work / "exits"
    folder.mkdir(exist_ok=True)
    files, stages = {}, []
    for number, graph in enumerate(graphs, 1):
        path = folder / f"stage{number}.onnx"
        onnx.save_model(graph.model, str(path))
        name = context.published_name(path)
        files[f"stage {number}"] = {"name": name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        stages.append({"file": f"stage {number}", "takes": list(graph.takes), "gives": list(graph.gives)})
        context.artifact(path, kind="stage", format="onnx", stage=number, macs_count=costs[number - 1])
    document = {
        "modelpress": "early_exit",
        "version": VERSION,
        "files": files,
        "inputs": [spec.name for spec in signature.inputs],
        "outputs": [spec.name for spec in signature.outputs],
        "batch_axes": network.batch_axes,
        "stages": stages,
        "macs_counts": list(costs),
        "temperatures": [float(network.confidence(place).temperature) for place in range(len(graphs))],
        "confidence": network.confidence(0).kind,
        "budgets": [
            {
                "budget": item.budget,
                "thresholds": [None if math.isinf(value) else value for value in item.thresholds],
                "expected_macs_count": item.macs_count,
            }
            for item in calibrated
        ],
    }
    path = folder / MANIFEST
    path.write_text(json.dumps(document, indent=1))
    context.artifact(path, kind="exits", format="json")


@torch.no_grad()
def check_stages(network: ExitNetwork, calibrated: Sequence[Calibrated], examples: Examples, context: Context, *, half: bool) -> None:
    """Run the written stages on a few examples beside the network in memory. Raises `export_mismatch`."""
    indices = np.arange(min(_COMPARED_EXAMPLES, examples.count))
    feed, _ = examples.batch(indices)
    inputs = [torch.from_numpy(np.require(feed[name], requirements=("C", "W"))) for name in network.inputs]
    found = load(_at_home(context), thresholds=(NEVER,) * (len(network.stages) - 1))
    everything, _ = network.answers(*inputs)
    for place, answer in enumerate(found.anytime(feed)):
        _compare(list(answer.outputs.values()), [output.numpy() for output in everything[place]], f"stage {place + 1}", half=half)
    for item in calibrated:
        found.use(thresholds=item.thresholds)
        outputs, taken = BudgetNetwork(network, item.thresholds).routed(*inputs)
        answer = found.run(feed)
        if not np.array_equal(answer.exits - 1, taken.numpy()):
            raise _mismatch(f"stop at other exits at budget {item.budget:g}")
        _compare(list(answer.outputs.values()), [output.numpy() for output in outputs], f"budget {item.budget:g}", half=half)


def _at_home(context: Context) -> Path:
    """The manifest under the names that the files have before they are published."""
    folder = context.work / "exits"
    document: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())
    for number, entry in enumerate(document["files"].values(), 1):
        entry["name"] = f"stage{number}.onnx"
    path = folder / "checked.json"
    path.write_text(json.dumps(document))
    return path


def _compare(found: Sequence[NDArray[Any]], wanted: Sequence[NDArray[Any]], where: str, *, half: bool) -> None:
    for own, other in zip(found, wanted, strict=True):
        scale = float(np.abs(other).max(initial=0.0))
        allowed = _ABSOLUTE + (_RELATIVE_OF_HALF if half else _RELATIVE) * scale
        if own.shape != other.shape or not float(np.abs(own.astype(np.float64) - other).max(initial=0.0)) <= allowed:
            raise _mismatch(f"give other outputs than the network in memory ({where})")


def _mismatch(what: str) -> EngineError:
    return EngineError(
        "export_mismatch",
        f"The written stages {what}; they are not published.",
        hint="Please report this with the spec.",
        category="internal",
    )
