"""One float graph as QDQ graphs: which operators a plan quantizes, how each tensor and weight is stored, and the files of plans."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from engine.contract.errors import EngineError
from engine.methods.quantization import calibration, graph, moments, refined
from engine.methods.quantization.index import Index
from engine.methods.quantization.plan import PRODUCTS, Plan, plan
from engine.methods.quantization.qdq import QdqWriter
from engine.methods.quantization.rounding import Scaling, rounded_weight, scaling
from engine.methods.quantization.spec import StaticQuantization
from engine.process.memory import give_back_memory

Floats = NDArray[np.float32]


class Quantizer:
    """Plans and writes QDQ graphs of one float graph; ranges are observed when a plan first asks for them."""

    def __init__(self, path: Path, params: StaticQuantization, ranges: calibration.Observer) -> None:
        self.path, self.index = path, Index(graph.outline(path))
        self.infinite: dict[str, str] = {}
        """Nodes that stay in float because a tensor of theirs was not finite, with that tensor."""
        self.example_bytes = ranges.example_bytes
        self.refined: dict[str, tuple[Floats, NDArray[np.int8]]] = {}
        """Scales and integers of weights that were not rounded to the nearest."""
        self.shifts: dict[str, NDArray[np.float64]] = {}
        """What rounding a weight adds to the mean of each channel."""
        self._kept: dict[Hashable, NDArray[Any]] = {}
        """Scales and integers of weights, which every graph that is written has in common."""
        self._params, self._ranges = params, ranges

    def plan(self, excluded: Collection[str]) -> Plan:
        """What is quantized when the nodes `excluded` stay in float; so do those that read or write what is not finite.

        Raises:
            EngineError: `calibration_failed` where that leaves no product of the network, or calibration shows one number alone.
        """
        while True:
            chosen = plan(self.index, self._params.operators, {*excluded, *self.infinite}, symmetric=self._params.symmetric)
            rounded = chosen.rounded(self.index)
            inputs = [name for name in sorted(self.index.inputs) if self.index.is_float(name)]
            self._ranges.observe([*(chosen.source(name) for name in rounded), *inputs])
            broken = {name for name in rounded if math.isnan(self._ranges.ranges[chosen.source(name)][0])}
            if not broken:
                self._refuse_one_number(inputs)
                return chosen
            found = {
                node.name: next(name for name in (*node.input, *node.output) if name in broken)
                for node in self.index.nodes
                if node.name in chosen.inputs and broken & {*node.input, *node.output}
            }
            self.infinite |= found
            products = {node.name for node in self.index.nodes if node.op_type in PRODUCTS and node.name in chosen.weights}
            if products and products <= set(self.infinite):
                raise EngineError(
                    "calibration_failed",
                    f"Tensor {sorted(broken)[0]!r} is not finite on the calibration examples.",
                    hint="Check metadata.preprocessing of the dataset and the network's own operators for overflow.",
                )

    def refine(self, chosen: Plan, feeds: calibration.Feeds, *, threads: int) -> None:
        """Round the weights of products by what the examples make of them; every graph that is written from now on holds those."""
        model = onnx.load(self.path)
        index = Index(model)
        wanted = moments.layouts(
            index, [node.name for node in index.nodes if node.name in chosen.weights], lambda node: chosen.weights[node.name]
        )
        writer = QdqWriter(model, chosen, self.scalings(chosen), **self._grid)
        for name, second, mean in moments.gather(self.path, wanted, feeds, threads=threads):
            scales, axis = writer.scales_of(name)
            values = numpy_helper.to_array(index.constants[name])
            if self._params.rounding == "nearest":
                integers = rounded_weight(values, scales, axis, 127)
            else:
                how, portable = self._params.rounding, self._params.reduces_range
                integers = refined.rounded(wanted[name], values, second, scales, axis, by=how, portable=portable)
            self.refined[name] = scales, integers
            if self._params.bias_correction:
                self.shifts[name] = refined.shift(wanted[name], values, integers, scales, axis, mean)

    @property
    def _grid(self) -> dict[str, Any]:
        """How writers round weights."""
        return {
            "by_channel": self._params.granularity == "channel",
            "portable": self._params.reduces_range,
            "refined": self.refined,
            "shifts": self.shifts,
            "kept": self._kept,
        }

    def scalings(self, chosen: Plan) -> dict[str, Scaling]:
        """How each tensor is stored whose range a plan asks for."""
        found = {}
        for name in {chosen.source(name) for name in chosen.rounded(self.index)}:
            low, high = self._ranges.ranges[name]
            found[name] = scaling(low, high, symmetric=self._params.symmetric, at_most=chosen.upper.get(name))
        return found

    def write(self, chosen: Plan, target: Path) -> None:
        """Write the QDQ graph of a plan."""
        self.write_with(QdqWriter, chosen, target)

    def write_with(self, writer: type[QdqWriter], chosen: Plan, target: Path) -> None:
        """Write the graph that a class of writers makes of a plan."""
        model = onnx.load(self.path)
        written = writer(model, chosen, self.scalings(chosen), **self._grid).write()
        onnx.save(written, target)
        del model, written
        give_back_memory()

    def constant_tensors(self, chosen: Plan) -> list[str]:
        """Rounded tensors that held one number alone on all calibration examples."""
        ranges = self._ranges.ranges
        return [name for name in chosen.rounded(self.index) if chosen.source(name) == name and ranges[name][0] == ranges[name][1]]

    def _refuse_one_number(self, inputs: list[str]) -> None:
        """Ranges of examples that are all alike say nothing about any other."""
        found = [self._ranges.ranges[name] for name in inputs]
        if found and all(low == high for low, high in found):
            raise EngineError(
                "calibration_failed",
                f"Every number of the calibration examples is {found[0][0]:g}: ranges of activations cannot be read off them.",
                hint="Check the dataset and its metadata.preprocessing, or use dynamic_quantization, which needs no examples.",
            )
