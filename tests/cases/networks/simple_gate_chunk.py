from tests.cases.prelude import *


# microsoft/nni#5416 (NAFNet): chunk(2) after a depthwise convolution, product of the halves, channel attention, residual.
class Net(nn.Module):
    def __init__(s, c=8):
        super().__init__()
        s.stem = nn.Conv2d(3, c, 3, padding=1)
        s.c1 = nn.Conv2d(c, 2 * c, 1)
        s.dw = nn.Conv2d(2 * c, 2 * c, 3, padding=1, groups=2 * c)
        s.sca = nn.Conv2d(c, c, 1)
        s.c3 = nn.Conv2d(c, c, 1)
        s.fc = nn.Linear(c, 5)

    def forward(s, x):
        x = s.stem(x)
        a, b = s.dw(s.c1(x)).chunk(2, 1)
        y = a * b
        y = y * s.sca(y.mean((2, 3), keepdim=True))
        return s.fc((x + s.c3(y)).mean((2, 3)))


net = Net()
odd = [1, 3, 5, 7]
for l in (net.stem, net.sca, net.c3):
    kill(l, odd)
for l in (net.c1, net.dw):
    kill(l, odd + [i + 8 for i in odd])
export(net, torch.randn(2, 3, 8, 8))
data((3, 8, 8))
job("prune", PRUNE)
