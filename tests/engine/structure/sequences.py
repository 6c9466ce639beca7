"""Small networks over vectors, tokens and tables that tie channels in ways of their own."""

import torch
from torch import nn
from torch.nn import functional

from tests.engine.structure.images import Network


class RMS(nn.Module):
    """Root-mean-square normalization by hand."""

    def __init__(self, c):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(c))

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


class FusedGate(Network):
    """One linear layer gives gate and value (SwiGLU)."""

    shape = (4, 8)

    def __init__(self):
        super().__init__()
        self.up = nn.Linear(8, 32, bias=False)
        self.down = nn.Linear(16, 8, bias=False)
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        g, u = self.up(x).chunk(2, -1)
        return self.fc((x + self.down(u * functional.silu(g))).mean(1))


class RMSNet(Network):
    """A residual stream that is normalized by hand."""

    shape = (4, 8)

    def __init__(self):
        super().__init__()
        self.e = nn.Linear(8, 12)
        self.n = RMS(12)
        self.up = nn.Linear(12, 16)
        self.down = nn.Linear(16, 12)
        self.n2 = RMS(12)
        self.fc = nn.Linear(12, 4)

    def forward(self, x):
        x = self.e(x)
        x = x + self.down(functional.gelu(self.up(self.n(x))))
        return self.fc(self.n2(x).mean(1))


class Decoder(Network):
    """A vector becomes an image."""

    shape = (8,)

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 16 * 4)
        self.t = nn.ConvTranspose2d(16, 8, 4, 2, 1)
        self.t2 = nn.ConvTranspose2d(8, 3, 4, 2, 1)

    def forward(self, x):
        return self.t2(functional.relu(self.t(functional.relu(self.fc(x)).view(-1, 16, 2, 2)))).flatten(1)


