"""Operators of an exported program that become layers of torch again, with the very weights that the program stores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from engine.formats.pt2.arguments import Arguments

_BY_RANK: dict[str, dict[int, Any]] = {
    "conv": {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d},
    "transposed": {3: nn.ConvTranspose1d, 4: nn.ConvTranspose2d, 5: nn.ConvTranspose3d},
    "norm": {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d},
}


@dataclass(frozen=True)
class Found:
    """A layer that does what an operator does."""

    layer: nn.Module
    reads: tuple[str, ...]
    """Values that it is called with."""
    weight: str | None = None
    """Path of its weight, beside which it stands."""
    key: object = None
    """Two calls with equal keys, on the same weight, are calls of one layer."""


class Attention(nn.Module):
    """Scaled dot-product attention whose dropout acts in training only."""

    def __init__(self, dropout: float, *, causal: bool, scale: float | None, grouped: bool) -> None:
        super().__init__()
        self.dropout, self.causal, self.scale, self.grouped = dropout, causal, scale, grouped

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """The mixed values, of the shape of `query` up to the last dimension."""
        return functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=self.causal,
            scale=self.scale,
            enable_gqa=self.grouped,
        )


def _weighted(layer: nn.Module, given: Arguments, key: object, *, source: str = "input") -> Found | None:
    """The layer with the operator's weight and bias in it, where both are of the program's own."""
    weight, bias = given.state("weight"), given.state("bias")
    if not isinstance(weight, nn.Parameter) or (bias is None) != given.is_none("bias") or not isinstance(bias, nn.Parameter | None):
        return None
    layer.register_parameter("weight", weight)
    layer.register_parameter("bias", bias)
    name = given.source(source)
    return None if name is None else Found(layer, (name,), given.path("weight"), (type(layer).__name__, given.path("bias"), key))


def _spread(values: Any, rank: int) -> tuple[int, ...]:
    """One number for each spatial dimension."""
    own = tuple(values) if isinstance(values, list | tuple) else (values,)
    return own * (rank - 2) if len(own) == 1 else own


def _convolution(given: Arguments) -> Found | None:
    weight = given.state("weight")
    if weight is None or weight.ndim not in _BY_RANK["conv"] or given.rank("input") != weight.ndim:
        return None
    transposed = bool(given.plain("transposed", False))
    return _transposed(given) if transposed else _plain_convolution(given, weight)


def _plain_convolution(given: Arguments, weight: Tensor) -> Found | None:
    groups, padding = given.plain("groups", 1), given.plain("padding", 0)
    stride, dilation = (_spread(given.plain(name, 1), weight.ndim) for name in ("stride", "dilation"))
    padding = padding if isinstance(padding, str) else _spread(padding, weight.ndim)
    kind = _BY_RANK["conv"][weight.ndim]
    layer = kind(
        weight.shape[1] * groups, weight.shape[0], tuple(weight.shape[2:]), stride, padding, dilation, groups, bias=False, device="meta"
    )
    return _weighted(layer, given, (stride, padding, dilation, groups))


def _transposed(given: Arguments) -> Found | None:
    weight = given.state("weight")
    if weight is None or weight.ndim not in _BY_RANK["transposed"] or given.rank("input") != weight.ndim:
        return None
    groups = given.plain("groups", 1)
    stride, dilation = (_spread(given.plain(name, 1), weight.ndim) for name in ("stride", "dilation"))
    padding, extra = (_spread(given.plain(name, 0), weight.ndim) for name in ("padding", "output_padding"))
    kind = _BY_RANK["transposed"][weight.ndim]
    layer = kind(
        weight.shape[0],
        weight.shape[1] * groups,
        tuple(weight.shape[2:]),
        stride,
        padding,
        extra,
        groups,
        bias=False,
        dilation=dilation,
        device="meta",
    )
    return _weighted(layer, given, (stride, padding, extra, dilation, groups))


def _linear(given: Arguments) -> Found | None:
    weight = given.state("weight")
    if weight is None or weight.ndim != 2:
        return None
    return _weighted(nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta"), given, None)


def _product(given: Arguments) -> Found | None:
    """A linear layer that was taken apart: bias + input · transposed weight."""
    if given.plain("beta", 1) != 1 or given.plain("alpha", 1) != 1:
        return None
    first, second = ("mat1", "mat2") if given.source("mat1") else ("self", "mat2")
    bias = {"bias": "self"} if given.source("mat1") else {}
    return _linear(given.turned(second).called(input=first, weight=second, **bias))


def _batch_norm(given: Arguments) -> Found | None:
    mean, variance = given.state("running_mean"), given.state("running_var")
    weight, bias = given.state("weight"), given.state("bias")
    kind = _BY_RANK["norm"].get(given.rank("input"))
    source = given.source("input")
    if mean is None or variance is None or (weight is None) != (bias is None) or kind is None or source is None:
        return None
    if (weight is None) != given.is_none("weight"):
        return None
    momentum, eps = given.plain("momentum", 0.1), given.plain("eps", 1e-5)
    layer: nn.Module = kind(len(mean), eps=eps, momentum=momentum, affine=False)
    for name, value in (("weight", weight), ("bias", bias)):
        layer.register_parameter(name, None if value is None else nn.Parameter(value) if not isinstance(value, nn.Parameter) else value)
    layer.affine = weight is not None  # type: ignore[assignment]  # torch takes attributes of a module for tensors and modules
    layer.running_mean, layer.running_var = mean, variance
    return Found(layer, (source,), given.path("running_mean"), ("norm", momentum, eps))


def _layer_norm(given: Arguments) -> Found | None:
    shape = given.plain("normalized_shape", None)
    weight = given.state("weight")
    if weight is None or shape is None or list(weight.shape) != list(shape):
        return None
    eps = given.plain("eps", 1e-5)
    return _weighted(nn.LayerNorm(shape, eps=eps, bias=False, device="meta"), given, eps)


def _group_norm(given: Arguments) -> Found | None:
    weight = given.state("weight")
    if weight is None:
        return None
    groups, eps = given.plain("num_groups", None) or given.plain("group", 1), given.plain("eps", 1e-5)
    return _weighted(nn.GroupNorm(groups, len(weight), eps=eps, device="meta"), given, (groups, eps))


def _embedding(given: Arguments) -> Found | None:
    weight, source, padding = given.state("weight"), given.source("indices"), given.plain("padding_idx", -1)
    if not isinstance(weight, nn.Parameter) or source is None:
        return None
    layer = nn.Embedding(weight.shape[0], weight.shape[1], padding_idx=padding if padding >= 0 else None, device="meta")
    layer.weight = weight
    return Found(layer, (source,), given.path("weight"), ("embedding", padding))


def _attention(given: Arguments) -> Found | None:
    names = [given.source(name) for name in ("query", "key", "value")]
    mask = given.source("attn_mask")
    layer = Attention(
        given.plain("dropout_p", 0.0),
        causal=bool(given.plain("is_causal", False)),
        scale=given.plain("scale", None),
        grouped=bool(given.plain("enable_gqa", False)),
    )
    if layer.dropout == 0:
        return None  # A function does, which other parts of the engine know.
    return Found(layer, tuple(name for name in (*names, mask) if name is not None))


def _activation(make: Callable[[Arguments], nn.Module]) -> Callable[[Arguments], Found | None]:
    """A layer without weights that reads one value."""

    def found(given: Arguments) -> Found | None:
        source = given.source("self") or given.source("input")
        return None if source is None else Found(make(given), (source,))

    return found


def _pool(kinds: Mapping[str, type[nn.Module]], rank: int) -> Callable[[Arguments], Found | None]:
    def make(given: Arguments) -> nn.Module:
        size, padding = (_spread(given.plain(name, 0), rank) for name in ("kernel_size", "padding"))
        stride = given.plain("stride", None) or size
        if "max" in kinds:
            dilation = _spread(given.plain("dilation", 1), rank)
            return kinds["max"](size, _spread(stride, rank), padding, dilation, ceil_mode=bool(given.plain("ceil_mode", False)))
        options: dict[str, Any] = {
            "ceil_mode": bool(given.plain("ceil_mode", False)),
            "count_include_pad": bool(given.plain("count_include_pad", True)),
        }
        if rank > 3 and given.plain("divisor_override", None) is not None:
            options["divisor_override"] = given.plain("divisor_override", None)
        return kinds["mean"](size, _spread(stride, rank), padding, **options)

    return _activation(make)


def _dropout(given: Arguments) -> nn.Module:
    return nn.Dropout(given.plain("p", 0.5))


LAYERS: dict[str, Callable[[Arguments], Found | None]] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution"), _convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _transposed),
    "linear": _linear,
    "batch_norm": _batch_norm,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "layer_norm": _layer_norm,
    "native_layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "native_group_norm": _group_norm,
    "addmm": _product,
    "mm": _product,
    "embedding": _embedding,
    "scaled_dot_product_attention": _attention,
    "dropout": _activation(_dropout),
    "feature_dropout": _activation(lambda given: nn.Dropout2d(given.plain("p", 0.5))),
    "flatten": _activation(lambda given: nn.Flatten(given.plain("start_dim", 0), given.plain("end_dim", -1))),
    "relu": _activation(lambda _: nn.ReLU()),
    "relu6": _activation(lambda _: nn.ReLU6()),
    "gelu": _activation(lambda given: nn.GELU(given.plain("approximate", "none"))),
    "silu": _activation(lambda _: nn.SiLU()),
    "mish": _activation(lambda _: nn.Mish()),
    "sigmoid": _activation(lambda _: nn.Sigmoid()),
    "tanh": _activation(lambda _: nn.Tanh()),
    "hardswish": _activation(lambda _: nn.Hardswish()),
    "hardsigmoid": _activation(lambda _: nn.Hardsigmoid()),
    "hardtanh": _activation(lambda given: nn.Hardtanh(given.plain("min_val", -1.0), given.plain("max_val", 1.0))),
    "leaky_relu": _activation(lambda given: nn.LeakyReLU(given.plain("negative_slope", 0.01))),
    "max_pool1d": _pool({"max": nn.MaxPool1d}, 3),
    "max_pool2d": _pool({"max": nn.MaxPool2d}, 4),
    "max_pool2d_with_indices": _pool({"max": nn.MaxPool2d}, 4),
    "max_pool3d": _pool({"max": nn.MaxPool3d}, 5),
    "avg_pool1d": _pool({"mean": nn.AvgPool1d}, 3),
    "avg_pool2d": _pool({"mean": nn.AvgPool2d}, 4),
    "avg_pool3d": _pool({"mean": nn.AvgPool3d}, 5),
    "adaptive_avg_pool1d": _activation(lambda given: nn.AdaptiveAvgPool1d(given.plain("output_size", 1))),
    "adaptive_avg_pool2d": _activation(lambda given: nn.AdaptiveAvgPool2d(given.plain("output_size", 1))),
    "adaptive_avg_pool3d": _activation(lambda given: nn.AdaptiveAvgPool3d(given.plain("output_size", 1))),
}
"""By the name of the operator; those without weights that are not here run as functions."""
