"""What augmentation does to inputs, targets and losses, by the formulas; and what it refuses."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from engine.contract.augment import Augment
from engine.contract.errors import EngineError
from engine.contract.heads import Head
from engine.contract.metadata import PreprocessingSpec
from engine.contract.params import TrainingFields
from engine.data.dataset import Split
from engine.data.preprocessing import Preprocessing
from engine.networks.network import TensorSpec
from engine.training.augmentation import transforms
from engine.training.augmentation.augmenter import Augmenter
from engine.training.augmentation.draws import Draws
from engine.training.losses import targets_loss
from tests.engine.conftest import make_split

CPU = torch.device("cpu")
LABELS = Head(name="y", indices=(0,), task="classification", target="y", class_axis=1, classes_count=5, scale="logits")


def augmenter(augment, examples=None, heads=(LABELS,), seed=3):
    return Augmenter.of(Augment(**augment), examples or make_split(12, 1), ["x"], heads, seed=seed, device=CPU)


def sources(size, start=0.0, length=None, mirrored=False, shift=0):
    first, second = (torch.tensor([float(value)], dtype=torch.float64) for value in (start, size if length is None else length))
    return transforms.sources(size, first, second, torch.tensor([mirrored]), torch.tensor([float(shift)], dtype=torch.float64))


@pytest.mark.parametrize("shift", [-3, 0, 2])
def test_a_shift_moves_whole_places_and_repeats_the_border(shift):
    picture = np.random.default_rng(0).normal(size=(6, 7)).astype(np.float32)
    movement = transforms.Movement(sources(6, shift=shift), sources(7))
    padded = np.pad(picture, ((3, 3), (0, 0)), mode="edge")
    expected = padded[3 - shift : 9 - shift]
    assert np.array_equal(transforms.moved(torch.from_numpy(picture)[None], movement, 1, 2)[0].numpy(), expected)


def test_a_flip_is_an_exact_mirror():
    picture = torch.randn(1, 2, 5, 4)
    movement = transforms.Movement(sources(5), sources(4, mirrored=True))
    assert torch.equal(transforms.moved(picture, movement, 2, 3), picture.flip(3))


def test_a_crop_reads_a_plane_exactly_where_the_centers_of_its_pixels_are():
    """Bilinear interpolation of a linear function is that function."""
    rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(6.0), indexing="ij")
    plane = (2 * rows - 3 * columns + 1)[None]
    movement = transforms.Movement(sources(8, start=1.5, length=4), sources(6, start=0.75, length=3))
    y, x = 1.5 + (torch.arange(8.0) + 0.5) * 4 / 8 - 0.5, 0.75 + (torch.arange(6.0) + 0.5) * 3 / 6 - 0.5
    expected = 2 * y[:, None] - 3 * x[None] + 1
    torch.testing.assert_close(transforms.moved(plane, movement, 1, 2)[0], expected, atol=1e-5, rtol=0)
    classes = transforms.moved(plane.long(), movement, 1, 2, nearest=True)
    assert torch.equal(classes[0], plane[0].long()[(y + 0.5).floor().long()][:, (x + 0.5).floor().long()])


def test_cutout_fills_a_square_around_the_middle_with_each_channels_mean():
    values = torch.randn(2, 3, 8, 9)
    cut = transforms.cut_out(values, (torch.tensor([0, 5]), torch.tensor([8, 4])), 4, (2, 3))
    means = values.mean(dim=(2, 3))
    for example, (rows, columns) in enumerate([(slice(0, 2), slice(6, 9)), (slice(3, 7), slice(2, 6))]):
        expected = values[example].clone()
        expected[:, rows, columns] = means[example][:, None, None]
        torch.testing.assert_close(cut[example], expected)


def test_jitter_acts_on_pixels_whatever_the_normalization_was():
    rng = np.random.default_rng(0)
    stored = rng.integers(0, 256, (4, 6, 5, 3), dtype=np.uint8)
    stated = PreprocessingSpec(scale=1 / 255, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25), layout="NHWC")
    split = Split("train", {"x": stored}, {}, {"x": Preprocessing(stated, (6, 5, 3), TensorSpec("x", (None, 3, 6, 5)))})
    made = augmenter({"color_jitter": {"brightness": 0.3, "contrast": 0.4, "saturation": 0.5}}, split, ())
    got = made.batch(np.arange(4), slice(None), 7).inputs[0]
    factors = [f.float().reshape(-1, 1, 1, 1) for f in Draws(made.augment, 4, 3, 7, CPU).factors(slice(None))]
    pixels = torch.from_numpy(stored).permute(0, 3, 1, 2) / 255 * factors[0]
    weights = torch.tensor([0.299, 0.587, 0.114]).reshape(1, 3, 1, 1)
    mean = (pixels * weights).sum(1).mean((1, 2)).reshape(-1, 1, 1, 1)
    pixels = mean + factors[1] * (pixels - mean)
    around = (pixels * weights).sum(1, keepdim=True)
    pixels = around + factors[2] * (pixels - around)
    mean, std = (torch.tensor(value).reshape(1, 3, 1, 1) for value in (stated.mean, stated.std))
    torch.testing.assert_close(got, (pixels - mean) / std, atol=2e-5, rtol=1e-5)


def test_mixup_mixes_inputs_and_losses_by_the_same_share():
    examples = make_split(12, 1)
    made = augmenter({"mixup": 0.7}, examples)
    batch = made.batch(np.arange(12), slice(None), 2)
    share, partners = Draws(made.augment, 12, 3, 2, CPU).partners()
    assert 0.5 <= share < 1
    x, y = torch.from_numpy(examples.images), torch.from_numpy(examples.labels)
    torch.testing.assert_close(batch.inputs[0], share * x + (1 - share) * x[partners])
    logits = torch.randn(12, 5)
    expected = share * functional.cross_entropy(logits, y) + (1 - share) * functional.cross_entropy(logits, y[partners])
    torch.testing.assert_close(targets_loss([LABELS])(logits, batch), expected)


ALL = {"flip": "both", "shift": 2, "crop": 0.4, "cutout": 0.4, "mixup": 0.5, "color_jitter": 0.3}


def test_draws_depend_on_seed_and_step_alone_and_parts_of_a_batch_are_those_of_the_whole():
    made = augmenter(ALL)
    indices = np.array([3, 1, 4, 10, 5, 9, 2])
    whole = made.batch(indices, slice(0, 7), 5)
    parts = [made.batch(indices, part, 5) for part in (slice(0, 3), slice(3, 7))]
    assert torch.equal(whole.inputs[0], torch.cat([part.inputs[0] for part in parts]))
    logits = torch.randn(7, 5)
    losses = [targets_loss([LABELS])(logits[at], part) for at, part in zip((slice(0, 3), slice(3, 7)), parts, strict=True)]
    torch.testing.assert_close(targets_loss([LABELS])(logits, whole), (3 * losses[0] + 4 * losses[1]) / 7)
    assert torch.equal(augmenter(ALL).batch(indices, slice(0, 7), 5).inputs[0], whole.inputs[0])
    for other in (made.batch(indices, slice(0, 7), 6), augmenter(ALL, seed=4).batch(indices, slice(0, 7), 5)):
        assert not torch.equal(other.inputs[0], whole.inputs[0])


class Maps:
    """Pictures whose targets are the pictures themselves, as classes of places."""

    def __init__(self):
        self.images = np.random.default_rng(0).integers(0, 5, (6, 1, 8, 8)).astype(np.float32)
        self.count = 6
        self.targets = {"y": self.images[:, 0].astype(np.int64)}
        self.pictures = make_split(1, 0).pictures

    def targets_at(self, indices):
        return {"y": self.targets["y"][indices]}

    def batch(self, indices):
        return {"x": self.images[indices]}, self.targets_at(indices)


def test_targets_that_are_pictures_move_along():
    head = Head(name="y", indices=(0,), task="segmentation", target="y", class_axis=1, classes_count=5, scale="logits")
    made = augmenter({"flip": "both", "shift": 3}, Maps(), (head,))
    batch = made.batch(np.arange(6), slice(None), 0)
    assert np.array_equal(batch.inputs[0][:, 0].numpy().astype(np.int64), batch.stored["y"])
    assert not np.array_equal(batch.stored["y"], Maps().targets["y"])


def test_targets_of_which_nobody_knows_how_they_move_are_refused():
    values = Head(name="y", indices=(0,), task="regression", target="y")
    with pytest.raises(EngineError) as caught:
        augmenter({"flip": "horizontal"}, heads=(values,))
    assert caught.value.code == "augmentation_invalid"
    assert "keep_targets" in caught.value.hint
    augmenter({"flip": "horizontal", "keep_targets": True}, heads=(values,))
    augmenter({"cutout": 0.5}, heads=(values,))


class Tokens:
    def __init__(self):
        self.tokens = np.random.default_rng(0).integers(0, 50, (400, 20))
        self.count, self.targets = 400, {}

    def targets_at(self, indices):
        return {}

    def batch(self, indices):
        return {"x": self.tokens[indices]}, {}


def test_dropped_tokens_are_replaced_but_for_those_that_are_kept():
    made = augmenter({"token_dropout": {"ratio": 0.3, "replacement": 99, "keep": [0, 7]}}, Tokens(), ())
    before, after = Tokens().tokens, made.batch(np.arange(400), slice(None), 0).inputs[0].numpy()
    changed = after != before
    assert (after[changed] == 99).all()
    assert not changed[np.isin(before, (0, 7))].any()
    others = ~np.isin(before, (0, 7))
    assert changed[others].mean() == pytest.approx(0.3, abs=4 * np.sqrt(0.3 * 0.7 / others.sum()))


@pytest.mark.parametrize(
    ("augment", "examples"),
    [({"flip": "both"}, Tokens()), ({"mixup": 1.0}, Tokens()), ({"token_dropout": {"ratio": 0.1, "replacement": 1}}, None)],
    ids=["no picture", "whole numbers", "no tokens"],
)
def test_inputs_that_do_not_allow_it_are_refused(augment, examples):
    with pytest.raises(EngineError) as caught:
        augmenter(augment, examples, ())
    assert caught.value.code == "augmentation_invalid"
    assert caught.value.hint


def test_flattened_and_channels_last_pictures_are_moved_as_pictures():
    stored = np.random.default_rng(0).normal(size=(3, 6, 5, 3)).astype(np.float32)
    for target in ((None, 3, 6, 5), (None, 6, 5, 3), (None, 90)):
        ready = Preprocessing(PreprocessingSpec(layout="NHWC"), (6, 5, 3), TensorSpec("x", target))
        split = Split("train", {"x": stored}, {}, {"x": ready})
        batch = augmenter({"flip": "both", "shift": 2}, split, ()).batch(np.arange(3), slice(None), 1)
        shown = batch.inputs[0].reshape(3, *split.pictures["x"].shape)
        channels_last = shown if split.pictures["x"].channels == 2 else shown.permute(0, 2, 3, 1)
        first = augmenter({"flip": "both", "shift": 2}, split, ()).pictures["x"]
        assert first.size == (6, 5)
        if target == (None, 3, 6, 5):
            expected = channels_last
        assert torch.equal(channels_last, expected)


def test_a_training_sees_other_pictures_in_each_epoch(world):
    seen = []

    class Spy(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(64, 5)

        def forward(self, x):
            if self.training:
                seen.append(x.sum().item())
            return self.head(x.flatten(1))

    params = TrainingFields(epochs=3, batch_size=200, augment={"shift": 2})
    history = world(Spy()).context.train(Spy(), params)
    assert len({round(value, 3) for value in seen}) == 3
    assert all(0 <= record["train.accuracy"] <= 1 for record in history.epochs)
