"""One weight at two places, as tied layers are uploaded: it is ranked, masked and counted once, and stays one."""

import pytest
import torch

from engine.methods.pruning import lottery_ticket, magnitude_pruning, supermask
from engine.methods.pruning.spec import LotteryTicket, MagnitudePruning, Supermask
from engine.networks import masks
from tests.engine.structure.conftest import Tied

TRAINING = {"iterations": 6}
WEIGHTS = 8 * 9 + 8 * 8 * 9 + 8 * 5


@pytest.mark.parametrize(
    ("method", "params"),
    [
        (magnitude_pruning, MagnitudePruning(importance="random")),
        (magnitude_pruning, MagnitudePruning(importance="random", scope="layer", schedule="iterative", iterations=2)),
        (magnitude_pruning, MagnitudePruning(importance="taylor", schedule="gradual", finetune=TRAINING)),
        (lottery_ticket, LotteryTicket(criterion="random", sparsity=0.5, output_rate_factor=1, rounds=2, training=TRAINING)),
        (lottery_ticket, LotteryTicket(criterion="snip", sparsity=0.5, output_rate_factor=1, rounds=2, scope="global", training=TRAINING)),
        (supermask, Supermask(**TRAINING)),
        (supermask, Supermask(algorithm="edge_popup", initialization="random", **TRAINING)),
    ],
    ids=lambda value: getattr(value, "method", ""),
)
def test_a_tied_weight_is_pruned_once_and_stays_tied(world, method, params):
    torch.manual_seed(0)
    setting = world(Tied())
    result = method.apply(setting.network, params, setting.context).module
    plain = masks.fold(result)
    assert plain.near.weight is plain.far.weight
    kept = int(torch.stack([layer.weight.count_nonzero() for layer in (plain.stem, plain.near, plain.head)]).sum())
    if isinstance(params, Supermask) and params.algorithm == "bernoulli":
        assert setting.context.metrics["density"] == pytest.approx(kept / WEIGHTS)
    else:
        assert kept == pytest.approx(WEIGHTS / 2, abs=2), "half of each layer by rank, rounded"
    before, after = (setting.network.with_module(module).count() for module in (setting.network.module, plain))
    assert after.params_count == before.params_count
