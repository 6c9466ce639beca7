"""Unstructured pruning removes exactly what it says, by rank, nested, and nothing comes back."""

import copy
import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from engine.contract.errors import EngineError
from engine.contract.params import TrainingFields
from engine.formats.sparse import load_sparse
from engine.methods.pruning.magnitude_pruning import apply, cubic, keep_best, keep_pattern, mask_updates
from engine.methods.pruning.spec import MagnitudePruning
from engine.networks import masks
from engine.networks.masks import Mask


def zeros(module):
    return {name: int((p == 0).sum()) for name, p in masks.fold(module).named_parameters() if p.ndim > 1}


def total(module):
    return sum(p.numel() for name, p in masks.fold(module).named_parameters() if p.ndim > 1)


@given(st.lists(st.integers(-2, 2), min_size=1, max_size=60), st.integers(0, 60))
def test_the_count_is_exact_even_when_all_scores_tie(values, kept):
    scores = torch.tensor(values, dtype=torch.float32)
    kept = min(kept, len(values))
    mask = keep_best(scores, Mask.full(scores), kept)
    assert mask.density.kept_count == kept
    assert mask.keep.nonzero().flatten().tolist() == sorted(sorted(range(len(values)), key=lambda place: -values[place])[:kept])
    if 0 < kept < len(values):
        assert scores[mask.keep].min() >= scores[~mask.keep].max()


def test_pruned_weights_do_not_count_in_the_next_ranking():
    scores = torch.tensor([5.0, 1.0, 2.0, 3.0])
    mask = Mask(torch.tensor([False, True, True, True]))
    assert keep_best(scores, mask, 2).keep.tolist() == [False, False, True, True]


def test_global_pruning_removes_the_smallest_weights_of_all_layers(world, trained_mlp):
    setting = world(trained_mlp)
    result = apply(setting.network, MagnitudePruning(sparsity=0.8, ignore=("5",)), setting.context).module
    plain = masks.fold(result)
    before = torch.cat([trained_mlp[i].weight.detach().abs().reshape(-1) for i in (1, 3)])
    after = torch.cat([plain[i].weight.detach().reshape(-1) for i in (1, 3)])
    assert int((after == 0).sum()) == round(0.8 * len(before))
    assert before[after == 0].max() <= before[after != 0].min()
    assert torch.equal(plain[5].weight, trained_mlp[5].weight)
    for i in (1, 3, 5):
        assert torch.equal(plain[i].bias, trained_mlp[i].bias)


def test_layer_scope_gives_every_layer_the_same_sparsity(world, trained_cnn):
    setting = world(trained_cnn)
    result = apply(setting.network, MagnitudePruning(sparsity=0.7, scope="layer"), setting.context).module
    for name, count in zeros(result).items():
        assert count == round(0.7 * dict(trained_cnn.named_parameters())[name].numel())
    assert torch.equal(masks.fold(result)[1].weight, trained_cnn[1].weight), "normalization is never pruned"


@given(st.integers(0, 10_000))
def test_n_of_m_keeps_the_n_largest_of_every_group(seed):
    weight = torch.randn(6, 8, 3, 3, generator=torch.Generator().manual_seed(seed))
    mask = keep_pattern(weight.abs(), Mask.full(weight), 2, 4)
    cells = mask.keep.movedim(1, -1).reshape(-1, 4)
    assert (cells.sum(1) == 2).all()
    values = weight.abs().movedim(1, -1).reshape(-1, 4)
    assert (torch.where(cells, values, torch.inf).amin(1) >= torch.where(cells, 0, values).amax(1)).all()


def test_the_neighbours_of_a_pattern_are_inputs_of_transposed_convolutions_too(world):
    """Their weight is (inputs, outputs / groups, height, width)."""
    torch.manual_seed(0)
    wide, grouped = nn.ConvTranspose2d(8, 6, 3, bias=False), nn.ConvTranspose2d(6, 4, 3, groups=2, bias=False)
    module = nn.Sequential(nn.Conv2d(1, 8, 3), wide, grouped, nn.Flatten(), nn.Linear(4 * 10 * 10, 5))
    setting = world(module)
    result = masks.fold(apply(setting.network, MagnitudePruning(pattern="2:4", ignore=("4",)), setting.context).module)
    groups = result[1].weight.movedim(0, -1).reshape(-1, 4)
    assert ((groups != 0).sum(1) == 2).all()
    (told,) = [event.details["layers"] for event in setting.of("warning") if event.code == "pattern_not_applicable"]
    assert told == ["0.weight", "2.weight"], "three inputs meet one output of the grouped one, though it has four"


@pytest.mark.parametrize("schedule", ["one_shot", "iterative"])
def test_pattern_leaves_layers_that_do_not_divide_and_says_so(world, trained_cnn, schedule):
    setting = world(trained_cnn)
    params = MagnitudePruning(pattern="2:4", schedule=schedule, **({} if schedule == "one_shot" else {"iterations": 2}))
    result = masks.fold(apply(setting.network, params, setting.context).module)
    assert (result[0].weight != 0).all()
    groups = result[4].weight.movedim(1, -1).reshape(-1, 4)
    assert ((groups != 0).sum(1) == 2).all()
    assert [event.details["layers"] for event in setting.of("warning") if event.code == "pattern_not_applicable"] == [["0.weight"]]


def test_iterative_rounds_keep_the_same_share_and_nest(world, trained_mlp, monkeypatch):
    setting = world(trained_mlp)
    seen = []
    original = masks.hold
    monkeypatch.setattr(masks, "hold", lambda module, new, rests=None: (seen.append(new), original(module, new, rests))[1])
    params = MagnitudePruning(sparsity=0.875, schedule="iterative", iterations=3, finetune={"iterations": 3})
    result = apply(setting.network, params, setting.context).module
    counts = [sum(mask.density.kept_count for mask in new.values()) for new in seen]
    assert counts == [round(share * total(result)) for share in (0.5, 0.25, 0.125)]
    for earlier, later in itertools.pairwise(seen):
        assert all(not (later[name].keep & ~earlier[name].keep).any() for name in later)


