"""Attention heads are found however attention was written, and cutting them equals masking them."""

import copy

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional

from engine.architectures.vit.build import build
from engine.architectures.vit.spec import ViT
from engine.formats.onnx.importer.rebuild import build_module
from engine.formats.onnx.networks import ModuleNetwork
from engine.methods.pruning.spec import StructuredPruning
from engine.methods.pruning.structured_pruning import apply
from engine.networks.network import Signature, TensorSpec
from engine.structure.graph import ChannelGraph
from engine.structure.proof import removable
from tests.engine.conftest import signature
from tests.engine.formats.onnx.exporting import export
from tests.engine.formats.onnx.networks import Case
from tests.engine.structure.masking import mask_as_cut

WIDTH, HEADS, HEAD = 24, 3, 8
"""As many heads as there are projections: nothing may be found by size."""


class Fused(nn.Module):
    """One projection for all, torch's fused attention."""

    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, HEADS, HEAD).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c))


class Separate(nn.Module):
    """Three projections, the products written out, normalized queries and keys."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value, self.proj = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.norm = nn.LayerNorm(HEAD)

    def forward(self, x):
        q, k, v = (layer(x).view(x.shape[0], -1, HEADS, HEAD).transpose(1, 2) for layer in (self.query, self.key, self.value))
        weights = torch.softmax(self.norm(q) @ self.norm(k).transpose(-1, -2) / HEAD**0.5, -1)
        return self.proj((weights @ v).permute(0, 2, 1, 3).reshape(x.shape[0], -1, HEADS * HEAD))


class Multihead(nn.Module):
    """torch's own layer, whose second projection stands inside of the first one's name."""

    def __init__(self):
        super().__init__()
        self.mha = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def forward(self, x):
        return self.mha(x, x, x, need_weights=False)[0]


class Grouped(nn.Module):
    """Six heads of queries for three of keys and values (Ainslie et al., 2023); sizes follow from the weights."""

    def __init__(self):
        super().__init__()
        self.q, self.kv, self.proj = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x):
        q = self.q(x).unflatten(2, (-1, HEAD)).transpose(1, 2)
        k, v = self.kv(x).unflatten(2, (2, -1, HEAD)).permute(2, 0, 3, 1, 4)
        k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
        return self.proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Transformer(nn.Module):
    """Tokens from patches, one block, class token."""

    def __init__(self, attention):
        super().__init__()
        self.patch, self.cls = nn.Conv2d(1, WIDTH, 4, 4), nn.Parameter(torch.randn(1, 1, WIDTH))
        self.norm1, self.attn, self.norm2 = nn.LayerNorm(WIDTH), attention(), nn.LayerNorm(WIDTH)
        self.fc1, self.fc2, self.head = nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH), nn.Linear(WIDTH, 5)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1)
        x = x + self.attn(self.norm1(x))
        return self.head((x + self.fc2(functional.gelu(self.fc1(self.norm2(x)))))[:, 0])


class Torch(nn.Module):
    """torch's own encoder layer: heads and batch share a dimension on the way."""

    def __init__(self):
        super().__init__()
        self.patch, self.head = nn.Conv2d(1, WIDTH, 4, 4), nn.Linear(WIDTH, 5)
        self.layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 32, batch_first=True)

    def forward(self, x):
        return self.head(self.layer(self.patch(x).flatten(2).transpose(1, 2), src_mask=torch.zeros(4, 4)).mean(1))


