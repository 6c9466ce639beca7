"""Half of the channels of a network of real size removed, nothing scored or tuned: `python real_pruning.py plain|ours NAME NETWORK.onnx`.

`plain` is what a person writes with `torch-pruning`; `ours` is the step, on the imported network. Prints seconds of the removal alone (wall and CPU)
and what is left; reading the file and building the module are not in them on either side, but in the peak of memory.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from benchmarks.peers.real_networks import NETWORKS, SIZE, Block


def plain(module: nn.Module) -> None:
    """The same channels, heads by their width: all layers but the last, magnitudes, half of each."""
    import torch_pruning as tp

    blocks = [layer for layer in module.modules() if isinstance(layer, Block)]
    bare = [(getattr(module, name), 2) for name in ("token", "position") if hasattr(module, name)]
    tp.pruner.BasePruner(
        module.eval(),
        torch.randn(1, 3, SIZE, SIZE),
        importance=tp.importance.MagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=[[layer for layer in module.modules() if isinstance(layer, nn.Linear)][-1]],
        num_heads={block.qkv: block.heads for block in blocks},
        unwrapped_parameters=bare,
    ).step()


def main() -> None:
    """Run one side."""
    side, name, network_file = sys.argv[1:4]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        if side == "plain":
            module = NETWORKS[name]()
            began = time.perf_counter(), time.process_time()
            plain(module)
        else:
            from engine.contract.metadata import ModelMetadata
            from engine.formats import load_network
            from engine.methods.context import Context
            from engine.methods.pruning.spec import StructuredPruning
            from engine.methods.pruning.structured_pruning import apply

            network = load_network(Path(network_file), "onnx", ModelMetadata(), Path(folder))
            context = Context(
                seed=0, work=Path(folder), emit=lambda event: None, baseline=network, data=None, threads=1, device=torch.device("cpu")
            )
            params = StructuredPruning(pruning_ratio=0.5, round_to=1)
            network.module  # noqa: B018 - built here, as the other side's is before its clock starts
            began = time.perf_counter(), time.process_time()
            module = apply(network, params, context.for_step(0, (0.0, 1.0))).module
        taken = time.perf_counter() - began[0], time.process_time() - began[1]
    left = sum(parameter.numel() for parameter in module.parameters())
    print(json.dumps({"wall_seconds": taken[0], "cpu_seconds": taken[1], "params_count": left}))


if __name__ == "__main__":
    main()
