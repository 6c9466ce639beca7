"""A supermask changes no weight: it learns one bit for each, by the papers' gradients, and its file gives the network back."""

import copy

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from engine.formats.sparse import load_sparse
from engine.methods.pruning.magnitude_pruning import apply as prune
from engine.methods.pruning.spec import MagnitudePruning, Supermask
from engine.methods.pruning.supermask import LearnedMask, apply, fans
from engine.networks import masks

ALGORITHMS = ("bernoulli", "round", "edge_popup")


def params(**changes):
    return Supermask(**({"iterations": 60, "batch_size": 50} | changes))


def weights_of(module):
    return {name: p.detach() for name, p in masks.fold(module).named_parameters()}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_weights_stay_bit_identical_and_biases_unmasked(world, trained_mlp, algorithm):
    setting = world(trained_mlp)
    result = apply(setting.network, params(algorithm=algorithm, dwr=False), setting.context).module
    before, after = weights_of(trained_mlp), weights_of(result)
    held = masks.held(result)
    assert held.keys() == {"1.weight", "3.weight", "5.weight"}
    for name, weight in before.items():
        keep = held[name].keep if name in held else torch.ones_like(weight, dtype=torch.bool)
        assert torch.equal(after[name], torch.where(keep, weight, 0.0)), name
    sums = setting.context.reported["frozen_weights_sha256"]
    assert sums["before"] == sums["after"]


def test_a_drawn_mask_is_binary_fresh_and_as_dense_as_its_probability():
    mask = LearnedMask(torch.full((200, 200), -1.0), params(dwr=False))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first, second = (mask(torch.ones(200, 200)).detach() for _ in range(2))
        mask.eval()
        third = mask(torch.ones(200, 200)).detach()
    for drawn in (first, second, third):
        assert set(drawn.unique().tolist()) == {0.0, 1.0}
        # Four standard deviations of a mean of 40,000 bits.
        assert float(drawn.mean()) == pytest.approx(float(torch.sigmoid(torch.tensor(-1.0))), abs=0.009)
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)


def test_the_gradient_passes_straight_through_the_draw():
    """d loss / d score = d loss / d (masked weight) · weight · sigmoid'(score), whatever bit was drawn."""
    scores = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    weight, upstream = torch.randn(6, 5), torch.randn(6, 5)
    mask = LearnedMask(scores, params(dwr=False))
    (mask(weight) * upstream).sum().backward()
    probability = torch.sigmoid(scores)
    assert torch.allclose(mask.scores.grad, upstream * weight * probability * (1 - probability), atol=1e-6)


def test_dynamic_rescaling_keeps_its_gradient():
    """With s = n / Σm: d(w·m·s)/dm also has the term -Σ(u·w·m)·n / (Σm)², the same for every weight."""
    scores = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    weight, upstream = torch.randn(6, 5), torch.randn(6, 5)
    mask = LearnedMask(scores, params())
    with torch.random.fork_rng():
        torch.manual_seed(3)
        drawn = mask.mask().detach()
        torch.manual_seed(3)
        effective = mask(weight)
    total, kept = drawn.numel(), drawn.sum()
    assert torch.allclose(effective, weight * drawn * total / kept)
    (effective * upstream).sum().backward()
    probability = torch.sigmoid(scores)
    by_mask = upstream * weight * total / kept - (upstream * weight * drawn).sum() * total / kept**2
    assert torch.allclose(mask.scores.grad, by_mask * probability * (1 - probability), atol=1e-5)


def test_edge_popup_keeps_the_largest_scores_and_lets_every_score_learn():
    scores = torch.randn(8, 10, generator=torch.Generator().manual_seed(0))
    mask = LearnedMask(scores, params(algorithm="edge_popup", k=0.3))
    weight, upstream = torch.randn(8, 10), torch.randn(8, 10)
    effective = mask(weight)
    keep = effective.detach() != 0
    assert int(keep.sum()) == 24
    assert scores.abs()[keep].min() > scores.abs()[~keep].max()
    (effective * upstream).sum().backward()
    assert torch.allclose(mask.scores.grad, upstream * weight * scores.sign())


def test_round_rounds_half_in_training_and_all_at_evaluation():
    scores = torch.randn(100, 100, generator=torch.Generator().manual_seed(0))
    mask = LearnedMask(scores, params(algorithm="round"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = mask.mask().detach()
    rounded = (drawn == 0) | (drawn == 1)
    assert float(rounded.float().mean()) == pytest.approx(0.5, abs=0.02)
    assert torch.equal(drawn[rounded], (scores > 0).float()[rounded])
    assert torch.allclose(drawn[~rounded], torch.sigmoid(scores)[~rounded])
    assert torch.equal(mask.eval().mask().detach(), (scores > 0).float())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("weights", ["init", "signed_constant"])
@pytest.mark.parametrize("initialization", ["given", "random"])
def test_the_compact_file_gives_the_network_back_bit_by_bit(world, trained_cnn, algorithm, weights, initialization):
    setting = world(trained_cnn)
    chosen = params(algorithm=algorithm, weights=weights, initialization=initialization, iterations=5)
    result = apply(setting.network, chosen, setting.context).module
    (file,) = setting.context.files
    state, expected = load_sparse(file.path), masks.fold(result).state_dict()
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(state[name], value), name


def test_a_seed_is_all_that_the_file_holds_of_the_weights(world):
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 1000), nn.ReLU(), nn.Linear(1000, 5))
    setting = world(module)
    apply(setting.network, params(initialization="random", iterations=1), setting.context)
    (file,) = setting.context.files
    bits = 64 * 1000 + 1000 * 5
    assert file.path.stat().st_size < bits / 8 + 4 * (1000 + 5) + 1000


