from tests.cases.prelude import *


# VainF/Torch-Pruning#276, #404: recurrent layers beside a prunable one.
class Net(nn.Module):
    def __init__(s, kind, bi):
        super().__init__()
        s.f = nn.Linear(8, 16)
        s.r = getattr(nn, kind)(16, 16, batch_first=True, bidirectional=bi)
        s.fc = nn.Linear(32 if bi else 16, 4)

    def forward(s, x):
        return s.fc(s.r(F.relu(s.f(x)))[0][:, -1])


for kind, bi in (("LSTM", False), ("LSTM", True), ("GRU", False)):
    tag = kind.lower() + ("_bi" if bi else "")
    net = Net(kind, bi)
    kill(net.f, list(range(1, 16, 2)))
    export(net, torch.randn(2, 6, 8), f"{tag}.onnx")
    data((6, 8), model=f"{tag}.onnx", name=f"{tag}.npz")
    for t, s in (("prune", PRUNE), ("dynamic", DYNAMIC), ("static", STATIC)):
        job(f"{tag}_{t}", s, model=f"{tag}.onnx", data=f"{tag}.npz")
