"""What can be done to each layer of a network, and why not: as methods would find it, without running one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.contract.errors import EngineError
from engine.contract.inspection import LayerInfo
from engine.networks.network import Network

if TYPE_CHECKING:
    from engine.structure.graph import ChannelGraph

_MOST_LAYERS = 2000
_NO_WEIGHTS = "It has no weights."
_OTHER_TYPE = "It is neither a convolution nor a linear layer."
_OUTPUT = "It computes an output of the network, whose size stays."
_TOO_MANY = f"The network has more than {_MOST_LAYERS} layers; a job looks at their channels."


def with_reasons(network: Network, rows: Sequence[LayerInfo]) -> list[LayerInfo]:
    """The layers of a trainable network with what stands in the way of pruning and quantizing each, and how its channels hang together."""
    graph, failure = _graph(network) if len(rows) <= _MOST_LAYERS else (None, _TOO_MANY)
    groups = {name: group for group in (graph.groups if graph is not None else ()) for name in group.layers}
    found = []
    for row in rows:
        basic = _NO_WEIGHTS if not row.params_count else _OTHER_TYPE
        update: dict[str, object] = {
            "unprunable_reason": None if row.prunable else _OUTPUT if row.quantizable else basic,
            "unquantizable_reason": None if row.quantizable else basic,
        }
        if row.quantizable and graph is not None:
            group = groups.get(row.name)
            reason = None if group is not None else graph.fixed.get(row.name, _OUTPUT)
            update |= {
                "channels_prunable": group is not None,
                "channels_reason": None if reason is None else _sentence(reason),
                "removable_units_count": 0 if group is None else len(group.units) - 1,
                "tied_layers": () if group is None else tuple(name for name in group.layers if name != row.name),
            }
        elif row.quantizable:
            update |= {"channels_reason": failure}
        found.append(row.model_copy(update=update))
    return found


def of_graph(rows: Sequence[LayerInfo], reason: str) -> list[LayerInfo]:
    """The layers of a network that has no trainable form, for this reason."""
    why = f"The network cannot be trained: {reason}"
    return [
        row.model_copy(update={"unprunable_reason": why, "unquantizable_reason": None if row.quantizable else _OTHER_TYPE}) for row in rows
    ]


def _graph(network: Network) -> tuple[ChannelGraph | None, str | None]:
    import torch

    from engine.networks.example_inputs import running_inputs
    from engine.structure.graph import ChannelGraph

    module = network.module.eval()
    try:
        return ChannelGraph(module, running_inputs(module, network.signature, 2, torch.device("cpu"))), None
    except EngineError as error:
        return None, error.message
    except (RuntimeError, NotImplementedError, TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
        return None, f"Its channels could not be followed: {type(error).__name__}."


def _sentence(reason: str) -> str:
    text = reason[:1].upper() + reason[1:]
    return text if text.endswith(".") else f"{text}."
