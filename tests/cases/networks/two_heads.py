from tests.cases.prelude import *


# Two heads on one trunk: removing channels and learning back from the original must keep both of them.
class Net(nn.Module):
    def __init__(s):
        super().__init__()
        s.a = nn.Linear(12, 64)
        s.b = nn.Linear(64, 64)
        s.first = nn.Linear(64, 6)
        s.box = nn.Linear(64, 3)

    def forward(s, x):
        h = F.relu(s.b(F.relu(s.a(x))))
        return s.first(h), s.box(h)


net = Net()
with torch.no_grad():
    for l in net.children():
        l.weight *= 2
export(net, torch.randn(2, 12), outputs=("first", "box"))
data((12,), train=1024, test=256)
job(
    "prune_distil",
    {**PRUNE, "pruning_ratio": 0.3},
    {"method": "distillation", "alpha": 1, "iterations": 400, "learning_rate": 3e-3, "batch_size": 128},
)
