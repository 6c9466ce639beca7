"""Networks whose pictures have another size or normalization than those that the job's network takes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.contract.errors import EngineError
from engine.data.pictures import HasPictures, Picture
from engine.methods.context import Context
from engine.methods.distillation.spec import Distillation
from engine.networks.network import Signature
from engine.training.batches import Examples


def adapted(teacher: tuple[str, nn.Module, Signature], params: Distillation, context: Context, examples: Examples) -> nn.Module:
    """An uploaded teacher as a network that takes what the job's network takes.

    Raises `shape_mismatch` where its pictures are of another size and it is not stated how it wants them normalized.
    """
    name, module, signature = teacher
    size = other_size(signature, context.signature)
    stated = params.teacher_preprocessing
    if size is None and stated is None:
        return module
    if stated is None:
        raise EngineError(
            "shape_mismatch",
            f"The teacher {name} takes pictures of {size[0]}×{size[1]} pixels, another size than the network's.",  # type: ignore[index]  # known, where nothing is stated
            hint="State teacher_preprocessing (scale, mean, std), which may be what the dataset states for the network.",
        )
    pictures = examples.pictures if isinstance(examples, HasPictures) else {}
    if len(context.input_names) != 1 or context.input_names[0] not in pictures:
        raise EngineError(
            "shape_mismatch",
            "teacher_preprocessing is for networks with one input of pictures.",
            hint="State metadata.preprocessing.layout of the dataset, or leave out teacher_preprocessing.",
        )
    picture = pictures[context.input_names[0]]
    normalize = _Normalize(picture, stated.scale, stated.mean, stated.std)
    return nn.Sequential(normalize, *([Resize(size)] if size is not None else []), module).to(context.device).eval()


def other_size(theirs: Signature, ours: Signature) -> tuple[int, int] | None:
    """Height and width of another network's pictures, where they differ from those of ours (N, channels, height, width) in nothing else."""
    if len(theirs.inputs) != 1 or len(ours.inputs) != 1:
        return None
    wanted, given = theirs.inputs[0].shape, ours.inputs[0].shape
    image_rank = 4
    if len(wanted) != image_rank or len(given) != image_rank or wanted[1] != given[1]:
        return None
    height, width = wanted[2:]
    return (height, width) if height is not None and width is not None and (height, width) != given[2:] else None


class Resize(nn.Module):
    """(N, channels, height, width) at another size: means where the sizes divide, else bilinear."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, pictures: Tensor) -> Tensor:
        """Pictures of `size`."""
        height, width = int(pictures.shape[2]), int(pictures.shape[3])
        if height % self.size[0] == 0 and width % self.size[1] == 0:
            return functional.avg_pool2d(pictures, (height // self.size[0], width // self.size[1]))
        return functional.interpolate(pictures, size=self.size, mode="bilinear", align_corners=False)


class _Normalize(nn.Module):
    """From the network's normalization to another one: back to stored values, then scale, mean and std."""

    factor: Tensor
    offset: Tensor

    def __init__(self, picture: Picture, scale: float, mean: float | tuple[float, ...], std: float | tuple[float, ...]) -> None:
        super().__init__()
        self._shape = picture.shape
        means, stds = (_beside_channels(value, picture) for value in (mean, std))
        own_factor, own_offset = (np.asarray(value, dtype=np.float64) for value in (picture.factor, picture.offset))
        factor = scale / stds / own_factor
        self.register_buffer("factor", torch.from_numpy(np.asarray(factor, dtype=np.float32)))
        self.register_buffer("offset", torch.from_numpy(np.asarray(-factor * own_offset - means / stds, dtype=np.float32)))

    def forward(self, pictures: Tensor) -> Tensor:
        """The same pictures in the other normalization."""
        shown = pictures.reshape(len(pictures), *self._shape)
        return (shown * self.factor + self.offset).reshape(pictures.shape)


def _beside_channels(value: float | tuple[float, ...], picture: Picture) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    values = np.array(value, dtype=np.float64)
    if not values.ndim or len(values) == 1:
        return values.reshape(())
    if picture.channels is None or len(values) != picture.shape[picture.channels]:
        raise EngineError("shape_mismatch", f"teacher_preprocessing has {len(values)} numbers for the channels of {picture.shape}.")
    shape = [1] * len(picture.shape)
    shape[picture.channels] = len(values)
    return values.reshape(shape)
