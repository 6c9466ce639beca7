"""The multi-scale dense network (Huang, Chen, Li, Wu, van der Maaten, Weinberger, 2018)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from engine.architectures.msdnet.spec import MSDNet

Scales = dict[int, Tensor]
"""Feature maps by scale, 0 the finest."""


def convolution(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, normalization, ReLU."""
    layer = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())


def addition(inputs: int, outputs: int, stride: int, bottleneck: int | None) -> nn.Sequential:
    """A 3×3 convolution, behind a 1×1 one to at most `bottleneck` times its outputs."""
    if bottleneck is None:
        return convolution(inputs, outputs, 3, stride)
    inner = min(inputs, bottleneck * outputs)
    return nn.Sequential(convolution(inputs, inner, 1), convolution(inner, outputs, 3, stride))


class FirstLayer(nn.Module):
    """Makes the scales: each from the next finer one by a convolution of stride 2."""

    def __init__(self, params: MSDNet) -> None:
        super().__init__()
        widths = [params.in_channels, *(params.channels * factor for factor in params.scale_factors)]
        pairs = itertools.pairwise(widths)
        self.scales = nn.ModuleList(convolution(left, right, 3, 2 if place else 1) for place, (left, right) in enumerate(pairs))

    def forward(self, images: Tensor) -> Scales:
        """Images to the features of all scales."""
        found: Scales = {}
        for place, layer in enumerate(self.scales):
            images = found[place] = layer(images)
        return found


class Layer(nn.Module):
    """Adds channels to every scale that is left: half of them from the next finer scale, where there is one before this layer."""

    def __init__(self, params: MSDNet, channels: int, before: int, scales: Sequence[int]) -> None:
        """`channels` that the finest scale would have, the finest scale `before`, the `scales` that are still read after this layer."""
        super().__init__()
        self.same, self.finer = nn.ModuleDict(), nn.ModuleDict()
        for scale in scales:
            factor, added = params.scale_factors[scale], params.growth * params.scale_factors[scale]
            narrow = params.bottleneck_factors[scale] if params.bottleneck_factors else None
            joined = scale > before
            self.same[str(scale)] = addition(channels * factor, added // 2 if joined else added, 1, narrow)
            if joined:
                upper = params.bottleneck_factors[scale - 1] if params.bottleneck_factors else None
                self.finer[str(scale)] = addition(channels * params.scale_factors[scale - 1], added // 2, 2, upper)

    def forward(self, features: Scales) -> Scales:
        """Earlier features and the new ones, scale by scale."""
        found: Scales = {}
        for name, layer in self.same.items():
            scale = int(name)
            parts = [features[scale]]
            if name in self.finer:
                parts.append(self.finer[name](features[scale - 1]))
            parts.append(layer(features[scale]))
            found[scale] = torch.cat(parts, 1)
        return found


class Transition(nn.Module):
    """Fewer channels, scale by scale, where the finest scale was dropped."""

    def __init__(self, params: MSDNet, channels: int, kept: int, scales: Sequence[int]) -> None:
        super().__init__()
        self.scales = nn.ModuleDict(
            {str(s): convolution(channels * params.scale_factors[s], kept * params.scale_factors[s], 1) for s in scales}
        )

    def forward(self, features: Scales) -> Scales:
        """The same scales."""
        return {int(name): layer(features[int(name)]) for name, layer in self.scales.items()}


class Classifier(nn.Module):
    """Two convolutions of stride 2, the mean over what is left of the image, and a linear layer."""

    def __init__(self, params: MSDNet, channels: int) -> None:
        super().__init__()
        inner = params.classifier_channels
        self.features = nn.Sequential(convolution(channels, inner, 3, 2), convolution(inner, inner, 3, 2), nn.AdaptiveAvgPool2d(1))
        self.flatten, self.linear = nn.Flatten(), nn.Linear(inner, params.num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Features of the coarsest scale to scores."""
        scores: Tensor = self.linear(self.flatten(self.features(features)))
        return scores


class Network(nn.Module):
    """`first`, then `blocks`, each of which ends with one of the `classifiers`.

    A layer has no scale that no later classifier reads: those are on the coarsest, and a scale passes to the next coarser one a layer on.
    """

    def __init__(self, params: MSDNet) -> None:
        super().__init__()
        self.first = FirstLayer(params)
        self.blocks, self.classifiers = nn.ModuleList(), nn.ModuleList()
        channels, layer, before = params.channels, 0, 0
        coarsest, depth = len(params.scale_factors) - 1, sum(params.steps())
        for count in params.steps():
            layers: list[nn.Module] = []
            for _ in range(count):
                layer += 1
                finest = params.finest(layer)
                scales = range(max(finest, coarsest - (depth - layer)), coarsest + 1)
                layers.append(Layer(params, channels, before, scales))
                channels += params.growth
                if finest > before and params.reduction < 1:
                    kept = max(1, int(params.reduction * channels))
                    layers.append(Transition(params, channels, kept, scales))
                    channels = kept
                before = finest
            self.blocks.append(nn.Sequential(*layers))
            self.classifiers.append(Classifier(params, channels * params.scale_factors[-1]))

    def exits(self, images: Tensor) -> tuple[Tensor, ...]:
        """(batch, in_channels, image_size, image_size) → (batch, num_classes) from each classifier in turn."""
        features, found = self.first(images), []
        for block, classifier in zip(self.blocks, self.classifiers, strict=True):
            features = block(features)
            found.append(classifier(features[max(features)]))
        return tuple(found)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, in_channels, image_size, image_size) → (batch, num_classes), from the last classifier alone."""
        features = self.first(images)
        for block in self.blocks:
            features = block(features)
        scores: Tensor = self.classifiers[-1](features[max(features)])
        return scores


def build(params: MSDNet) -> nn.Module:
    """The network with He-normal convolutions."""
    network = Network(params)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return network
