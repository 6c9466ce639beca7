from tests.cases.prelude import *


# microsoft/onnxruntime#19270, llvm/torch-mlir#4741: recurrent network whose constant initial state was exported for one example, with an open batch.
class Net(nn.Module):
    def __init__(s, kind):
        super().__init__()
        s.r = getattr(nn, kind)(8, 12, batch_first=True)
        s.h = nn.Parameter(torch.randn(1, 1, 12))
        s.c = nn.Parameter(torch.randn(1, 1, 12))
        s.fc = nn.Linear(12, 4)
        s.k = kind

    def forward(s, x):
        h = s.h.expand(1, x.shape[0], 12).contiguous()
        c = s.c.expand(1, x.shape[0], 12).contiguous()
        return s.fc(s.r(x, (h, c) if s.k == "LSTM" else h)[0][:, -1])


for kind in ("GRU", "LSTM"):
    for dyn in (True, False):
        tag = f"{kind.lower()}_{'open' if dyn else 'fixed'}"
        export(Net(kind), torch.randn(1, 5, 8), tag + ".onnx", dynamic=dyn)
        data((5, 8), model=tag + ".onnx", name=tag + ".npz")
        for t, s in (("distil", {"method": "distillation", "iterations": 5, "batch_size": 16}), ("same", SAME), ("dynamic", DYNAMIC)):
            job(f"{tag}_{t}", s, model=tag + ".onnx", data=tag + ".npz")
