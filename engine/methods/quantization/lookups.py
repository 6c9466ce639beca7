"""Embeddings whose rows are stored in 8 bits."""

from collections.abc import Sequence

import onnx
from onnx import TensorProto, helper

from engine.formats.onnx.naming import FreshNames


def looked_up(node: onnx.NodeProto, stored: Sequence[str], fresh: FreshNames, *, apart: bool) -> list[onnx.NodeProto]:
    """The Gather node on stored numbers, and what widens the rows that it picks.

    Args:
        node: Changed in place.
        stored: Names of the numbers, their scale and their zero point.
        fresh: Gives names.
        apart: Whether rows are widened by Cast, Sub and Mul instead of a DequantizeLinear, which the runtime would carry into a subgraph.
    """
    after = node.output[0]
    numbers, scale, zero = stored
    node.input[0], node.output[0] = numbers, fresh.claim(f"{after}_q")
    if not apart:
        return [node, helper.make_node("DequantizeLinear", [node.output[0], scale, zero], [after], fresh.claim(f"{after}_widened"))]
    wide, point, centred = (fresh.claim(f"{after}_{part}") for part in ("wide", "point", "centred"))
    return [
        node,
        helper.make_node("Cast", [node.output[0]], [wide], fresh.claim(f"{after}_Cast"), to=TensorProto.FLOAT),
        helper.make_node("Cast", [zero], [point], fresh.claim(f"{after}_point_Cast"), to=TensorProto.FLOAT),
        helper.make_node("Sub", [wide, point], [centred], fresh.claim(f"{after}_Sub")),
        helper.make_node("Mul", [centred, scale], [after], fresh.claim(f"{after}_widened")),
    ]
