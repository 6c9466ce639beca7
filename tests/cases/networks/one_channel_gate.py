from tests.cases.prelude import *


# VainF/Torch-Pruning#179: a convolution with one output channel and its BatchNorm2d(1), used as a spatial gate.
class Net(nn.Module):
    def __init__(s):
        super().__init__()
        s.c1 = nn.Conv2d(3, 8, 3, padding=1)
        s.m = nn.Conv2d(8, 1, 3, padding=1)
        s.bm = nn.BatchNorm2d(1)
        s.c2 = nn.Conv2d(8, 8, 3, padding=1)
        s.fc = nn.Linear(8, 5)

    def forward(s, x):
        x = F.relu(s.c1(x))
        return s.fc(F.relu(s.c2(x * torch.sigmoid(s.bm(s.m(x))))).mean((2, 3)))


net = Net()
spread(net)
odd = [1, 3, 5, 7]
for l in (net.c1, net.c2):
    kill(l, odd)
export(net, torch.randn(2, 3, 8, 8))
data((3, 8, 8))
job("prune", PRUNE)