def test_random_initialization_draws_the_papers_deviations(world):
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 1000), nn.ReLU(), nn.Linear(1000, 5))
    for expected, changes in (((2 / 1064) ** 0.5, {"score_init": 20}), ((2 / (64 * 0.9)) ** 0.5, {"algorithm": "edge_popup", "k": 0.9})):
        setting = world(copy.deepcopy(module))
        chosen = params(initialization="random", iterations=0, dwr=False, **changes)
        result = weights_of(apply(setting.network, chosen, setting.context).module)
        weight = result["1.weight"]
        assert float(weight[weight != 0].std()) == pytest.approx(expected, rel=0.02)
        assert (result["1.bias"] == 0).all()
    assert fans(nn.Conv2d(4, 6, 3)) == (36, 54)
    assert fans(nn.ConvTranspose2d(6, 4, 3)) == (54, 36)


def test_signed_constants_have_one_magnitude_per_layer_and_the_old_signs(world, trained_mlp):
    setting = world(trained_mlp)
    chosen = params(weights="signed_constant", constant_multiplier=2.0, dwr=False)
    result = weights_of(apply(setting.network, chosen, setting.context).module)["3.weight"]
    old = weights_of(trained_mlp)["3.weight"]
    kept = result != 0
    assert result[kept].abs().unique().tolist() == pytest.approx([2 * float(old.std(correction=0))])
    assert torch.equal(result[kept].sign(), old[kept].sign())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_mask_alone_learns(world, algorithm):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        module = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 5))
    setting = world(module)
    apply(setting.network, params(algorithm=algorithm, initialization="random", iterations=150), setting.context)
    stages = {stage["stage"]: stage["test.top1"] for stage in setting.context.reported["stages"]}
    assert stages["masked"] > 0.7
    assert stages["untrained"] < 0.4
    if algorithm == "bernoulli":
        sampled = setting.context.reported["sampled"]["test.top1"]
        assert len(sampled["values"]) == 10
        assert sampled["mean"] > 0.6
        assert setting.context.metrics["test.top1_sampled_mean"] == sampled["mean"]


def test_statistics_of_batch_normalization_are_those_of_the_published_mask(world, trained_cnn, toy_split):
    setting = world(trained_cnn)
    module = masks.fold(apply(setting.network, params(iterations=20), setting.context).module)
    images = torch.from_numpy(setting.data.splits["train"].images)
    with torch.no_grad():
        assert torch.allclose(module[1].running_mean, module[0](images).mean((0, 2, 3)), atol=1e-5)


def test_what_was_pruned_before_stays_pruned(world, trained_mlp):
    setting = world(trained_mlp)
    pruned = prune(setting.network, MagnitudePruning(sparsity=0.6), setting.context)
    result = apply(pruned, params(iterations=5), setting.context).module
    old, new = masks.held(pruned.module), masks.held(result)
    assert all(not (new[name].keep & ~mask.keep).any() for name, mask in old.items())


def test_layers_that_are_left_out_keep_the_mask_that_they_have(world, trained_mlp):
    setting = world(trained_mlp)
    pruned = prune(setting.network, MagnitudePruning(sparsity=0.6), setting.context)
    result = apply(pruned, params(iterations=2, ignore=("1",)), setting.context).module
    assert torch.equal(masks.held(result)["1.weight"].keep, masks.held(pruned.module)["1.weight"].keep)
    assert torch.equal(masks.fold(result)[1].weight, masks.fold(pruned.module)[1].weight)


def test_dynamic_rescaling_scales_by_the_mask_that_it_learned_with(world, trained_mlp):
    """Weights that were pruned before are zero under any mask: counting them out would scale the rest once more."""
    setting = world(trained_mlp)
    pruned = prune(setting.network, MagnitudePruning(sparsity=0.75, scope="layer"), setting.context)
    result = apply(pruned, params(algorithm="edge_popup", k=0.5, dwr=True, iterations=2), setting.context).module
    old, new = masks.fold(pruned.module)[3].weight, masks.fold(result)[3].weight
    kept = new != 0
    assert 0 < int(kept.sum()) < 0.25 * kept.numel()
    assert torch.allclose(new[kept], 2 * old[kept])


def test_same_seed_same_mask(world, trained_mlp):
    kept = []
    for seed in (0, 0, 1):
        setting = world(trained_mlp, seed=seed)
        kept.append(masks.held(apply(setting.network, params(iterations=10), setting.context).module)["3.weight"].keep)
    assert torch.equal(kept[0], kept[1])
    assert not torch.equal(kept[0], kept[2])


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"k": 0.2}, "edge_popup"),
        ({"algorithm": "round", "eval_samples": 3}, "eval_samples"),
        ({"algorithm": "edge_popup", "published_mask": "rounded"}, "published_mask"),
        ({"algorithm": "edge_popup", "score_init": 1.0}, "bernoulli"),
        ({"constant_multiplier": 2.0}, "signed_constant"),
        ({"iterations": None}, "epochs"),
    ],
)
def test_parameters_that_would_do_nothing_are_refused(changes, word):
    with pytest.raises(ValidationError, match=word):
        params(**changes)


def test_edge_popup_has_defaults_of_its_own_that_survive_normalization():
    chosen = params(algorithm="edge_popup")
    assert (chosen.learning_rate, chosen.dwr, chosen.schedule, chosen.weight_decay) == (0.1, False, "cosine", 5e-4)
    assert Supermask.model_validate(chosen.model_dump()) == chosen
    assert params(algorithm="edge_popup", learning_rate=100).learning_rate == 100
