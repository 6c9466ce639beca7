"""Made-up inputs have a size that the network takes."""

import torch
from torch import nn

from engine.networks.example_inputs import fitting_inputs, running_inputs
from engine.networks.network import Signature, TensorSpec


class Words(nn.Module):
    """A table of twelve places, which is too short for the sizes that are tried first."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(20, 4), nn.Embedding(12, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.words(ids) + self.places(torch.arange(ids.shape[1]))


def test_texts_are_no_longer_than_the_table_of_their_places() -> None:
    signature = Signature((TensorSpec("ids", (None, None), "int64"),), (TensorSpec("y", (None, None, 4)),))
    (fitting,) = fitting_inputs(Words(), signature, 3)
    (running,) = running_inputs(Words(), signature, 3, torch.device("cpu"))
    assert fitting.shape == running.shape == (3, 8)
