"""Parameters of the networks of transformers."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from engine.architectures.spec import Architecture, ArchitectureParams, Library
from engine.contract.json import JsonObject
from engine.networks.network import Signature, TensorSpec

HEADS = (
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForCausalLM",
    "LMHeadModel",
    "ForMaskedLM",
    "ForImageClassification",
    "Model",
)
"""How the names of classes end that are built."""
REMOTE = frozenset({"auto_map", "custom_pipelines", "trust_remote_code", "quantization_config", "code_revision"})
"""What a config may not hold: code of the file's author, or weights in a form that is not read."""
_CAUSAL = ("ForCausalLM", "LMHeadModel")


class TransformersParams(ArchitectureParams):
    """A network of transformers, as its `config.json` describes it; code that comes with a model is never run."""

    model: str = Field(pattern=r"^[a-z0-9_-]{1,100}$")
    """`model_type` of the config, such as `bert` or `gpt2`."""
    head: str = Field(pattern=r"^[A-Za-z0-9]{1,100}$")
    """Class of the network, the first of the config's `architectures`, such as `BertForSequenceClassification`."""
    config: JsonObject = Field(default_factory=dict)
    """The content of `config.json`."""
    length: int = Field(128, ge=2, le=8192)
    """Tokens of an example, for networks of texts."""

    @field_validator("config")
    @classmethod
    def _no_code(cls, config: dict[str, Any]) -> dict[str, Any]:
        if found := sorted(REMOTE & set(config)):
            raise ValueError(f"{found[0]} is not taken: the config would have code of its author run, or holds packed weights")
        return config

    @field_validator("head")
    @classmethod
    def _known_head(cls, head: str) -> str:
        if not head.endswith(HEADS):
            raise ValueError(f"heads end in {', '.join(HEADS)}")
        return head

    def signature(self) -> Signature:
        """Token numbers (and where they count) or pixels in; scores, or the last hidden states, out."""
        inputs: tuple[TensorSpec, ...]
        if self.head.endswith("ForImageClassification"):
            size = self.config.get("image_size", 224)
            channels = self.config.get("num_channels", 3)
            side = size if isinstance(size, int) else 224
            inputs = (TensorSpec("pixel_values", (None, channels if isinstance(channels, int) else 3, side, side)),)
        else:
            names = ("input_ids",) if self.head.endswith(_CAUSAL) else ("input_ids", "attention_mask")
            inputs = tuple(TensorSpec(name, (None, self.length), "int64") for name in names)
        return Signature(
            inputs,
            (TensorSpec("last_hidden_state" if self.head.endswith("Model") and not self.head.endswith(_CAUSAL) else "logits", (None,)),),
        )


LIBRARY = Library("transformers", TransformersParams, "A network of transformers", "https://github.com/huggingface/transformers")
ARCHITECTURES: tuple[Architecture, ...] = ()
