"""What a module and its file are compared on."""

import numpy as np
import torch
from torch import Tensor

from engine.jobs.comparison import decided
from engine.networks.network import Signature, TensorSpec
from engine.networks.routed import RoutedModule

SIGNATURE = Signature((TensorSpec("x", (None, 2)), TensorSpec("k", (3,))), (TensorSpec("y", (None, 2)),))


class Sign(RoutedModule):
    """Goes one way or the other by the sign of the first number."""

    def borderline(self, *inputs: Tensor) -> Tensor:
        return inputs[0][:, 0].abs() < 1e-5


def test_an_example_whose_way_hangs_on_rounding_is_not_compared() -> None:
    x = np.array([[1e-7, 1], [2, 2], [-3, 3], [0, 4]], np.float32)
    feed = {"x": x, "k": np.zeros(3, np.float32)}
    assert decided(Sign(), SIGNATURE, feed)["x"].tolist() == [[2, 2], [2, 2], [-3, 3], [2, 2]]
    assert decided(Sign(), SIGNATURE, feed)["k"].shape == (3,)


def test_all_are_compared_where_no_way_hangs_on_rounding_or_every_one_does_or_there_is_one_way() -> None:
    clear = {"x": np.ones((4, 2), np.float32), "k": np.zeros(3, np.float32)}
    assert decided(Sign(), SIGNATURE, clear) is clear
    near = {"x": np.zeros((4, 2), np.float32), "k": np.zeros(3, np.float32)}
    assert decided(Sign(), SIGNATURE, near) is near
    assert decided(torch.nn.Identity(), SIGNATURE, near) is near
