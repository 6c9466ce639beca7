from tests.cases.prelude import *


# microsoft/onnxruntime#23749 (NaN of padded rows), #14363, microsoft/onnxscript#2654, #2992, executorch#8736: attention masks of -inf, of the lowest float, of -10000 added; rows masked whole.
class Net(nn.Module):
    def __init__(s, kind):
        super().__init__()
        s.q = nn.Linear(8, 8)
        s.k = nn.Linear(8, 8)
        s.v = nn.Linear(8, 8)
        s.o = nn.Linear(8, 8)
        s.fc = nn.Linear(8, 4)
        s.kind = kind

    def forward(s, x):
        a = s.q(x) @ s.k(x).transpose(1, 2) * 8**-0.5
        up = torch.triu(torch.ones(5, 5, dtype=torch.bool), 1)
        a = (
            a + up.float() * {"add1e4": -1e4, "add1e9": -1e9}[s.kind]
            if s.kind.startswith("add")
            else a.masked_fill(up, torch.finfo(torch.float32).min if s.kind == "lowest" else float("-inf"))
        )
        if s.kind == "padded":
            a = a.masked_fill((x.abs().sum(-1) == 0)[:, None], float("-inf"))
        p = a.softmax(-1)
        if s.kind == "padded":
            p = torch.where(torch.isnan(p), torch.zeros_like(p), p)
        return s.fc(F.gelu(s.o(p @ s.v(x)))[:, -1])


def draw(n):
    x = rng.standard_normal((n, 5, 8)).astype("f") * 2
    x[::3, :2] = 0
    return x


for tag in ("inf", "padded", "lowest", "add1e4", "add1e9"):
    net = Net(tag)
    with torch.no_grad():
        for l in (net.q, net.k, net.v, net.o, net.fc):
            l.weight *= 2.5
    export(net, torch.randn(2, 5, 8), tag + ".onnx")
    data(None, model=tag + ".onnx", name=tag + ".npz", draw=draw)
    for t, s in (
        ("static", STATIC),
        ("percentile", {**STATIC, "calibration": {"observer": "percentile"}}),
        ("dynamic", DYNAMIC),
        ("prune", PRUNE),
    ):
        job(f"{tag}_{t}", s, model=tag + ".onnx", data=tag + ".npz")
