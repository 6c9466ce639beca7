"""Widths share one set of weights: each computes what it computes alone, learns from all losses, and comes out of one file bit by bit."""

import copy
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from engine.architectures.vit.build import build
from engine.architectures.vit.spec import ViT
from engine.contract.errors import EngineError
from engine.contract.spec import Spec
from engine.formats.onnx.export import export_onnx
from engine.formats.onnx.importer.rebuild import build_module
from engine.formats.onnx.one_file import pack
from engine.methods.slimming.sandwich import Sandwich, all_widths, sandwich_rule, soft, summed
from engine.methods.slimming.slimmable import apply
from engine.methods.slimming.spec import Slimmable
from engine.methods.slimming.supernet import Supernet
from engine.methods.slimming.switchable import Switchable
from engine.structure.graph import ChannelGraph
from engine.structure.plan import Costs
from engine.training.batches import Batch
from engine.training.losses import targets_loss
from modelpress.runtime.subnets import SettingsFile
from tests.engine.conftest import CLASSES
from tests.engine.formats.onnx.exporting import export
from tests.engine.formats.onnx.networks import Case
from tests.engine.structure.masking import mask_as_cut

INPUTS = (torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)),)
WIDTHS = (0.25, 0.5, 1.0)


def params(**changes):
    return Slimmable(**({"widths": WIDTHS, "iterations": 3, "batch_size": 32} | changes))


def halves(graph):
    """Every other unit of each group, and every fourth."""
    return [{group.name: torch.arange(0, len(group.units), step) for group in graph.groups} for step in (2, 4)]


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(), nn.Linear(32, CLASSES),
    )  # fmt: skip


def test_a_width_computes_what_it_computes_alone_and_what_the_cut_network_computes(shaped):
    graph = ChannelGraph(shaped, INPUTS)
    cut = []
    for units in halves(graph):
        module = copy.deepcopy(shaped)
        on = graph.on(module)
        for group in on.groups:
            left = torch.ones(len(group.units), dtype=torch.bool)
            left[units[group.name]] = False
            on.remove(group, group.units[left].reshape(-1).tolist())
        cut.append(module)
    network = copy.deepcopy(Switchable(graph, halves(graph)).eval())
    for number, module in enumerate(cut, 1):
        assert torch.equal(network.at(number, *INPUTS), network.alone(number)(*INPUTS))
        assert torch.equal(network.at(number, *INPUTS), module(*INPUTS))
    assert torch.equal(network(*INPUTS), network.alone(0)(*INPUTS))


def test_what_a_width_leaves_out_is_as_if_masked(shaped):
    graph = ChannelGraph(shaped, INPUTS)
    network = Switchable(graph, halves(graph)).eval()
    masked = copy.deepcopy(shaped)
    for group in graph.on(masked).groups:
        left = torch.ones(len(group.units), dtype=torch.bool)
        left[halves(graph)[0][group.name]] = False
        mask_as_cut(group, group.units[left].reshape(-1))
    assert torch.allclose(network.at(1, *INPUTS), masked(*INPUTS), atol=1e-4)


@pytest.mark.parametrize("distill", [False, True])
def test_the_gradient_of_a_step_is_the_sum_of_the_widths_gradients(world, network_of, distill):
    here = world(network_of("residual"))
    graph = ChannelGraph(network_of("residual"), INPUTS)
    network = Switchable(graph, halves(graph))
    batch = Batch.of(here.context.split("train"), np.arange(32), ("x",), torch.device("cpu"))
    hard, match = targets_loss(here.context.reading()), soft(here.context)
    sandwich = Sandwich(copy.deepcopy(network), all_widths(3)).train()
    summed(sandwich, hard, match if distill else None)(sandwich(*batch.inputs), batch).backward()
    network.train()
    wanted = network(*batch.inputs).detach()
    for number in range(3):
        answer = network.at(number, *batch.inputs)
        loss = match([answer], [wanted]) if distill and number else hard(answer, batch)
        loss.backward()  # gradients add up
    for (name, ours), (_, theirs) in zip(sandwich.network.named_parameters(), network.named_parameters(), strict=True):
        assert ours.grad is not None, name
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-5), name


