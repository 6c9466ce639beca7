"""Lottery tickets are exact: counts by rank, nested masks, bit-equal rewinding, fair controls."""

import copy
import itertools

import pytest
import torch
from safetensors.torch import load_file

from engine.contract.errors import EngineError
from engine.contract.metadata import ModelMetadata
from engine.methods.learning.spec import Train
from engine.methods.learning.train import apply as train
from engine.methods.pruning.lottery_ticket import apply, kept_count, output_layer
from engine.methods.pruning.spec import LotteryTicket
from engine.methods.pruning.structure.trial import Trainer
from engine.methods.pruning.ticket.files import read_masks
from engine.networks import masks

QUICK = {"training": {"iterations": 12, "learning_rate": 5e-3, "batch_size": 32}, "controls": (), "validation_every": 4}


@pytest.fixture
def without_onnx(monkeypatch):
    """Leaves out the export of the ticket as ONNX, which takes longer than everything else here."""
    monkeypatch.setattr("engine.formats.onnx.networks.ModuleNetwork.write_onnx", lambda network, path: path.touch())


@pytest.fixture
def ticket(world, trained_mlp, request):
    """Runs the method; returns the setting, the trained network and the published tensors."""
    if "again" not in request.node.name:
        request.getfixturevalue("without_onnx")

    def run(seed=0, **params):
        setting = world(trained_mlp, seed=seed)
        result = apply(setting.network, LotteryTicket(**{**QUICK, **params}), setting.context).module
        folder = setting.context.work
        files = {name: load_file(folder / f"{name}.safetensors") for name in ("initial_weights", "ticket")}
        return setting, result, files, read_masks(folder / "masks.safetensors")

    return run


def test_counts_are_exact_by_rank_and_the_output_layer_has_its_own_rate(ticket):
    setting, result, _, rounds = ticket(rounds=3, rate=0.2, output_rate_factor=0.5)
    assert len(rounds) == 3
    for number, found in enumerate(rounds, start=1):
        for name, mask in found.items():
            rate = 0.1 if name == "5.weight" else 0.2
            assert mask.density.kept_count == round(mask.density.total_count * (1 - rate) ** number)
    for name, mask in masks.held(result).items():
        assert torch.equal(mask.keep, rounds[-1][name].keep)
    assert [row["round"] for row in setting.context.reported["rounds"]] == [0, 1, 2, 3]
    assert kept_count(266_200, 0.2, 7) == 55_826


