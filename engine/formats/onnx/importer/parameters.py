"""Which initializers of a file are trainable parameters, and which layers share one."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from engine.formats.onnx.importer.values import Constant


class Origin(NamedTuple):
    """Which initializer of the file a parameter is made of."""

    parameter: nn.Parameter
    initializer: str
    transposed: bool


class Parameters:
    """Those of one network while it is rebuilt."""

    def __init__(self) -> None:
        self.embeddings: list[nn.Parameter] = []
        self.origins: list[Origin] = []
        """Of the parameters that are an initializer's values, all of them in its order."""
        self._shared: dict[tuple[str, bool], nn.Parameter] = {}
        """By their initializer and whether they are its transpose."""
        self._biases: dict[tuple[str, torch.Tensor], nn.Parameter] = {}

    def of(self, constant: Constant) -> nn.Parameter:
        """The constant as a trainable parameter: one and the same for each use of an initializer, also as the transpose of it.

        Rows of one repeated number are never shared: exporters store equal tensors once, so that the fresh scales and biases of all
        normalizations look tied.
        """
        if constant.source is None or constant.is_uniform:
            return self._from(constant, nn.Parameter(constant.tensor.detach().clone().contiguous()))
        key = (constant.source, constant.transposed)
        if key not in self._shared:
            self._shared[key] = self._from(constant, nn.Parameter(constant.tensor.detach().contiguous()))
        elif self._shared[key].shape != constant.tensor.shape:
            return self._from(constant, nn.Parameter(constant.tensor.detach().clone().contiguous()))
        return self._shared[key]

    def holds(self, source: str, *, transposed: bool) -> bool:
        """Whether an initializer, or its transpose, is a parameter that more layers may share."""
        return (source, transposed) in self._shared

    def bias(self, constant: Constant, weight: torch.Tensor) -> nn.Parameter:
        """The bias of a layer: shared with the layers that share its weight, too, and with no others.

        Layers that were made as copies of one another start with equal biases, which exporters store once, whatever their weights.
        """
        if constant.source is None or constant.is_uniform:
            return self.of(constant)
        key = (constant.source, weight)
        if key not in self._biases:
            self._biases[key] = self._from(constant, nn.Parameter(constant.tensor.detach().clone().contiguous()))
        return self._biases[key]

    def tied(self, weight: Constant) -> nn.Parameter:
        """The parameter of a linear layer: an embedding's, where the matrix is that table.

        Exporters store the transposed copy of a tied table as a tensor of its own; trained weights are equal for no other reason.
        """
        found = (table for table in self.embeddings if table.shape == weight.tensor.shape and bool((table == weight.tensor).all()))
        table = next(found, None)
        return self.of(weight) if table is None else self._from(weight, table)

    def _from(self, constant: Constant, parameter: nn.Parameter) -> nn.Parameter:
        """Note where a parameter comes from; returns it."""
        if constant.source is not None:
            self.origins.append(Origin(parameter, constant.source, constant.transposed))
        return parameter