@pytest.mark.parametrize("distill", [False, True])
def test_the_loss_of_validation_examples_is_that_of_all_widths(world, network_of, distill):
    here = world(network_of("residual"))
    graph = ChannelGraph(network_of("residual"), INPUTS)
    sandwich = Sandwich(Switchable(graph, halves(graph)), all_widths(3)).eval()
    batch = Batch.of(here.context.split("train"), np.arange(32), ("x",), torch.device("cpu"))
    hard, match = targets_loss(here.context.reading()), soft(here.context)
    with torch.no_grad():
        found = summed(sandwich, hard, match if distill else None)(sandwich(*batch.inputs), batch)
        each = [sandwich.network.at(number, *batch.inputs) for number in range(3)]
    wanted = [match([answer], [each[0]]) if distill and number else hard(answer, batch) for number, answer in enumerate(each)]
    assert torch.allclose(found, torch.stack(wanted).sum())


def test_the_sandwich_has_the_largest_the_smallest_and_random_ones():
    choose = sandwich_rule((0, 3, 4, 1, 2), 4, seed=1)
    drawn = [choose(step) for step in range(40)]
    assert all((step[0], step[-1]) == (0, 2) and len(set(step)) == 4 for step in drawn)
    assert {number for step in drawn for number in step[1:-1]} == {3, 4, 1}
    assert drawn == [choose(step) for step in range(40)]


def test_every_width_has_statistics_and_scales_of_its_own(world):
    here = world(cnn())
    made = apply(here.network, params(epochs=2, iterations=None, learning_rate=0.01), here.context)
    assert [setting.name for setting in made.settings] == ["width 1", "width 0.5", "width 0.25"]
    wide, half, quarter = ([layer for layer in made.at(s).module.modules() if isinstance(layer, nn.BatchNorm2d)] for s in made.settings)
    assert [layer.num_features for layer in (wide[0], half[0], quarter[0])] == [16, 8, 4]
    assert set(quarter[1].weight.tolist()).isdisjoint(half[1].weight.tolist())
    assert set(quarter[1].running_mean.tolist()).isdisjoint(half[1].running_mean.tolist())
    shared = [next(layer for layer in made.at(s).module.modules() if isinstance(layer, nn.Conv2d)).weight for s in made.settings]
    assert {row.sum().item() for row in shared[2]} < {row.sum().item() for row in shared[1]} < {row.sum().item() for row in shared[0]}
    found = here.context.reported["widths"]
    for setting, row in zip(made.settings, found, strict=True):
        assert row["macs_count"] == Costs(made.at(setting).module, INPUTS).macs_count() == made.at(setting).count().macs_count


def test_universal_training_shares_scales_and_measures_statistics_for_each_width(world):
    here = world(cnn())
    made = apply(here.network, params(universal=True, samples=3), here.context)
    wide, half, _ = ([layer for layer in made.at(s).module.modules() if isinstance(layer, nn.BatchNorm2d)] for s in made.settings)
    assert set(half[1].weight.tolist()) <= set(wide[1].weight.tolist())
    assert set(half[1].running_mean.tolist()).isdisjoint(wide[1].running_mean.tolist())
    module, inputs = made.at(made.settings[1]).module, torch.from_numpy(here.data.splits["train"].images)
    behind = module[0](inputs)
    assert torch.allclose(half[0].running_mean, behind.mean((0, 2, 3)), atol=1e-4)


def test_a_largest_width_below_one_and_a_network_without_normalization(world):
    module = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, CLASSES)
    ).eval()
    here = world(copy.deepcopy(module))
    supernet = Supernet(module, params(), here.context)
    assert torch.allclose(supernet.module.eval()(*INPUTS), module(*INPUTS), atol=1e-5), "what is put in begins as the identity"
    made = apply(here.network, params(widths=(0.25, 0.5, 0.75)), here.context)
    widths = [[layer.out_channels for layer in made.at(s).module.modules() if isinstance(layer, nn.Conv2d)] for s in made.settings]
    assert widths == [[6, 6, 6], [4, 4, 4], [2, 2, 2]]
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in made.at(made.settings[0]).module.modules()) == 3


def test_a_width_that_empties_a_layer_names_it(world):
    here = world(cnn())
    with pytest.raises(EngineError, match="leaves nothing of the layer 0, which has 16 channels") as error:
        apply(here.network, params(widths=(0.01, 1.0)), here.context)
    assert error.value.code == "width_empties_layer"
    with pytest.raises(ValidationError, match="every width once"):
        params(widths=(0.5, 0.5))


@pytest.mark.parametrize("following", [{"method": "magnitude_pruning"}, {"method": "structured_pruning"}, {"method": "train", "epochs": 1}])
def test_what_would_make_one_network_of_the_widths_is_refused_before_anything_runs(following):
    steps = [{"method": "slimmable", "epochs": 1}, following]
    with pytest.raises(ValidationError, match="promote the width that you want"):
        Spec.model_validate({"model": "mdl_1", "dataset": "ds_1", "steps": steps})
    search = {"method": "autoslim", "budget": {"macs_ratio": 0.5}, "epochs": 0}
    assert Spec.model_validate({"model": "mdl_1", "dataset": "ds_1", "steps": [steps[0], search]})


