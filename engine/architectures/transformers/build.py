"""Builds networks of transformers from their config; nothing is downloaded, and no code of a model's author is run."""

from __future__ import annotations

import os
import types
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from engine.architectures.libraries import imported, refused
from engine.architectures.transformers.spec import TransformersParams
from engine.contract.errors import EngineError

os.environ["HF_HUB_OFFLINE"] = "1"
_LISTED = 8
_DROPPED = ("_attn_implementation", "_attn_implementation_internal", "_name_or_path", "torch_dtype", "dtype", "use_cache", "return_dict")


def build(params: TransformersParams) -> nn.Module:
    """The network with random weights, taking and giving tensors alone. Raises `architecture_invalid`."""
    found, config = _class(params)
    try:
        return _of_tensors(found(config), params)
    except Exception as error:  # configs are checked by many classes, each in its own way
        raise _wrong_config(params, error) from error


def load(params: TransformersParams, folder: Path) -> nn.Module:
    """The network with the weights of a folder of safetensors, whose names may be those of older versions of the library.

    The library reads the folder, which holds safetensors and nothing else. Raises `architecture_invalid`, `model_invalid`.
    """
    import torch

    found, config = _class(params)
    try:
        module, loading = found.from_pretrained(
            folder,
            config=config,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:
        raise EngineError(
            "model_invalid", f"transformers cannot load the weights: {str(error)[:300]}.", hint="Send the folder of save_pretrained."
        ) from error
    for word in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if names := sorted(map(str, loading.get(word) or ())):
            listed = ", ".join(names[:_LISTED])
            raise EngineError(
                "model_invalid",
                f"The weights are not those of {params.head}: {len(names)} {word.replace('_', ' ')} ({listed}).",
                hint="Send the folder that save_pretrained wrote of that class.",
            )
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise EngineError("non_finite_weights", f"Tensor {name!r} holds NaN or infinity.", details={"tensor": name})
    return _of_tensors(module, params)


def _class(params: TransformersParams) -> tuple[Any, Any]:
    """The class of the network, and its config. Raises `architecture_invalid`."""
    transformers = imported("transformers", "transformers")
    known: Any = transformers.models.auto.configuration_auto.CONFIG_MAPPING
    if params.model not in known:
        raise refused("transformers", params.model, list(known.keys()))
    kind: Any = known[params.model]
    stated = {name: value for name, value in params.config.items() if name not in _DROPPED}
    found: Any = getattr(transformers, params.head, None)
    if (
        not isinstance(found, type)
        or not issubclass(found, transformers.PreTrainedModel)
        or getattr(found, "config_class", None) is not kind
    ):
        raise EngineError(
            "architecture_invalid",
            f"transformers has no class {params.head} of the model type {params.model}.",
            hint="State the first of config.json's architectures as params.head.",
        )
    try:
        config = known[params.model].from_dict(stated)
    except Exception as error:
        raise _wrong_config(params, error) from error
    config.use_cache = False
    return found, config


def _wrong_config(params: TransformersParams, error: Exception) -> EngineError:
    return EngineError(
        "architecture_invalid", f"The config is not one of {params.model}: {str(error)[:200]}.", hint="Send config.json as it was saved."
    )


def _of_tensors(module: nn.Module, params: TransformersParams) -> nn.Module:
    """The same network, taking and giving tensors alone."""
    names = [tensor.name for tensor in params.signature().inputs]

    def forward(self: nn.Module, *inputs: Tensor) -> Tensor:
        result: Any = type(self).forward(self, **dict(zip(names, inputs, strict=True)), return_dict=True)
        tensor: Tensor = result.logits if "logits" in result else result[0]
        return tensor

    module.forward = types.MethodType(forward, module)
    return module
