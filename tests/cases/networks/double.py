from tests.cases.prelude import *

# microsoft/onnxruntime#5782, onnx/sklearn-onnx#1183: a network in float64 throughout, and one that only takes float64 and casts.
net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 5)).double()
export(net, torch.randn(2, 8).double(), "double.onnx")


class Cast(nn.Module):
    def __init__(s):
        super().__init__()
        s.n = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 5))

    def forward(s, x):
        return s.n(x.float()).double()


export(Cast(), torch.randn(2, 8).double(), "cast.onnx")
for m in ("double", "cast"):
    data(None, model=m + ".onnx", name=m + ".npz", draw=lambda n: rng.standard_normal((n, 8)))
    for t, s in (("static", STATIC), ("dynamic", DYNAMIC), ("prune", PRUNE), ("distil", {"method": "distillation", "iterations": 3})):
        job(f"{m}_{t}", s, model=m + ".onnx", data=m + ".npz")
