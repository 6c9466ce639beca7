"""The model card of a published folder."""

from __future__ import annotations

import engine
from engine.networks.network import Network, TensorSpec

_LOADING = {
    "transformers": "from transformers import {head}\n\nmodel = {head}.from_pretrained(folder)  # the unpacked zip",
    "timm": 'import timm\n\nmodel = timm.create_model("local-dir:" + folder, pretrained=True)  # the unpacked zip',
}


def card(network: Network, library: str | None, file: str) -> str:
    """Markdown with the front matter of model hubs: what the network takes, gives and weighs, and how it is loaded."""
    head = network.architecture["params"].get("head", "") if library else ""
    loading = (
        f"```python\n{_LOADING[library].format(head=head)}\n```"
        if library
        else "Its structure is that of no library any more: upload the zip to Modelpress (`format=huggingface`), which reads it as a model, or take the ONNX file of the same job."
    )
    counts = network.count() if all(None not in spec.shape[1:] for spec in network.signature.inputs) else None
    lines = [
        "---",
        *([f"library_name: {library}"] if library else []),
        "tags: [compressed, modelpress]",
        "---",
        "",
        "# Compressed network",
        "",
        f"Written by Modelpress {engine.__version__}; the figures that were measured on this very file stand in the job's report.",
        "",
        *(
            [f"- Parameters: {counts.params_count:,}, of which {counts.nonzero_params_count:,} are not zero"]
            if counts and counts.params_count is not None
            else []
        ),
        *(f"- Input {_text(spec)}" for spec in network.signature.inputs),
        *(f"- Output {_text(spec)}" for spec in network.signature.outputs),
        "",
        "## Loading",
        "",
        loading,
        "",
    ]
    return "\n".join(lines)


def _text(spec: TensorSpec) -> str:
    shape = ", ".join("batch" if dim == 0 and size is None else "?" if size is None else str(size) for dim, size in enumerate(spec.shape))
    return f"`{spec.name}`: {spec.dtype}, ({shape})"
