"""Small networks of the kinds that people upload; every one of them is exported, imported again and compared."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(12, 20)
        self.drop = nn.Dropout(0.3)
        self.fc2 = nn.Linear(20, 16, bias=False)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.fc1(x.view(x.size(0), -1)))
        return self.head(torch.tanh(self.fc2(self.drop(x))))


class TokenMLP(nn.Module):
    """Linear layers on three-dimensional values, which exporters write as MatMul and Add."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(6, 20)
        self.fc2 = nn.Linear(20, 6)
        self.norm = nn.LayerNorm(6)

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.fc2(functional.gelu(self.fc1(self.norm(x))))).mean(1)


class SimpleCNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 12, 3), nn.ReLU(), nn.AvgPool2d(2)
        )
        self.classifier = nn.Sequential(nn.Linear(12 * 3 * 3, 24), nn.ReLU(), nn.Dropout(), nn.Linear(24, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))


class Basic(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.down = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)) if stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(out + (x if self.down is None else self.down(x)))


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.layer1 = nn.Sequential(Basic(8, 8, 1), Basic(8, 8, 1))
        self.layer2 = nn.Sequential(Basic(8, 16, 2), Basic(16, 16, 1))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.layer2(self.layer1(self.stem(x)))).flatten(1))


class MobileNet(nn.Module):
    """Inverted residuals with depthwise convolutions, ReLU6, hard swish and squeeze-and-excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.expand = nn.Sequential(nn.Conv2d(8, 24, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU6())
        self.depthwise = nn.Sequential(nn.Conv2d(24, 24, 3, 1, 1, groups=24, bias=False), nn.BatchNorm2d(24), nn.Hardswish())
        self.squeeze = nn.Conv2d(24, 6, 1)
        self.excite = nn.Conv2d(6, 24, 1)
        self.project = nn.Sequential(nn.Conv2d(24, 8, 1, bias=False), nn.BatchNorm2d(8))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        inner = self.depthwise(self.expand(x))
        gate = functional.hardsigmoid(self.excite(functional.relu(self.squeeze(inner.mean((2, 3), keepdim=True)))))
        x = x + self.project(inner * gate)
        return self.head(x.mean([2, 3]))


class DenseNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(8 + 4 * i), nn.ReLU(), nn.Conv2d(8 + 4 * i, 4, 3, padding=1, bias=False)) for i in range(3)
        )
        self.norm = nn.BatchNorm2d(20)
        self.transition = nn.Conv2d(20, 10, 1, bias=False)
        self.last = nn.BatchNorm2d(10)
        self.fc = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        x = functional.avg_pool2d(self.transition(functional.relu(self.norm(x))), 2)
        return self.fc(functional.adaptive_avg_pool2d(functional.relu(self.last(x)), 1).flatten(1))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q @ k.transpose(-2, -1) * self.scale).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(b, n, c))


class ViT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, 4)
        self.cls = nn.Parameter(torch.randn(1, 1, 16))
        self.pos = nn.Parameter(torch.randn(1, 17, 16))
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm1": nn.LayerNorm(16),
                    "attn": Attention(16, 2),
                    "norm2": nn.LayerNorm(16),
                    "mlp": nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16)),
                }
            )
            for _ in range(2)
        )
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.pos
        for block in self.blocks:
            x = x + block["attn"](block["norm1"](x))
            x = x + block["mlp"](block["norm2"](x))
        return self.head(self.norm(x)[:, 0])


class TorchTransformer(nn.Module):
    """torch's own encoder layer, with its fused attention and a causal mask."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.pos = nn.Parameter(torch.randn(6, 8))
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.1)
        self.head = nn.Linear(8, 4)
        self.register_buffer("mask", torch.triu(torch.full((6, 6), float("-inf")), 1))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(tokens) + self.pos, src_mask=self.mask).mean(1))


class TiedLM(nn.Module):
    """The output matrix is the embedding's."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.fc = nn.Linear(8, 8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.relu(self.fc(self.embed(tokens))))[:, -1]


class SharedConv(nn.Module):
    """One layer is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.shared = nn.Conv2d(6, 6, 3, padding=1)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.stem(x))
        x = functional.relu(self.shared(functional.relu(self.shared(x))))
        return self.fc(x.amax((2, 3)))


class Audio(nn.Module):
    """One-dimensional convolutions, padding, instance and group norm, strided and dilated."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(2, 8, 5, stride=2, padding=2)
        self.norm1 = nn.GroupNorm(4, 8)
        self.conv2 = nn.Conv1d(8, 8, 3, dilation=2, groups=2)
        self.norm2 = nn.InstanceNorm1d(8, affine=True)
        self.act = nn.PReLU(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.leaky_relu(self.norm1(self.conv1(functional.pad(x, (1, 3)))), 0.2)
        x = self.act(self.norm2(self.conv2(x)))
        return self.head(functional.max_pool1d(x, 3, 2).mean(-1))


class UNet(nn.Module):
    """Down, up by transposed convolution and by interpolation, skip connections; an image comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.down1 = nn.Conv2d(3, 6, 3, padding=1)
        self.down2 = nn.Conv2d(6, 12, 3, stride=2, padding=1)
        self.up1 = nn.ConvTranspose2d(12, 6, 3, stride=2, padding=1, output_padding=1)
        self.mix = nn.Conv2d(12, 6, 1)
        self.out = nn.Conv2d(6, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        a = functional.elu(self.down1(x))
        b = functional.silu(self.down2(a))
        x = self.mix(torch.cat([a, self.up1(b)], 1))
        x = x + functional.interpolate(self.mix.weight.new_ones(1, 1, 1, 1) * x[:, :, ::2, ::2], scale_factor=2, mode="nearest")
        return self.out(functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False))


