"""Small networks over images that tie channels in ways of their own."""

import torch
from torch import nn
from torch.nn import functional


class Network(nn.Module):
    """An input's shape without the batch."""

    shape: tuple[int, ...] = (3, 8, 8)


class Chunk(Network):
    """A gated block of NAFNet: a product of halves, and channel attention."""

    def __init__(self, c=8):
        super().__init__()
        self.stem = nn.Conv2d(3, c, 3, padding=1)
        self.c1 = nn.Conv2d(c, 2 * c, 1)
        self.dw = nn.Conv2d(2 * c, 2 * c, 3, padding=1, groups=2 * c)
        self.sca = nn.Conv2d(c, c, 1)
        self.c3 = nn.Conv2d(c, c, 1)
        self.fc = nn.Linear(c, 5)

    def forward(self, x):
        x = self.stem(x)
        a, b = self.dw(self.c1(x)).chunk(2, 1)
        y = a * b
        y = y * self.sca(y.mean((2, 3), keepdim=True))
        return self.fc((x + self.c3(y)).mean((2, 3)))


class SplitUneven(Network):
    """Parts of different widths."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 18, 3, padding=1)
        self.b = nn.Conv2d(6, 8, 3, padding=1)
        self.c = nn.Conv2d(12, 8, 1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        u, v = self.a(x).split([6, 12], 1)
        return self.fc(functional.relu(self.b(u) + self.c(v)).mean((2, 3)))


class Gate1(Network):
    """A gate of one channel."""

    def __init__(self):
        super().__init__()
        self.c1 = nn.Conv2d(3, 8, 3, padding=1)
        self.m = nn.Conv2d(8, 1, 3, padding=1)
        self.bm = nn.BatchNorm2d(1)
        self.c2 = nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = functional.relu(self.c1(x))
        return self.fc(functional.relu(self.c2(x * torch.sigmoid(self.bm(self.m(x))))).mean((2, 3)))


class RMSConv(Network):
    """The same over the channels of an image."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.g = nn.Parameter(torch.rand(1, 8, 1, 1) + 0.5)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        y = self.a(x)
        y = y / torch.sqrt((y * y).mean(1, keepdim=True) + 1e-5) * self.g
        return self.fc(functional.relu(self.b(y)).mean((2, 3)))


class L2Norm(Network):
    """Vectors of length one along the channels."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(functional.relu(self.b(functional.normalize(self.a(x), dim=1))).mean((2, 3)))


class Shuffle(Network):
    """Channels become positions."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.up = nn.Conv2d(8, 32, 3, padding=1)
        self.ps = nn.PixelShuffle(2)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(functional.relu(self.b(functional.relu(self.ps(self.up(functional.relu(self.a(x))))))).mean((2, 3)))


class Unshuffle(Network):
    """Positions become channels."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.ps = nn.PixelUnshuffle(2)
        self.b = nn.Conv2d(32, 8, 3, padding=1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(functional.relu(self.b(self.ps(functional.relu(self.a(x))))).mean((2, 3)))


class Keras(Network):
    """An image is flattened with its channels last."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.d = nn.Linear(512, 12)
        self.fc = nn.Linear(12, 5)

    def forward(self, x):
        return self.fc(functional.relu(self.d(functional.relu(self.a(x)).permute(0, 2, 3, 1).reshape(x.shape[0], -1))))


class Cbam(Network):
    """Mean and maximum over the channels."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.sp = nn.Conv2d(2, 1, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        y = functional.relu(self.a(x))
        m = torch.cat([y.mean(1, keepdim=True), y.amax(1, keepdim=True)], 1)
        return self.fc(functional.relu(self.b(y * torch.sigmoid(self.sp(m)))).mean((2, 3)))


class DwMult(Network):
    """Two filters for each channel."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.d = nn.Conv2d(8, 16, 3, padding=1, groups=8)
        self.b = nn.Conv2d(16, 8, 1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(functional.relu(self.b(functional.relu(self.d(functional.relu(self.a(x)))))).mean((2, 3)))


class SKNet(Network):
    """A softmax over branches."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b1 = nn.Conv2d(8, 8, 3, padding=1)
        self.b2 = nn.Conv2d(8, 8, 5, padding=2)
        self.z = nn.Linear(8, 6)
        self.w = nn.Linear(6, 16)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = functional.relu(self.a(x))
        u = torch.stack([self.b1(x), self.b2(x)], 1)
        w = self.w(functional.relu(self.z(u.sum(1).mean((2, 3))))).view(-1, 2, 8).softmax(1)
        return self.fc((u * w[:, :, :, None, None]).sum(1).mean((2, 3)))


class Ghost(Network):
    """A part of a concatenation."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.p = nn.Conv2d(8, 8, 1)
        self.d = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.o = nn.Conv2d(14, 8, 1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        y = functional.relu(self.p(functional.relu(self.a(x))))
        y = torch.cat([y, functional.relu(self.d(y))], 1)[:, :14]
        return self.fc(functional.relu(self.o(y)).mean((2, 3)))


class Res2(Network):
    """Splits that are added to one another."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 16, 3, padding=1)
        self.k = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))
        self.o = nn.Conv2d(16, 8, 1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        p = list(functional.relu(self.a(x)).split(4, 1))
        out = [p[0]]
        y = torch.zeros(())
        for i in range(3):
            y = functional.relu(self.k[i](p[i + 1] + y))
            out.append(y)
        return self.fc(functional.relu(self.o(torch.cat(out, 1))).mean((2, 3)))


class MaxOut2(Network):
    """The larger of two channels."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 16, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        y = self.a(x)
        y = y.view(y.shape[0], 8, 2, 8, 8).amax(2)
        return self.fc(functional.relu(self.b(y)).mean((2, 3)))
