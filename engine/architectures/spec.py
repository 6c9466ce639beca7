"""The list of builtin architectures and their parameters. Imports no torch: the API lists and checks them."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from engine.contract.errors import EngineError
from engine.contract.params import Params


class ImageParams(Params):
    """What every image classifier here has: input (batch, in_channels, image_size, image_size), output (batch, num_classes)."""

    in_channels: int = Field(3, ge=1, le=64)
    """Channels of the images."""
    num_classes: int = Field(10, ge=1, le=100_000)
    """Number of outputs."""
    image_size: int = Field(32, ge=8, le=1024)
    """Height and width of the images, in pixels."""


class LeNet300(ImageParams):
    """A multilayer perceptron on flattened pixels: two hidden layers with ReLU."""

    in_channels: int = Field(1, ge=1, le=64)
    image_size: int = Field(28, ge=8, le=256)
    hidden: tuple[int, ...] = Field((300, 100), min_length=1, max_length=16)
    """Widths of the hidden layers."""


class LeNet5(ImageParams):
    """Two 5×5 convolutions with max pooling and three linear layers, ReLU between; images of 28 pixels are padded by two."""

    in_channels: int = Field(1, ge=1, le=64)
    image_size: int = Field(28, ge=16, le=256)


class DigitCNN(ImageParams):
    """Three 3×3 convolutions (32, 64, 128 channels), each with ReLU and 2×2 max pooling, then two linear layers (256, outputs)."""

    in_channels: int = Field(1, ge=1, le=64)
    image_size: int = Field(28, ge=8, le=256)
    channels: tuple[int, ...] = Field((32, 64, 128), min_length=1, max_length=8)
    """Channels of the convolutions."""
    hidden: int = Field(256, ge=1, le=65_536)
    """Width of the hidden linear layer."""

    @model_validator(mode="after")
    def _pools_fit(self) -> DigitCNN:
        if self.image_size >> len(self.channels) < 1:
            raise ValueError(f"{len(self.channels)} poolings leave nothing of {self.image_size} pixels")
        return self


class ResNetCifar(ImageParams):
    """The residual network for small images: 3×3 stem, three stages of 16, 32 and 64 channels, projections where the size changes."""

    depth: int = Field(20, ge=8, le=1202)
    """Number of layers with weights, 6n + 2."""
    width: int = Field(16, ge=4, le=512)
    """Channels of the first stage."""

    @model_validator(mode="after")
    def _depth_fits(self) -> ResNetCifar:
        if (self.depth - 2) % 6:
            raise ValueError("depth is 6n + 2: 8, 14, 20, 32, 44, 56, 110, ...")
        return self


class ResNet(ImageParams):
    """The residual network for photographs, with torchvision's tensor names."""

    num_classes: int = Field(1000, ge=1, le=100_000)
    image_size: int = Field(224, ge=8, le=1024)
    depth: Literal[18, 34, 50, 101] = 18
    """Number of layers with weights."""
    stem: Literal["imagenet", "cifar"] = "imagenet"
    """`imagenet`: 7×7 with stride 2 and max pooling; `cifar`: 3×3 for small images."""


class VGG(ImageParams):
    """Stacks of 3×3 convolutions with batch normalization, with torchvision's tensor names for `head: classic`."""

    num_classes: int = Field(1000, ge=1, le=100_000)
    image_size: int = Field(224, ge=32, le=1024)
    depth: Literal[11, 13, 16, 19] = 16
    """Number of layers with weights."""
    head: Literal["classic", "small"] = "classic"
    """`classic`: 7×7 pooling and three linear layers (4096, 4096, outputs); `small`: global pooling and one, for small images."""


class MobileNetV2(ImageParams):
    """Inverted residuals with linear bottlenecks, with torchvision's tensor names."""

    num_classes: int = Field(1000, ge=1, le=100_000)
    image_size: int = Field(224, ge=8, le=1024)
    width_multiplier: float = Field(1.0, gt=0, le=4)
    """Factor on all numbers of channels, rounded to multiples of eight."""
    stem: Literal["imagenet", "cifar"] = "imagenet"
    """`imagenet`: overall stride 32; `cifar`: the stem and the second stage keep the size, overall stride 8."""


class DenseNetCifar(ImageParams):
    """The densely connected network for small images: three dense blocks without bottlenecks."""

    depth: int = Field(40, ge=7, le=400)
    """Number of layers with weights, 3n + 4."""
    growth: int = Field(12, ge=1, le=256)
    """Channels that each layer adds."""

    @model_validator(mode="after")
    def _depth_fits(self) -> DenseNetCifar:
        if (self.depth - 4) % 3:
            raise ValueError("depth is 3n + 4: 7, 22, 40, 100, ...")
        return self


class ViT(ImageParams):
    """A vision transformer: patch embedding, class token, pre-norm encoder blocks, a linear head."""

    patch_size: int = Field(4, ge=1, le=64)
    """Height and width of a patch, in pixels."""
    width: int = Field(192, ge=8, le=2048)
    """Width of the token embedding."""
    depth: int = Field(6, ge=1, le=48)
    """Number of encoder blocks."""
    heads: int = Field(3, ge=1, le=64)
    """Attention heads of a block."""
    mlp_ratio: float = Field(4.0, gt=0, le=16)
    """Width of a block's hidden layer, as a multiple of `width`."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout probability in training."""

    @model_validator(mode="after")
    def _fits(self) -> ViT:
        if self.image_size % self.patch_size:
            raise ValueError("image_size is a multiple of patch_size")
        if self.width % self.heads:
            raise ValueError("width is a multiple of heads")
        return self