class Shuffle(nn.Module):
    """Channel split, shuffle and concat, with grouped convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.branch = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1, groups=4))
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        a, b = x.chunk(2, 1)
        x = torch.cat([a, self.branch(b)], 1)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.fc(x.mean((2, 3)))


class Activations(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 12)
        self.acts = nn.ModuleList(
            [
                nn.SELU(),
                nn.Softplus(),
                nn.Mish(),
                nn.CELU(1.3),
                nn.Hardsigmoid(),
                nn.LogSigmoid(),
                nn.GELU("tanh"),
                nn.SiLU(),
                nn.Softsign(),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        x = sum(act(x) for act in self.acts)
        x = torch.where(x > 0.5, x.clamp(max=2.0), torch.erf(x)).pow(2).add(1).sqrt() / math.sqrt(2)
        return functional.log_softmax(x - x.max(1, keepdim=True).values, 1)


class Arithmetic(nn.Module):
    """Named constants, reductions, slices, comparisons, einsum, cumulative sums, tiling."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(4, 1) + 0.5)
        self.mixing = nn.Parameter(torch.randn(6, 5))
        self.register_buffer("shift", torch.linspace(-1, 1, 6))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.einsum("bchw,wk->bchk", (x * self.scale + self.shift), self.mixing)
        y = torch.cat([y[:, 1:, :, ::2], y[:, :-1, 1:2].repeat(1, 1, y.shape[2], 1)[..., :3]], 1)
        y = y.cumsum(2) - y.mean(1, keepdim=True)
        y = y.masked_fill(y < -1, 0.0)
        return (y.abs().sum((1, 2)) + 1).log() + y.norm(dim=(1, 2)) + y.amin((1, 2))


class SequenceLSTM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(5, 7, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(14, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.rnn(x)[0][:, -1])


class SequenceGRU(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(5, 7, num_layers=2, batch_first=True)
        self.fc = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.rnn(x)[1][-1])


class TwoInputs(nn.Module):
    """Tokens and numbers in, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 4)
        self.fc = nn.Linear(4 + 3, 8)
        self.a, self.b = nn.Linear(8, 2), nn.Linear(8, 3)

    def forward(self, tokens: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        h = functional.relu(self.fc(torch.cat([self.embed(tokens).mean(1), numbers], 1)))
        return self.a(h), self.b(h)


class Volume(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm3d(4)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(functional.max_pool3d(functional.relu(self.norm(self.conv(x))), 2).mean((2, 3, 4)))


@dataclass(frozen=True)
class Case:
    """A network and the shapes of one example; a trailing `tokens` bound makes an integer input."""

    make: Callable[[], nn.Module]
    shapes: tuple[tuple[int, ...], ...]
    tokens: tuple[int, ...] = ()
    """Upper bounds of the leading inputs that are integers."""
    exporters: tuple[str, ...] = ("dynamo", "legacy")

    def inputs(self, batch: int, seed: int = 0) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(seed)
        return tuple(
            torch.randint(0, self.tokens[index], (batch, *shape), generator=generator)
            if index < len(self.tokens)
            else torch.randn(batch, *shape, generator=generator)
            for index, shape in enumerate(self.shapes)
        )

    def network(self, seed: int = 0) -> nn.Module:
        """The network in eval mode, with batch statistics that are not the initial ones."""
        torch.manual_seed(seed)
        module = self.make()
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
                nn.init.normal_(layer.running_mean, std=0.2)
                nn.init.uniform_(layer.running_var, 0.5, 1.5)
                nn.init.uniform_(layer.weight, 0.5, 1.5)
                nn.init.normal_(layer.bias, std=0.2)
        return module.eval()


IMAGE = ((3, 16, 16),)
CASES = {
    "mlp": Case(MLP, ((3, 4),)),
    "token_mlp": Case(TokenMLP, ((4, 6),)),
    "simple_cnn": Case(SimpleCNN, IMAGE),
    "resnet": Case(ResNet, IMAGE),
    "mobilenet": Case(MobileNet, IMAGE),
    "densenet": Case(DenseNet, IMAGE),
    "vit": Case(ViT, IMAGE),
    "torch_transformer": Case(TorchTransformer, ((6,),), (20,)),
    "tied_lm": Case(TiedLM, ((5,),), (11,)),
    "shared_conv": Case(SharedConv, IMAGE),
    "audio": Case(Audio, ((2, 40),)),
    "unet": Case(UNet, IMAGE),
    "shuffle": Case(Shuffle, IMAGE),
    "activations": Case(Activations, ((6,),)),
    "arithmetic": Case(Arithmetic, ((3, 4, 6),)),
    "lstm": Case(SequenceLSTM, ((6, 5),)),
    "gru": Case(SequenceGRU, ((6, 5),)),
    "two_inputs": Case(TwoInputs, ((4,), (3,)), (9,)),
    "volume": Case(Volume, ((1, 4, 6, 6),)),
}
