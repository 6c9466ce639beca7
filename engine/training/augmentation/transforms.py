"""The mathematics of augmentation: what is done to pictures, given the numbers that were drawn. Nothing here is random."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

GRAY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a place's gray (ITU-R BT.601)."""


@dataclass(frozen=True)
class Movement:
    """Where each row and column of a moved picture comes from: (N, height) and (N, width), in rows and columns of the original."""

    rows: Tensor
    columns: Tensor

    @property
    def whole(self) -> bool:
        """Whether every place comes from one place, so that nothing has to be interpolated."""
        return all(bool((item == item.round()).all()) for item in (self.rows, self.columns))


def sources(size: int, start: Tensor, length: Tensor, mirrored: Tensor, shift: Tensor) -> Tensor:
    """(N, size) places along one axis, within the border, that a movement takes its values from.

    `start` and `length` (N) are the cut part, in places; pixels are squares, of which centers are compared. Then the picture is mirrored,
    and moved by `shift` places; what comes in repeats the border.
    """
    places = torch.arange(size, dtype=torch.float64, device=start.device)[None] - shift[:, None]
    places = places.clamp(0, size - 1)
    places = torch.where(mirrored[:, None], size - 1 - places, places)
    return (start[:, None] + (places + 0.5) * (length[:, None] / size) - 0.5).clamp(0, size - 1)


def moved(values: Tensor, movement: Movement, height: int, width: int, *, nearest: bool = False) -> Tensor:
    """`values` (N, …) with axes of height and width, each example moved; bilinear between places, or the nearest one."""
    return _along(_along(values, movement.rows, height, nearest), movement.columns, width, nearest)


def _along(values: Tensor, places: Tensor, axis: int, nearest: bool) -> Tensor:
    size = values.shape[axis]
    if nearest:
        return _gathered(values, (places + 0.5).floor().long().clamp(0, size - 1), axis)
    below = places.floor()
    share = places - below
    first = _gathered(values, below.long(), axis)
    if not bool(share.any()):
        return first
    second = _gathered(values, (below.long() + 1).clamp(max=size - 1), axis)
    shape = [1] * values.ndim
    shape[0], shape[axis] = share.shape
    return torch.lerp(first, second, share.to(values.dtype).reshape(shape))


def _gathered(values: Tensor, places: Tensor, axis: int) -> Tensor:
    shape = [1] * values.ndim
    shape[0], shape[axis] = places.shape
    return torch.gather(
        values, axis, places.reshape(shape).expand(*(places.shape[1] if i == axis else n for i, n in enumerate(values.shape)))
    )


def cut_out(values: Tensor, middles: tuple[Tensor, Tensor], side: int, axes: tuple[int, int]) -> Tensor:
    """Each example with a square of `side` places, whose middle is at (row, column), replaced by the mean of each channel.

    `axes` are those of height and width.
    """
    inside = _band(values, middles[0], side, axes[0]) & _band(values, middles[1], side, axes[1])
    return torch.where(inside, values.mean(dim=axes, keepdim=True), values)


def _band(values: Tensor, middle: Tensor, side: int, axis: int) -> Tensor:
    places = torch.arange(values.shape[axis], device=values.device)[None]
    start = middle[:, None] - side // 2
    shape = [1] * values.ndim
    shape[0], shape[axis] = len(middle), values.shape[axis]
    return ((places >= start) & (places < start + side)).reshape(shape)


def jittered(pixels: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor, channels: int | None) -> Tensor:
    """Pictures of pixel values, each with its own factors (N): brightness, then contrast around the mean gray, then saturation.

    `channels` is the axis of the channels; pictures that have not three of them are their own gray.
    """
    factors = [factor.to(pixels.dtype).reshape(-1, *[1] * (pixels.ndim - 1)) for factor in (brightness, contrast, saturation)]
    pixels = pixels * factors[0]
    mean = gray(pixels, channels).flatten(1).mean(1).reshape(-1, *[1] * (pixels.ndim - 1))
    pixels = mean + factors[1] * (pixels - mean)
    around = gray(pixels, channels)
    return around + factors[2] * (pixels - around)


def gray(pixels: Tensor, channels: int | None) -> Tensor:
    """The gray of each place, with one channel; pictures of other than three channels as they are."""
    if channels is None or pixels.shape[channels] != len(GRAY):
        return pixels
    weights = torch.tensor(GRAY, dtype=pixels.dtype, device=pixels.device)
    shape = [1] * pixels.ndim
    shape[channels] = len(GRAY)
    return (pixels * weights.reshape(shape)).sum(dim=channels, keepdim=True)


def mixed(values: Tensor, others: Tensor, share: float) -> Tensor:
    """`share` of the values and the rest of the others'."""
    return torch.lerp(others, values, share)


def dropped(tokens: Tensor, chosen: Tensor, replacement: int, keep: tuple[int, ...]) -> Tensor:
    """Tokens, of which the chosen ones are replaced; those in `keep` never are."""
    kept = torch.zeros_like(chosen)
    for token in keep:
        kept |= tokens == token
    return torch.where(chosen & ~kept, torch.full_like(tokens, replacement), tokens)