def test_controls_stand_beside_the_widths(world):
    here = world(cnn())
    apply(here.network, params(controls=("individual", "shared", "sliced")), here.context)
    compared = here.context.reported["comparison"]
    assert compared.keys() == {"slimmable", "individual", "shared", "sliced"}
    assert all(figures.keys() == {"width 1", "width 0.5", "width 0.25"} for figures in compared.values())
    before = next(row for row in here.context.reported["stages"] if row["stage"] == "before")
    assert compared["sliced"]["width 1"]["test.top1"] == before["test.top1"]


class Encoder(nn.Module):
    """Tokens of an image's rows, two blocks of a BERT-like encoder, a head on the first token."""

    def __init__(self):
        super().__init__()
        self.embed, self.place = nn.Linear(8, 24), nn.Parameter(torch.randn(1, 8, 24))
        layers = [nn.TransformerEncoderLayer(24, 4, 48, batch_first=True, activation="gelu") for _ in range(2)]
        self.layers, self.head = nn.ModuleList(layers), nn.Linear(24, CLASSES)

    def forward(self, x):
        x = self.embed(x[:, 0]) + self.place
        for layer in self.layers:
            x = layer(x)
        return self.head(x[:, 0])


def vit():
    return build(ViT(in_channels=1, image_size=8, patch_size=4, width=24, heads=4, depth=2, num_classes=CLASSES))


@pytest.mark.parametrize(("make", "exporter"), [(vit, "dynamo"), (Encoder, "legacy")])
def test_an_uploaded_transformer_nests_its_heads_and_hidden_units(world, make, exporter, tmp_path: Path):
    torch.manual_seed(0)
    module = build_module(onnx.load(export(make().eval(), Case(make, ((1, 8, 8),)), tmp_path / "m.onnx", exporter=exporter)))
    here = world(module)
    made = apply(here.network, params(ranking="taylor"), here.context)
    units = [row["units"] for row in here.context.reported["widths"]]
    assert sorted(units[0].values()) == sorted([4, 4, *([96, 96] if make is vit else [48, 48])])
    assert [min(each.values()) for each in units] == [4, 2, 1]
    _check_file(made, tmp_path)


def test_one_file_holds_all_widths_of_a_convolutional_network(world, tmp_path: Path):
    wide = nn.Sequential(
        nn.Conv2d(1, 64, 3), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 128, 3), nn.BatchNorm2d(128), nn.ReLU(), nn.Flatten(),
        nn.Linear(2048, 64), nn.ReLU(), nn.Linear(64, CLASSES),
    )  # fmt: skip
    here = world(wide)
    made = apply(here.network, params(widths=(0.25, 0.5, 0.75, 1.0)), here.context)
    whole, plain = _check_file(made, tmp_path)
    assert whole.stat().st_size <= 1.05 * plain.stat().st_size


def _check_file(made, folder: Path) -> tuple[Path, Path]:
    """Each width cut out of one file is the model that it is exported as alone, bit for bit, runs, and computes what it does in memory."""
    plain, models = made.plain(), []
    for setting in made.settings:
        export_onnx(plain.at(setting).module, made.signature, folder / f"{setting.name}.onnx", keep_normalization=True)
        models.append((setting, onnx.load(folder / f"{setting.name}.onnx")))
    whole = folder / "whole.onnx"
    network = plain.module
    onnx.save_model(pack(models, set().union(*(network.kept(number) for number in range(network.count)))), str(whole))
    packed = SettingsFile(whole.read_bytes())
    for number, (setting, model) in enumerate(models):
        cut = b"".join(packed.cut(packed.setting(**setting.values)))
        assert onnx.load_from_string(cut) == model
        (answer,) = ort.InferenceSession(cut).run(None, {"x": INPUTS[0].numpy()})
        assert torch.equal(network.at(number, *INPUTS), plain.at(setting).module(*INPUTS))
        np.testing.assert_allclose(answer, network.at(number, *INPUTS).detach().numpy(), atol=1e-4)
    (widest,) = ort.InferenceSession(whole).run(None, {"x": INPUTS[0].numpy()})
    np.testing.assert_allclose(widest, network(*INPUTS).detach().numpy(), atol=1e-4)
    return whole, folder / f"{made.settings[0].name}.onnx"
