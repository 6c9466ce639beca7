"""Augmented batches of a training, and what is refused because it would be wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.contract.augment import Augment
from engine.contract.errors import EngineError
from engine.contract.heads import Head
from engine.data.pictures import HasPictures, Picture
from engine.tasks import task_of
from engine.training.augmentation import transforms
from engine.training.augmentation.draws import Draws
from engine.training.batches import Batch, Examples, Indices, Mixed

ALL = slice(None)


@dataclass(frozen=True)
class Augmenter:
    """Makes batches of one training."""

    augment: Augment
    examples: Examples
    names: Sequence[str]
    seed: int
    device: torch.device
    pictures: Mapping[str, Picture]
    """Inputs that are pictures."""
    tokens: str | None
    """The input whose tokens are dropped."""
    moving: Mapping[str, tuple[int, int]]
    """Targets that move with the picture, and their axes of height and width."""

    @classmethod
    def of(
        cls, augment: Augment, examples: Examples, names: Sequence[str], heads: Sequence[Head], *, seed: int, device: torch.device
    ) -> Augmenter:
        """For examples that are trained on the targets of `heads`. Raises `augmentation_invalid` where inputs or targets do not allow it."""
        first = Batch.of(examples, np.arange(1), names, device)
        inputs = dict(zip(names, first.inputs, strict=True))
        pictures = dict(examples.pictures) if isinstance(examples, HasPictures) else {}
        if augment.pictures and not pictures:
            raise _invalid(
                "No input of the dataset is known to be a picture",
                "State metadata.preprocessing.layout of the dataset, such as NHWC, or leave out flip, crop, shift, cutout and color_jitter.",
            )
        if augment.mixup is not None and (whole := [name for name, value in inputs.items() if not value.is_floating_point()]):
            raise _invalid(f"mixup adds up examples, and the input {whole[0]!r} holds whole numbers", "Leave out mixup.")
        moving = _moving(first, heads, pictures, augment) if augment.moves else {}
        return cls(augment, examples, names, seed, device, pictures, _tokens(augment, inputs), moving)

    def batch(self, indices: Indices, part: slice, iteration: int) -> Batch:
        """The examples of a batch that stand in `part` of `indices`, augmented for this optimizer step."""
        draws = Draws(self.augment, len(indices), self.seed, iteration, self.device)
        if self.augment.mixup is None:
            return self._changed(indices, part, draws)
        whole = self._changed(indices, ALL, draws)
        share, partners = draws.partners()
        places = torch.from_numpy(partners).to(self.device)
        inputs = tuple(item if item.ndim == 0 else transforms.mixed(item, item[places], share)[part] for item in whole.inputs)
        own, others = ({name: array[at] for name, array in whole.stored.items()} for at in (part, partners[part]))
        given, theirs = ({name: _rows(array, at) for name, array in whole.given.items()} for at in (part, partners[part]))
        return replace(whole, inputs=inputs, indices=indices[part], stored=own, given=given, mixed=Mixed(share, others, theirs))

    def _changed(self, indices: Indices, part: slice, draws: Draws) -> Batch:
        batch = Batch.of(self.examples, indices[part], self.names, self.device)
        inputs = [self._input(name, value, part, draws) for name, value in zip(self.names, batch.inputs, strict=True)]
        stored = dict(batch.stored)
        for name, (height, width) in self.moving.items():
            target = torch.from_numpy(np.ascontiguousarray(stored[name])).to(self.device)
            movement = draws.movement((target.shape[height], target.shape[width]), part)
            nearest = not target.is_floating_point() or bool((target == target.round()).all())
            stored[name] = transforms.moved(target, movement, height, width, nearest=nearest).cpu().numpy()
        return replace(batch, inputs=tuple(inputs), stored=stored, origin=None)

    def _input(self, name: str, value: Tensor, part: slice, draws: Draws) -> Tensor:
        if name == self.tokens and self.augment.token_dropout is not None:
            dropout = self.augment.token_dropout
            return transforms.dropped(value, draws.tokens(tuple(value.shape[1:]), part), dropout.replacement, dropout.keep)
        picture = self.pictures.get(name)
        return value if picture is None or not self.augment.pictures else self._picture(value, picture, part, draws)

    def _picture(self, value: Tensor, picture: Picture, part: slice, draws: Draws) -> Tensor:
        shown = value.reshape(len(value), *picture.shape)
        height, width = picture.height + 1, picture.width + 1
        if self.augment.moves:
            shown = transforms.moved(shown, draws.movement(picture.size, part), height, width)
        if self.augment.color_jitter is not None:
            channels = None if picture.channels is None else picture.channels + 1
            factor, offset = (torch.from_numpy(np.asarray(item)).to(shown) for item in (picture.factor, picture.offset))
            pixels = (shown - offset) / factor * picture.scale
            shown = transforms.jittered(pixels, *draws.factors(part), channels) / picture.scale * factor + offset
        if self.augment.cutout is not None:
            side = max(1, round(self.augment.cutout * min(picture.size)))
            shown = transforms.cut_out(shown, draws.middles(picture.size, part), side, (height, width))
        return shown.reshape(value.shape).contiguous()


def _rows(array: NDArray[Any], at: slice | Indices) -> NDArray[Any]:
    return array[at] if array.ndim else array


def _tokens(augment: Augment, inputs: Mapping[str, Tensor]) -> str | None:
    dropout = augment.token_dropout
    if dropout is None:
        return None
    whole = [name for name, value in inputs.items() if value.ndim > 1 and not value.is_floating_point() and value.dtype != torch.bool]
    if dropout.input is not None and dropout.input not in inputs:
        raise _invalid(f"token_dropout names the input {dropout.input!r}, which is not there", f"Inputs: {', '.join(inputs)}.")
    if dropout.input is not None and dropout.input not in whole:
        raise _invalid(f"token_dropout names the input {dropout.input!r}, which holds no tokens", "Name an input of integers.")
    if not whole:
        raise _invalid("token_dropout needs an input of tokens, and no input holds whole numbers", "Leave it out.")
    return dropout.input or whole[0]


def _moving(first: Batch, heads: Sequence[Head], pictures: Mapping[str, Picture], augment: Augment) -> dict[str, tuple[int, int]]:
    """Targets that have to move with the pictures. Raises `augmentation_invalid` for those of which nobody knows how they would."""
    sizes = {picture.size for picture in pictures.values()}
    if len(sizes) > 1:
        raise _invalid("The network has pictures of several sizes, which cannot be moved alike", "Leave out flip, crop and shift.")
    found: dict[str, tuple[int, int]] = {}
    for head in heads:
        if head.target is None or head.target not in first.stored:
            continue
        shape = first.stored[head.target].shape
        axes = next(((axis, axis + 1) for axis in range(1, len(shape) - 1) if shape[axis : axis + 2] in sizes), None)
        if axes is not None:
            found[head.target] = axes
        elif not augment.keep_targets and (len(shape) > 2 or not task_of(head).keeps_when_moved):
            raise _invalid(
                f"Nobody knows what the target {head.target!r} ({head.task}) is when the picture moves",
                "Leave out flip, crop and shift, or state keep_targets: true if it stays what it is.",
            )
    return found


def _invalid(what: str, hint: str) -> EngineError:
    return EngineError("augmentation_invalid", f"{what}.", hint=hint)
