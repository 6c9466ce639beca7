"""Parameters of the byte-level transformers."""

from __future__ import annotations

from pydantic import Field, model_validator

from engine.architectures.spec import Architecture, ArchitectureParams
from engine.networks.network import Signature, TensorSpec

BYTES = 256
"""Size of the vocabulary: every value of a byte, of which 0 fills up short texts."""


class ByteTransformer(ArchitectureParams):
    """A transformer over the bytes of a text, without a tokenizer: byte and position embedding, pre-norm blocks, a linear head.

    Texts are rows of `length` bytes (UTF-8, filled up with zeros at the end, which nothing attends to). A classifier reads the mean over
    a text's bytes; a causal network predicts the next byte at every place (upload it with `metadata.task: causal_lm`).
    """

    length: int = Field(96, ge=2, le=8192)
    """Bytes of a text."""
    num_classes: int = Field(12, ge=1, le=100_000)
    """Number of outputs of the classifier."""
    width: int = Field(96, ge=8, le=2048)
    """Width of the embedding."""
    depth: int = Field(4, ge=1, le=48)
    """Number of blocks."""
    heads: int = Field(4, ge=1, le=64)
    """Attention heads of a block."""
    mlp_ratio: float = Field(4.0, gt=0, le=16)
    """Width of a block's hidden layer, as a multiple of `width`."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout probability in training."""
    causal: bool = False
    """Whether every byte sees only those before it, and the network predicts the next one."""

    @model_validator(mode="after")
    def _fits(self) -> ByteTransformer:
        if self.width % self.heads:
            raise ValueError("width is a multiple of heads")
        return self

    def signature(self) -> Signature:
        """Bytes in; class scores out, or scores of the next byte at every place."""
        scores = (None, self.length, BYTES) if self.causal else (None, self.num_classes)
        return Signature((TensorSpec("bytes", (None, self.length), "int64"),), (TensorSpec("logits", scores),))


_PAPER = "https://arxiv.org/abs/1706.03762"
ARCHITECTURES = (
    Architecture("byte_transformer", "Byte-level transformer", "byte_transformer", ByteTransformer, {"causal": False}, _PAPER),
    Architecture("byte_language_model", "Byte-level language model", "byte_transformer", ByteTransformer, {"causal": True}, _PAPER),
)
