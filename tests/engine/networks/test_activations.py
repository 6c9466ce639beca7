"""What training keeps of one example, counted by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from engine.networks.activations import kept_bytes


def test_each_tensor_that_the_backward_pass_reads_counts_once() -> None:
    # The first layer keeps its input (7), relu its output (11), which the second layer reads: once.
    network = nn.Sequential(nn.Linear(7, 11), nn.ReLU(), nn.Linear(11, 5))
    assert kept_bytes(network, [torch.randn(1, 7)]) == 4 * (7 + 11)


def test_tensors_one_after_the_other_count_each() -> None:
    # Ten products of the same size: what is freed meanwhile must not hide a later one at the same address.
    network = nn.Sequential(*[layer for _ in range(10) for layer in (nn.Linear(6, 6), nn.Sigmoid())])
    assert kept_bytes(network, [torch.randn(1, 6)]) == 4 * (6 + 10 * 6)


def test_the_module_stays_as_it_was() -> None:
    network = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Dropout())
    network[0].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.train()
    assert kept_bytes(network, [torch.randn(1, 3)]) is not None
    assert network.training
    assert [item.requires_grad for item in network.parameters()] == [False, True, True, True]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


class Refuses(nn.Module):
    """Runs without gradients only."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = self.inner(x)
        if made.requires_grad:
            raise RuntimeError("no gradients here")
        return made


@pytest.mark.parametrize("network", [Refuses()])
def test_what_does_not_run_with_gradients_is_not_counted(network: nn.Module) -> None:
    assert kept_bytes(network, [torch.randn(1, 3)]) is None