def test_training_afterwards_with_momentum_and_decay_revives_nothing(world, trained_mlp):
    setting = world(trained_mlp)
    pruned = apply(setting.network, MagnitudePruning(sparsity=0.9), setting.context)
    before = zeros(pruned.module)
    module = copy.deepcopy(pruned.module)
    setting.context.train(module, TrainingFields(epochs=2, optimizer="sgd", learning_rate=0.1, weight_decay=0.01))
    assert zeros(module) == before
    assert not torch.equal(masks.fold(module)[1].weight, masks.fold(pruned.module)[1].weight)


def test_gradual_follows_the_cubic_schedule_and_ends_exactly(world, trained_mlp):
    setting = world(trained_mlp)
    params = MagnitudePruning(sparsity=0.9, schedule="gradual", iterations=4, finetune={"iterations": 30})
    result = apply(setting.network, params, setting.context).module
    points = {event.step: event.value for event in setting.of("metric") if event.name == "sparsity" and event.step}
    assert points == pytest.approx({step: cubic(share, 0, 0.9) for step, share in mask_updates(params.finetune, 30, 4).items()}, abs=1e-3)
    assert sum(zeros(result).values()) == round(0.9 * total(result))


def test_cubic_schedule_is_the_papers_equation():
    assert cubic(0, 0, 0.9) == 0
    assert cubic(1, 0, 0.9) == 0.9
    assert cubic(0.5, 0.1, 0.9) == pytest.approx(0.9 - 0.8 / 8)
    assert mask_updates(TrainingFields(), 3, 100)[2] == 1


def test_taylor_keeps_the_weights_that_the_loss_depends_on(world, trained_mlp):
    """Inputs that are always zero make their weights worthless, however large these are."""
    module = copy.deepcopy(trained_mlp)
    with torch.no_grad():
        module[1].weight[:, :32] *= 100
    setting = world(module)
    setting.data.splits["train"].images.reshape(-1, 64)[:, :32] = 0
    result = masks.fold(apply(setting.network, MagnitudePruning(sparsity=0.5, importance="taylor", include=("1",)), setting.context).module)
    assert (result[1].weight[:, :32] == 0).all()
    assert (result[1].weight[:, 32:] != 0).all()


def test_random_pruning_depends_on_the_seed_alone(world, trained_mlp):
    params = MagnitudePruning(sparsity=0.5, importance="random")
    kept = []
    for seed in (0, 0, 1):
        setting = world(trained_mlp, seed=seed)
        kept.append(masks.held(apply(setting.network, params, setting.context).module)["1.weight"].keep)
    assert torch.equal(kept[0], kept[1])
    assert not torch.equal(kept[0], kept[2])


def test_it_says_that_dense_inference_is_not_faster_and_reports_layers(world, trained_mlp):
    setting = world(trained_mlp)
    apply(setting.network, MagnitudePruning(sparsity=0.5), setting.context)
    assert "no_dense_speedup" in [event.code for event in setting.of("warning")]
    layers = setting.context.reported["layers"]
    assert sum(layer["kept_count"] for layer in layers.values()) == round(0.5 * total(trained_mlp))
    assert [stage["stage"] for stage in setting.context.reported["stages"]] == ["before", "pruned"]


def test_the_sparse_file_gives_the_network_back_and_is_as_small_as_it_says(world, trained_mlp):
    setting = world(trained_mlp)
    result = masks.fold(apply(setting.network, MagnitudePruning(sparsity=0.9), setting.context).module)
    (file,) = setting.context.files
    state = load_sparse(file.path)
    assert all(torch.equal(state[name], value) for name, value in result.state_dict().items())
    assert file.metrics["dense_bytes"] == sum(p.numel() * 4 for p in result.parameters())
    kept = sum(int((p != 0).sum()) for p in result.parameters())
    assert file.path.stat().st_size < 4 * kept + total(trained_mlp) / 8 + 1000


def test_the_given_network_is_left_alone(world, trained_mlp):
    before = copy.deepcopy(trained_mlp.state_dict())
    setting = world(trained_mlp)
    apply(setting.network, MagnitudePruning(sparsity=0.5, finetune={"iterations": 2}), setting.context)
    assert all(torch.equal(value, before[name]) for name, value in trained_mlp.state_dict().items())


def test_pruning_less_than_before_is_refused(world, trained_mlp):
    setting = world(trained_mlp)
    pruned = apply(setting.network, MagnitudePruning(sparsity=0.8), setting.context)
    with pytest.raises(EngineError) as caught:
        apply(pruned, MagnitudePruning(sparsity=0.5), setting.context)
    assert caught.value.code == "pruning_impossible"


def test_unknown_layers_are_named(world, trained_mlp):
    setting = world(trained_mlp)
    with pytest.raises(EngineError, match="head") as caught:
        apply(setting.network, MagnitudePruning(include=("head",)), setting.context)
    assert caught.value.code == "layer_not_found"
    apply(setting.network, MagnitudePruning(ignore=("re:.*head.*",)), setting.context)
    assert "pattern_unmatched" in [event.code for event in setting.of("warning")]


def test_a_network_without_prunable_layers_is_refused(world):
    module = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64))
    setting = world(module)
    with pytest.raises(EngineError) as caught:
        apply(setting.network, MagnitudePruning(), setting.context)
    assert caught.value.code == "pruning_impossible"