NETWORKS = {
    "fused": lambda: Transformer(Fused),
    "separate": lambda: Transformer(Separate),
    "multihead": lambda: Transformer(Multihead),
    "torch": Torch,
    "builtin": lambda: build(ViT(in_channels=1, image_size=8, patch_size=4, width=WIDTH, heads=HEADS, depth=1, num_classes=5)),
    "grouped": lambda: Transformer(Grouped),
}
FORMS = ["fused-dynamo", "fused-legacy", "separate-legacy", "multihead-legacy", "torch-dynamo", "torch-legacy", "builtin", "grouped"]
X = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Every network in the form in which the engine meets it."""
    found = {}
    for form in FORMS:
        name, _, way = form.partition("-")
        torch.manual_seed(0)
        module = NETWORKS[name]().eval()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(torch.randn(parameter.shape) * 0.3)
        if way:
            path = tmp_path_factory.mktemp(name) / f"{way}.onnx"
            rebuilt = build_module(onnx.load(export(module, Case(NETWORKS[name], ((1, 8, 8),)), path, exporter=way)))
            torch.testing.assert_close(rebuilt(X), module(X), atol=1e-4, rtol=1e-4)
            module = rebuilt
        found[form] = module
    return found


@pytest.mark.parametrize("form", FORMS)
def test_cutting_heads_and_hidden_channels_equals_masking_them(made, form, tmp_path):
    """Before any tuning, with gradients for all that is left, and in ONNX Runtime."""
    cut, masked = copy.deepcopy(made[form]), copy.deepcopy(made[form])
    graph, shadow = ChannelGraph(cut, (X[:2],)), ChannelGraph(masked, (X[:2],))
    torch.testing.assert_close(cut(X), made[form](X), msg="room for fewer heads changes nothing")
    heads = [group for group in graph.groups if group.heads]
    assert [len(group.units) for group in heads] == [HEADS]
    rows = sum(len(part.indices) for part in heads[0].parts if part.outgoing)
    assert rows == (4 if form == "grouped" else 3) * WIDTH
    assert {group.name for group in graph.groups} == set(removable(made[form], (X[:2],), [group.name for group in graph.groups]))
    for group, twin in zip(graph.groups, shadow.groups, strict=True):
        channels = group.units[1 :: 2 if group.heads else 3].reshape(-1)
        mask_as_cut(twin, channels)
        graph.remove(group, channels.tolist())
    with torch.no_grad():
        assert (cut(X) - masked(X)).abs().max() < 1e-4
        assert (cut(X) - made[form](X)).abs().max() > 1e-2, "the heads mattered"
    cut(X).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in cut.parameters())
    if form not in ("fused-legacy", "torch-dynamo", "builtin"):
        return
    path = tmp_path / "cut.onnx"
    ModuleNetwork(Signature((TensorSpec("x", (None, 1, 8, 8)),), (TensorSpec("y", (None, 5)),)), cut.eval()).write_onnx(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        np.testing.assert_allclose(session.run(None, {"x": X[:batch].numpy()})[0], cut(X[:batch]).detach().numpy(), atol=1e-4)


def test_heads_go_by_importance_and_the_last_one_stays(made, world):
    module = copy.deepcopy(made["separate-legacy"])
    attention = next(group for group in ChannelGraph(module, (X,)).groups if group.heads)
    with torch.no_grad():
        for part in attention.parts:
            if part.outgoing:
                part.weight[:HEAD] *= 5
                part.weight[HEAD : 2 * HEAD] *= 0.01
    kept = {}
    for ratio in (0.5, 0.99):
        setting = world(module)
        setting.context.baseline = ModuleNetwork(signature(), module)
        pruned = apply(setting.network, StructuredPruning(pruning_ratio=ratio, include=(attention.name,)), setting.context).module
        assert setting.context.reported["layers"][attention.name]["channels_before"] == WIDTH
        kept[ratio] = pruned.get_submodule(attention.name).weight
        assert setting.context.reported["after"]["params_count"] == sum(p.numel() for p in pruned.parameters())
    whole = module.get_submodule(attention.name).weight
    assert torch.equal(kept[0.5], whole[[*range(HEAD), *range(2 * HEAD, 3 * HEAD)]]), "the head with the smallest weights went"
    assert torch.equal(kept[0.99], whole[:HEAD]), "the best head stayed"


def test_every_importance_ranks_heads_and_the_width_of_the_network_can_be_cut(made, world):
    for importance in ("taylor", "hessian", "group_norm", "fpgm", "lamp"):
        setting = world(copy.deepcopy(made["fused-legacy"]), train=20)
        pruned = apply(setting.network, StructuredPruning(pruning_ratio=0.5, importance=importance), setting.context).module
        layers = setting.context.reported["layers"]
        assert {name: count["channels_after"] for name, count in layers.items() if name.endswith(("qkv", "fc1", "proj"))} == {
            "attn.qkv": 48,
            "fc1": 16,
            "attn.proj": 12,
        }
        assert pruned(X).shape == (3, 5)
