"""Nearest places of a Resize: every rule of coordinates and rounding, by whole factors and others."""

import numpy as np
import pytest

from tests.engine.formats.onnx.graphs import BATCH, assert_same, model, node, normal


@pytest.mark.parametrize("factors", [(2.0, 3.0), (1.5, 1.0), (0.5, 2.5)])
@pytest.mark.parametrize("rounding", ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"])
@pytest.mark.parametrize("coordinates", ["half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"])
def test_every_rule_of_nearest_places(coordinates: str, rounding: str, factors: tuple[float, float]) -> None:
    resize = node("Resize", ["x", "", "s"], ["y"], mode="nearest", coordinate_transformation_mode=coordinates, nearest_mode=rounding)
    proto = model([resize], {"x": [BATCH, 2, 4, 6]}, ["y"], {"s": np.array([1, 1, *factors], np.float32)})
    assert_same(proto, {"x": normal(3, 2, 4, 6)})