def test_masks_nest_and_pruned_weights_are_zero_after_training(ticket):
    optimizer = {"iterations": 12, "optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.1, "learning_rate": 0.05}
    _, result, _, rounds = ticket(rounds=3, rate=0.5, training=optimizer)
    for earlier, later in itertools.pairwise(rounds):
        assert all(not (later[name].keep & ~earlier[name].keep).any() for name in later)
    for name, weight in masks.fold(result).named_parameters():
        if name in rounds[-1]:
            assert (weight[~rounds[-1][name].keep] == 0).all()


@pytest.mark.parametrize("initialization", ["uploaded", "glorot_normal"])
def test_the_ticket_is_the_initial_weights_bit_by_bit_under_the_mask(ticket, trained_mlp, initialization):
    _, _, files, rounds = ticket(rounds=2, initialization=initialization)
    for name, initial in files["initial_weights"].items():
        keep = rounds[-1][name].keep if name in rounds[-1] else torch.ones_like(initial, dtype=torch.bool)
        assert torch.equal(files["ticket"][name], torch.where(keep, initial, 0.0))
    uploaded = all(torch.equal(value, trained_mlp.state_dict()[name]) for name, value in files["initial_weights"].items())
    assert uploaded == (initialization == "uploaded")


@pytest.mark.parametrize(("rewind", "at", "iteration"), [("iteration", 5, 5), ("epoch", 1, 5)])
def test_late_rewinding_goes_back_to_the_weights_of_that_iteration(ticket, rewind, at, iteration):
    """160 examples in batches of 32 are five iterations an epoch. The dense run up to there is an ordinary training."""
    setting, _, files, rounds = ticket(rounds=1, rewind=rewind, rewind_at=at)
    rewound = load_file(setting.context.work / "rewound_weights.safetensors")
    for name, value in rewound.items():
        keep = rounds[-1][name].keep if name in rounds[-1] else torch.ones_like(value, dtype=torch.bool)
        assert torch.equal(files["ticket"][name], torch.where(keep, value, 0.0))
    assert not torch.equal(rewound["1.weight"], files["initial_weights"]["1.weight"])
    assert setting.context.reported["rounds"][1]["curve"][0][0] == 8, "training goes on from iteration 5: the first look is at 8"
    assert setting.context.reported["rounds"][0]["curve"][0][0] == 4
    assert iteration == 5


def test_learning_rate_rewinding_keeps_the_trained_weights(ticket, trained_mlp):
    """With plain SGD at a rate of almost nothing the trained weights are the initial ones; with a real rate they are not."""
    still = {"iterations": 6, "optimizer": "sgd", "momentum": 0, "learning_rate": 1e-30, "batch_size": 32}
    for training, same in ((still, True), ({**still, "learning_rate": 0.5}, False)):
        _, _, files, rounds = ticket(rounds=1, rewind="learning_rate", training=training)
        keep = rounds[-1]["1.weight"].keep
        assert torch.equal(files["ticket"]["1.weight"][keep], files["initial_weights"]["1.weight"][keep]) == same


def test_one_shot_reaches_the_density_of_all_rounds_at_once(ticket):
    setting, _, _, rounds = ticket(mode="one_shot", rounds=4, rate=0.3)
    assert len(rounds) == 1
    assert rounds[0]["1.weight"].density.kept_count == kept_count(64 * 32, 0.3, 4)
    assert [row["round"] for row in setting.context.reported["rounds"]] == [0, 4]


def test_global_scope_ranks_all_layers_together_but_the_output(ticket):
    _, _, _, rounds = ticket(rounds=1, rate=0.5, scope="global")
    found = rounds[0]
    hidden = [found[name].density for name in ("1.weight", "3.weight")]
    assert sum(d.kept_count for d in hidden) == round(0.5 * sum(d.total_count for d in hidden))
    assert abs(hidden[0].value - hidden[1].value) > 0.02, "layers differ"
    assert found["5.weight"].density.kept_count == kept_count(160, 0.25, 1)


def test_sparsity_is_another_way_to_say_the_rate(ticket):
    _, _, _, rounds = ticket(rounds=3, sparsity=0.9, output_rate_factor=0)
    assert "5.weight" not in rounds[-1]
    assert rounds[-1]["1.weight"].density.kept_count == round(0.1 * 64 * 32)


def test_same_seed_same_ticket(ticket):
    first, second, other = (ticket(seed=seed, rounds=1)[2]["ticket"] for seed in (0, 0, 1))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert not torch.equal(first["1.weight"], other["1.weight"])


@pytest.fixture
def starts(monkeypatch):
    """What every trial started from: the dense network, the ticket of each round, the controls."""
    found = []
    run = Trainer.run
    monkeypatch.setattr(Trainer, "run", lambda self, module, **how: (found.append(copy.deepcopy(module)), run(self, module, **how))[1])
    return found


@pytest.mark.parametrize("initialization", ["uploaded", "glorot_normal"])
def test_controls_have_the_same_density_and_other_weights_or_places(ticket, starts, initialization):
    kinds = ("random_reinit", "random_mask")
    setting, _, files, rounds = ticket(rounds=1, initialization=initialization, controls=kinds, control_repeats=2)
    _, own, *controls = starts
    assert len(controls) == 4
    for index, module in enumerate(controls):
        new = masks.held(module)
        assert {name: mask.density for name, mask in new.items()} == {name: mask.density for name, mask in masks.held(own).items()}
        same_weights = torch.equal(masks.stored(module[1]), files["initial_weights"]["1.weight"])
        same_mask = torch.equal(new["1.weight"].keep, rounds[0]["1.weight"].keep)
        assert (same_weights, same_mask) == ((False, True) if index < 2 else (True, False))
    drawn = [masks.stored(module[3]).reshape(-1).sort().values for module in controls[:2]]
    assert torch.equal(*drawn) == (initialization == "uploaded"), "of uploaded weights only the values are known, which are shuffled"
    row = setting.context.reported["rounds"][-1]["controls"]
    assert len(row["random_reinit"]["trials"]["early_stop"]["test.top1"]) == 2


def test_controls_treat_pruned_and_kept_weights_as_the_ticket_does(ticket, starts):
    actions = {"kept_weights": "constant", "pruned_weights": "freeze_toward_zero"}
    _, _, files, rounds = ticket(rounds=1, rate=0.5, controls=("random_reinit", "random_mask"), control_repeats=1, **actions)
    _, own, again, elsewhere = (masks.fold(module)[1].weight.detach() for module in starts)
    keep, initial = rounds[0]["1.weight"].keep, files["initial_weights"]["1.weight"]
    constant = initial.std(correction=0)
    assert torch.equal(again[~keep], own[~keep])
    assert (again[~keep] != 0).any()
    assert again[keep].abs().unique().numel() > 100, "newly drawn"
    other = masks.held(starts[3])["1.weight"].keep
    assert torch.allclose(elsewhere[other].abs(), constant)
    frozen = elsewhere[~other]
    assert torch.equal(frozen[frozen != 0], initial[~other][frozen != 0])
    assert 0.1 < float((frozen == 0).float().mean()) < 0.9


def test_early_stopping_is_where_the_validation_loss_was_lowest(ticket):
    setting, *_ = ticket(rounds=1, training={"iterations": 40, "learning_rate": 0.03, "batch_size": 16})
    for row in setting.context.reported["rounds"]:
        iterations, losses, _ = zip(*row["curve"], strict=True)
        assert row["early_stop_iteration"] == iterations[losses.index(min(losses))]
        assert row["early_stop"]["validation.cross_entropy"] == pytest.approx(min(losses), rel=1e-4)
        assert {"validation.top1", "test.top1"} <= set(row["early_stop"])
        assert {"train.top1", "test.top1"} <= set(row["end"])


def test_a_round_that_loses_too_much_is_not_the_result(ticket):
    setting, result, _, rounds = ticket(rounds=4, rate=0.9, max_drop=0.05, training={"iterations": 60, "learning_rate": 5e-3})
    assert 1 <= len(rounds) < 4
    assert masks.held(result)["1.weight"].density == rounds[-1]["1.weight"].density
    assert any("max_drop" in event.message for event in setting.of("log"))


@pytest.mark.parametrize("compared", ["last", "all"])
def test_the_round_before_a_stop_is_the_one_that_is_compared(ticket, starts, compared):
    setting, _, _, rounds = ticket(
        rounds=4,
        rate=0.9,
        max_drop=0.05,
        training={"iterations": 60, "learning_rate": 5e-3},
        controls=("random_mask",),
        control_repeats=2,
        control_rounds=compared,
        rewind="learning_rate",
    )
    kept = len(rounds)
    assert 1 <= kept < 4
    rows = setting.context.reported["rounds"]
    assert [row["round"] for row in rows if "controls" in row] == ([kept] if compared == "last" else list(range(1, kept + 1)))
    assert len(starts) == 1 + (kept + 1) + 2 * (1 if compared == "last" else kept), "dense, rounds with the failed one, controls"
    controls = starts[-2:] if compared == "last" else starts[-3:-1]
    tickets = starts[kept] if compared == "last" else starts[-4]
    for control in controls:
        assert masks.held(control)["1.weight"].density == rounds[-1]["1.weight"].density
        assert torch.equal(masks.stored(control[1]), masks.stored(tickets[1])), (
            "the weights that the round started with, not the next one's"
        )


@pytest.mark.parametrize("action", ["freeze_init", "freeze_toward_zero", "freeze_toward_zero_all", "freeze_reshuffled", "freeze_away"])
def test_frozen_weights_never_move(ticket, action):
    _, result, files, rounds = ticket(rounds=1, rate=0.5, pruned_weights=action)
    pruned = ~rounds[0]["1.weight"].keep
    weight, start = masks.fold(result)[1].weight, files["ticket"]["1.weight"]
    assert torch.equal(weight[pruned], start[pruned])
    assert (weight[pruned] != 0).any()
    zeroed_kept = int((start[~pruned] == 0).sum())
    assert (zeroed_kept > 0) == (action == "freeze_toward_zero_all")


@pytest.mark.parametrize("criterion", LotteryTicket.model_fields["criterion"].annotation.__args__)
def test_every_criterion_finds_a_ticket(ticket, criterion):
    _, _, _, rounds = ticket(rounds=1, rate=0.5, criterion=criterion, signs="same")
    assert rounds[0]["3.weight"].density.kept_count == 512


def test_another_job_can_train_the_ticket_again(ticket, world):
    """The ticket as ONNX, uploaded and trained with its zeros held, becomes the very network that the search found."""
    from engine.formats.loading import load_network

    training = {"iterations": 12, "optimizer": "sgd", "momentum": 0.0, "learning_rate": 0.05, "batch_size": 32}
    setting, _, _, rounds = ticket(rounds=1, rate=0.5, training=training)
    network = load_network(setting.context.work / "ticket.onnx", "onnx", ModelMetadata(), setting.context.work)
    other = world(network.module)
    result = masks.fold(train(network, Train(hold_zeros=True, **training), other.context).module)
    zeros = [int((p == 0).sum()) for p in result.parameters() if p.ndim == 2]
    assert zeros == [mask.density.total_count - mask.density.kept_count for mask in rounds[0].values()]


def test_the_output_layer_is_the_one_that_runs_last(world, network_of):
    module = network_of("residual")
    assert output_layer(module, world(module).context) == "head"


def test_rewinding_beyond_the_end_is_refused(ticket):
    with pytest.raises(EngineError, match="rewind_at"):
        ticket(rounds=1, rewind="epoch", rewind_at=100)


@pytest.mark.parametrize(
    "params",
    [
        {"rate": 0.2, "sparsity": 0.9},
        {"rewind_at": 3},
        {"keep_sign": True},
        {"max_drop": 0.1, "mode": "one_shot"},
        {"max_drop": 0.1, "rounds": 1},
        {"rewind": "learning_rate", "pruned_weights": "freeze_init"},
    ],
)
def test_contradictions_are_refused(params):
    with pytest.raises(ValueError, match=r"either|rewind|sign|max_drop"):
        LotteryTicket(training={"epochs": 1}, **params)
