"""The files of a lottery ticket: where training starts, which weights each round kept, and both together, ready to be trained again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from torch import nn

from engine.contract.errors import EngineError
from engine.formats.onnx.networks import ModuleNetwork
from engine.methods.context import Context
from engine.methods.pruning.structure.trial import State
from engine.networks.masks import Mask

_SHAPES = "modelpress.shapes"


def publish(context: Context, initial: State, rewound: State | None, rounds: list[dict[str, Mask]], ticket: nn.Module) -> None:
    """Publish θ0 (and θk), the masks of all rounds, and the ticket: masked early weights, as safetensors and as ONNX.

    The ticket as ONNX can be uploaded as a model and trained with `train` and `hold_zeros`.
    """
    _save(context, "initial_weights", initial)
    if rewound is not None:
        _save(context, "rewound_weights", rewound)
    path = context.work / "masks.safetensors"
    write_masks(path, rounds)
    context.artifact(path, kind="masks", format="safetensors", rounds_count=len(rounds))
    _save(context, "ticket", ticket.state_dict())
    path = context.work / "ticket.onnx"
    try:
        ModuleNetwork(context.signature, ticket).write_onnx(path)
    except EngineError as error:
        context.warn(error.code, f"The ticket is published as safetensors only: {error.message}")
    else:
        context.artifact(path, kind="ticket", format="onnx")


def write_masks(path: Path, rounds: list[dict[str, Mask]]) -> None:
    """One tensor `round_<number>.<weight>` of bits for every round and weight; shapes stand in the metadata."""
    packed = {
        f"round_{number:02d}.{name}": np.frombuffer(mask.pack(), dtype=np.uint8)
        for number, found in enumerate(rounds, start=1)
        for name, mask in found.items()
    }
    shapes = {name: list(mask.keep.shape) for found in rounds[:1] for name, mask in found.items()}
    save_file(packed, path, {_SHAPES: json.dumps(shapes)})


def read_masks(path: Path) -> list[dict[str, Mask]]:
    """The masks that `write_masks` wrote."""
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        shapes = json.loads(file.metadata()[_SHAPES])
    rounds: dict[str, dict[str, Mask]] = {}
    for key, bits in sorted(load_file(path).items()):
        number, _, name = key.partition(".")
        rounds.setdefault(number, {})[name] = Mask.unpack(bits.tobytes(), tuple(shapes[name]))
    return list(rounds.values())


def _save(context: Context, kind: str, state: State) -> None:
    path = context.work / f"{kind}.safetensors"
    save_file({name: np.ascontiguousarray(tensor.detach().cpu().numpy()) for name, tensor in state.items()}, path)
    context.artifact(path, kind=kind, format="safetensors")