@dataclass(frozen=True)
class Architecture:
    """One entry of the list: a family and what this name fixes of its parameters."""

    name: str
    title: str
    family: str
    """The file of `engine.architectures` that builds it."""
    params: type[ImageParams]
    fixed: dict[str, Any]
    reference: str

    def defaults(self) -> ImageParams:
        """Parameters where nothing is stated."""
        return self.params(**self.fixed)

    def document(self) -> dict[str, Any]:
        """The entry as JSON types, for the API."""
        defaults = self.defaults()
        return {
            "name": self.name,
            "title": self.title,
            "family": self.family,
            "description": (self.params.__doc__ or "").strip(),
            "params_schema": self.params.model_json_schema(),
            "defaults": defaults.model_dump(mode="json"),
            "input_shape": [None, defaults.in_channels, defaults.image_size, defaults.image_size],
            "reference": self.reference,
        }


_LECUN = "https://doi.org/10.1109/5.726791"
_RESNET = "https://arxiv.org/abs/1512.03385"
_VGG = "https://arxiv.org/abs/1409.1556"
ARCHITECTURES: dict[str, Architecture] = {
    item.name: item
    for item in (
        Architecture("densenet40", "DenseNet-40 (growth 12)", "densenet_cifar", DenseNetCifar, {}, "https://arxiv.org/abs/1608.06993"),
        Architecture("digit_cnn", "Digit CNN", "digit_cnn", DigitCNN, {}, _LECUN),
        Architecture("lenet_300_100", "LeNet-300-100", "lenet_300_100", LeNet300, {}, _LECUN),
        Architecture("lenet_5", "LeNet-5", "lenet_5", LeNet5, {}, _LECUN),
        Architecture("mobilenet_v2", "MobileNetV2", "mobilenet_v2", MobileNetV2, {}, "https://arxiv.org/abs/1801.04381"),
        Architecture("resnet8", "ResNet-8 (small images)", "resnet_cifar", ResNetCifar, {"depth": 8}, _RESNET),
        Architecture("resnet20", "ResNet-20 (small images)", "resnet_cifar", ResNetCifar, {"depth": 20}, _RESNET),
        Architecture("resnet56", "ResNet-56 (small images)", "resnet_cifar", ResNetCifar, {"depth": 56}, _RESNET),
        Architecture("resnet18", "ResNet-18", "resnet", ResNet, {"depth": 18}, _RESNET),
        Architecture("resnet34", "ResNet-34", "resnet", ResNet, {"depth": 34}, _RESNET),
        Architecture("resnet50", "ResNet-50", "resnet", ResNet, {"depth": 50}, _RESNET),
        Architecture("vgg11_bn", "VGG-11 with batch normalization", "vgg", VGG, {"depth": 11}, _VGG),
        Architecture("vgg16_bn", "VGG-16 with batch normalization", "vgg", VGG, {"depth": 16}, _VGG),
        Architecture("vit_small_images", "Vision transformer for small images", "vit", ViT, {}, "https://arxiv.org/abs/2010.11929"),
    )
}


def read_architecture(stated: Any) -> tuple[Architecture, ImageParams]:
    """`metadata.architecture`: a name, or `{"name": …, "params": {…}}`. Raises `architecture_invalid` with what to write instead."""
    name, given = (stated.get("name"), stated.get("params") or {}) if isinstance(stated, dict) else (stated, {})
    if isinstance(stated, dict) and not set(stated) <= {"name", "params"}:
        raise EngineError("architecture_invalid", "metadata.architecture has fields other than name and params.")
    entry = ARCHITECTURES.get(name) if isinstance(name, str) else None
    if entry is None:
        close = get_close_matches(str(name), ARCHITECTURES, n=1)
        hint = f"Did you mean {close[0]!r}?" if close else f"Architectures: {', '.join(ARCHITECTURES)}; or upload ONNX, which needs none."
        said = f"The architecture {str(name)[:80]!r} is not builtin." if name is not None else "The file holds weights only."
        raise EngineError("architecture_invalid", f"{said} metadata.architecture has to name a builtin architecture.", hint=hint)
    if not isinstance(given, dict):
        raise EngineError("architecture_invalid", "metadata.architecture.params is not an object.")
    clash = {key for key, value in entry.fixed.items() if key in given and given[key] != value}
    if clash:
        raise EngineError("architecture_invalid", f"{entry.name} fixes {', '.join(sorted(clash))}.", hint="Choose another architecture.")
    try:
        return entry, entry.params(**{**entry.fixed, **given})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(["metadata.architecture.params", *(str(part) for part in first["loc"])])
        known = ", ".join(entry.params.model_fields)
        raise EngineError(
            "architecture_invalid", f"{where}: {first['msg'].removeprefix('Value error, ')}.", hint=f"Parameters: {known}."
        ) from error


def listing() -> list[dict[str, Any]]:
    """All builtin architectures as JSON types."""
    return [entry.document() for entry in ARCHITECTURES.values()]