class Merge(Network):
    """Patches are merged by strided slices."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 2, 2)
        self.n = nn.LayerNorm(48)
        self.red = nn.Linear(48, 20)
        self.fc = nn.Linear(20, 3)

    def forward(self, x):
        x = self.stem(x).permute(0, 2, 3, 1)
        x = torch.cat([x[:, r::2, c::2] for r in (0, 1) for c in (0, 1)], -1)
        return self.fc(functional.relu(self.red(x)).mean((1, 2)))


class HeadBias(Network):
    """A bias for each head, looked up in a table."""

    shape = (6, 8)

    def __init__(self):
        super().__init__()
        self.e = nn.Linear(8, 16)
        self.qkv = nn.Linear(16, 48)
        self.o = nn.Linear(16, 16)
        self.fc = nn.Linear(16, 3)
        self.table = nn.Parameter(torch.randn(11, 4))
        i = torch.arange(6)
        self.register_buffer("idx", (i[:, None] - i[None] + 5))

    def forward(self, x):
        x = self.e(x)
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, 4, 4).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.table[self.idx].permute(2, 0, 1).unsqueeze(0)
        a = ((q @ k.transpose(-1, -2)) * 0.5 + bias).softmax(-1)
        return self.fc((x + self.o((a @ v).transpose(1, 2).reshape(b, n, c))).mean(1))


class AliBi(HeadBias):
    """Slopes for each head times distances."""

    def __init__(self):
        super().__init__()
        self.slopes = nn.Parameter(torch.rand(4, 1, 1))
        self.register_buffer("d", torch.arange(6.0)[None] - torch.arange(6.0)[:, None])

    def forward(self, x):
        x = self.e(x)
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, 4, 4).permute(2, 0, 3, 1, 4).unbind(0)
        a = ((q @ k.transpose(-1, -2)) * 0.5 + self.slopes * self.d).softmax(-1)
        return self.fc((x + self.o((a @ v).transpose(1, 2).reshape(b, n, c))).mean(1))


class HeadScale(HeadBias):
    """Cosine attention with a temperature for each head."""

    def __init__(self):
        super().__init__()
        self.tau = nn.Parameter(torch.rand(4, 1, 1) + 0.5)

    def forward(self, x):
        x = self.e(x)
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, 4, 4).permute(2, 0, 3, 1, 4).unbind(0)
        a = (functional.normalize(q, dim=-1) @ functional.normalize(k, dim=-1).transpose(-1, -2) * self.tau).softmax(-1)
        return self.fc((x + self.o((a @ v).transpose(1, 2).reshape(b, n, c))).mean(1))


class KerasBack(Network):
    """A vector becomes an image with its channels last."""

    shape = (8,)

    def __init__(self):
        super().__init__()
        self.d = nn.Linear(8, 64)
        self.a = nn.Conv2d(4, 8, 3, padding=1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(functional.relu(self.a(functional.relu(self.d(x)).reshape(-1, 4, 4, 4).permute(0, 3, 1, 2))).mean((2, 3)))


class Mixer(Network):
    """A layer over positions beside layers over channels."""

    shape = (6, 8)

    def __init__(self):
        super().__init__()
        self.e = nn.Linear(8, 12)
        self.t1 = nn.Linear(6, 10)
        self.t2 = nn.Linear(10, 6)
        self.c1 = nn.Linear(12, 16)
        self.c2 = nn.Linear(16, 12)
        self.fc = nn.Linear(12, 3)

    def forward(self, x):
        x = self.e(x)
        x = x + self.t2(functional.gelu(self.t1(x.transpose(1, 2)))).transpose(1, 2)
        x = x + self.c2(functional.gelu(self.c1(x)))
        return self.fc(x.mean(1))


class ChanAttn(Network):
    """Attention among channels."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.qkv = nn.Conv2d(8, 24, 1)
        self.o = nn.Conv2d(8, 8, 1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = self.a(x)
        b, c, h, w = x.shape
        q, k, v = self.qkv(x).chunk(3, 1)
        q, k, v = (t.reshape(b, 2, 4, h * w) for t in (q, k, v))
        y = (functional.normalize(q, dim=-1) @ functional.normalize(k, dim=-1).transpose(-1, -2)).softmax(-1) @ v
        return self.fc((x + self.o(y.reshape(b, c, h, w))).mean((2, 3)))


class NonLocal(Network):
    """Attention with one head."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.q = nn.Conv2d(8, 4, 1)
        self.k = nn.Conv2d(8, 4, 1)
        self.v = nn.Conv2d(8, 6, 1)
        self.o = nn.Conv2d(6, 8, 1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = self.a(x)
        q = self.q(x).flatten(2).transpose(1, 2)
        k = self.k(x).flatten(2)
        v = self.v(x).flatten(2).transpose(1, 2)
        y = ((q @ k).softmax(-1) @ v).transpose(1, 2).reshape(x.shape[0], 6, 8, 8)
        return self.fc((x + self.o(y)).mean((2, 3)))


class Tabular(Network):
    """An image's features beside a table's, cut out of one input."""

    shape = (3, 8, 9)

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.t = nn.Linear(24, 6)
        self.d = nn.Linear(14, 10)
        self.fc = nn.Linear(10, 5)

    def forward(self, x):
        image = functional.relu(self.a(x[..., :8])).mean((2, 3))
        table = x[..., 8].flatten(1)
        return self.fc(functional.relu(self.d(torch.cat([image, self.t(table)], 1))))


class TabularRaw(Tabular):
    """The table as it is, beside the image's features."""

    def __init__(self):
        super().__init__()
        self.d = nn.Linear(32, 10)

    def forward(self, x):
        image = functional.relu(self.a(x[..., :8])).mean((2, 3))
        table = x[..., 8].flatten(1)
        return self.fc(functional.relu(self.d(torch.cat([table, image], 1))))


class Recurrent(Network):
    """A recurrent layer beside linear ones."""

    shape = (6, 8)

    def __init__(self, kind=nn.LSTM, **settings):
        super().__init__()
        self.f = nn.Linear(8, 16)
        self.r = kind(16, 12, batch_first=True, **settings)
        self.fc = nn.Linear(24 if settings.get("bidirectional") else 12, 4)

    def forward(self, x):
        return self.fc(self.r(functional.relu(self.f(x)))[0][:, -1])


class LastState(Recurrent):
    """The last state is read, not the outputs."""

    def forward(self, x):
        return self.fc(self.r(functional.relu(self.f(x)))[1][-1])
