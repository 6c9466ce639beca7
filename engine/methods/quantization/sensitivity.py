"""How much each product of a network loses by reading its input and its weight in 8 bits, all else being exact."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper

from engine.formats.onnx import runtime
from engine.formats.onnx.runtime import Feed
from engine.methods.quantization.plan import PRODUCTS, Plan
from engine.methods.quantization.qdq import QdqWriter

if TYPE_CHECKING:
    from engine.methods.quantization.quantizer import Quantizer

KEY = "signal_over_error"
"""Of the ratios in reports; in dB."""
LOSSY_DB = 25.0
"""Signal over error of a product below which it is the first to stay in float; a normal distribution whose range spans four
deviations keeps about 40 dB in eight bits."""


def lossy(quantizer: Quantizer, chosen: Plan, feeds: Iterable[Feed], *, threads: int, work: Path) -> list[str]:
    """Names of the products that lose most, worst first: those below `LOSSY_DB`, or else the worst quarter; never all of them.

    Args:
        quantizer: Writes graphs of the float network.
        chosen: What would be quantized.
        feeds: A few batches of examples.
        threads: Threads of ONNX Runtime.
        work: Directory for the instrumented graph.
    """
    ratios = product_ratios(quantizer, chosen, feeds, threads=threads, work=work)
    worst = sorted(ratios, key=lambda name: ratios[name])
    count = max(sum(ratios[name] < LOSSY_DB for name in worst), -(-len(worst) // 4))
    return worst[: min(count, len(worst) - 1)]


def product_ratios(quantizer: Quantizer, chosen: Plan, feeds: Iterable[Feed], *, threads: int, work: Path) -> dict[str, float]:
    """Signal over error in dB at the output of each product, by the name of its node."""
    path = work / "sensitivity.onnx"
    quantizer.write_with(_TwiceWriter, chosen, path)
    session = runtime.open_session(path, threads=threads, optimized=False, frugal=True)
    path.unlink()
    names = [item.name for item in session.get_outputs()]
    products = [node.name for node in quantizer.index.nodes if node.name in chosen.weights and node.op_type in PRODUCTS]
    totals = np.zeros(len(names))
    for feed in feeds:
        totals += [float(value.sum()) for value in runtime.run(session, feed, names)] if names else []
    return {
        name: float(10 * np.log10(max(signal, 1e-30) / max(error, 1e-30)))
        for name, signal, error in zip(products, totals[0::2], totals[1::2], strict=True)
    }


class _TwiceWriter(QdqWriter):
    """Writes every product twice, as it is and on rounded numbers; the outputs are the power of the former and of their difference."""

    def write(self) -> onnx.ModelProto:
        graph = self._model.graph
        outputs: list[onnx.ValueInfoProto] = []
        for node in list(graph.node):
            self._nodes.append(node)
            position = self._plan.weights.get(node.name)
            if position is None or node.op_type not in PRODUCTS:
                continue
            source, result = node.input[0], node.output[0]
            again = onnx.NodeProto()
            again.CopyFrom(node)
            again.name, again.output[0] = self._fresh.claim(f"{node.name}_again"), self._fresh.claim(f"{result}_again")
            if source not in self._read:
                self._read[source] = self._fresh.claim(f"{source}_dq")
                self.round(source, source, self._read[source])
            self._weigh(again, position)
            again.input[0] = self._read[source]
            self._nodes.append(again)
            difference = self._fresh.claim(f"{result}_difference")
            self.add("Sub", [result, again.output[0]], difference)
            for name in (result, difference):
                power = self._fresh.claim(f"{name}_power")
                self.add("ReduceSumSquare", [name], power, keepdims=0)
                outputs.append(helper.make_tensor_value_info(power, onnx.TensorProto.FLOAT, []))
        del graph.node[:], graph.output[:]
        graph.node.extend(self._nodes)
        graph.output.extend(outputs)
        graph.initializer.extend(self._added)
        return self._model
