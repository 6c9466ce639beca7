"""The Attention operator of opset 23."""

from __future__ import annotations

import torch
from torch.nn import functional

from engine.formats.onnx.importer.builder import Builder
from engine.formats.onnx.importer.reader import Op
from engine.formats.onnx.importer.values import Value


def attention(op: Op, build: Builder) -> Value:
    """Scaled dot-product attention (Vaswani et al. 2017) of one call, without a cache of keys and values."""
    op.only(softcap=0.0, qk_matmul_output_mode=0)
    if any(op.get(index) is not None for index in (4, 5, 6)) or any(name and op.consumers.get(name) for name in op.node.output[1:]):
        op.fail("a cache of keys and values")
    query, key, value = (op.value(index) for index in range(3))
    flat = op.rank(0) == 3
    if flat:
        heads, shared = int(op.attribute("q_num_heads", 0)), int(op.attribute("kv_num_heads", 0))
        if not heads or not shared:
            op.fail("numbers of heads are missing")
        query = build.call("transpose", build.call("unflatten", query, 2, [heads, -1]), 1, 2)
        key, value = (build.call("transpose", build.call("unflatten", item, 2, [shared, -1]), 1, 2) for item in (key, value))
    grouped = build.size(query, 1) != build.size(key, 1)
    scale = op.attribute("scale")
    causal = bool(op.attribute("is_causal", 0))
    mixed = build.call(
        functional.scaled_dot_product_attention,
        query,
        key,
        value,
        attn_mask=op.get(3),
        is_causal=causal,
        scale=None if scale is None else float(scale),
        enable_gqa=grouped,
    )
    return build.call(torch.flatten, build.call("transpose", mixed, 1, 2), 2, 3) if flat else mixed


OPERATORS = {"Attention": attention}
