from tests.cases.prelude import *


# microsoft/onnxscript#2992, #2654, pytorch/pytorch#148886: scaled_dot_product_attention(is_causal=True) through the torch.export based exporter with an open batch; GroupNorm, SiLU, LayerNorm.
class Net(nn.Module):
    def __init__(s):
        super().__init__()
        s.emb = nn.Linear(8, 16)
        s.n1 = nn.LayerNorm(16)
        s.qkv = nn.Linear(16, 48)
        s.o = nn.Linear(16, 16)
        s.n2 = nn.LayerNorm(16)
        s.up = nn.Linear(16, 32)
        s.dn = nn.Linear(32, 16)
        s.fc = nn.Linear(16, 4)

    def forward(s, x):
        x = s.emb(x)
        h = s.n1(x)
        q, k, v = s.qkv(h).reshape(h.shape[0], h.shape[1], 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + s.o(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        x = x + s.dn(F.silu(s.up(s.n2(x))))
        return s.fc(x[:, -1])


net = Net().eval()
with torch.no_grad():
    for l in (net.qkv, net.fc):
        l.weight *= 3
torch.onnx.export(
    net,
    (torch.randn(2, 5, 8),),
    str(OUT / "model.onnx"),
    dynamo=True,
    input_names=["x"],
    output_names=["y"],
    dynamic_shapes=({0: torch.export.Dim("batch")},),
    external_data=False,
    verbose=False,
)
data((5, 8))
for t, s in (
    ("static", STATIC),
    ("dynamic", DYNAMIC),
    ("prune", PRUNE),
    ("same", SAME),
    ("distil", {"method": "distillation", "iterations": 5}),
):
    job(t, s)
