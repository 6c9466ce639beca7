from tests.cases.prelude import *


# onnxsim#1017 (Phi-3 MLP): one fused Linear gives gate and value; rows i and i+H are one neuron.
class Net(nn.Module):
    def __init__(s):
        super().__init__()
        s.up = nn.Linear(8, 32, bias=False)
        s.down = nn.Linear(16, 8, bias=False)
        s.fc = nn.Linear(8, 4)

    def forward(s, x):
        g, u = s.up(x).chunk(2, -1)
        return s.fc((x + s.down(u * F.silu(g))).mean(1))


net = Net()
odd = list(range(1, 16, 2))
kill(net.up, odd + [i + 16 for i in odd])
export(net, torch.randn(2, 4, 8))
data((4, 8))
job("prune", PRUNE)
job("dynamic", DYNAMIC)
