"""MiniLM (Wang et al., 2020; `all-MiniLM-L6-v2`) with given weights, and English sentences as its inputs."""

import importlib
import re
import unicodedata
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH, HEADS, DEPTH, LENGTH = 384, 12, 6, 64
_MODULES = ("argparse", "asyncio", "calendar", "csv", "datetime", "decimal", "difflib", "email", "fractions", "gettext", "heapq", "inspect",
            "logging", "mailbox", "pathlib", "pickle", "random", "shutil", "statistics", "subprocess", "tarfile", "textwrap", "threading",
            "turtle", "unittest", "urllib.request", "zipfile")  # fmt: skip
"""Modules of Python whose documentation is read: English that is at hand everywhere."""


class Layer(nn.Module):
    """Attention and a perceptron, each followed by a normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, 1e-12), nn.LayerNorm(WIDTH, 1e-12)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (layer(x).reshape(*x.shape[:2], HEADS, -1).transpose(1, 2) for layer in (self.query, self.key, self.value))
        weights = (q @ k.transpose(-2, -1) / (WIDTH // HEADS) ** 0.5 + mask).softmax(-1)
        x = self.norm1(x + self.out((weights @ v).transpose(1, 2).reshape(x.shape)))
        return self.norm2(x + self.down(functional.gelu(self.up(x))))


class MiniLM(nn.Module):
    """22.7 million parameters; gives the mean of a sentence's words, of length 1."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(vocabulary, WIDTH), nn.Embedding(512, WIDTH)
        self.kind, self.norm = nn.Embedding(2, WIDTH), nn.LayerNorm(WIDTH, 1e-12)
        self.layers = nn.ModuleList(Layer() for _ in range(DEPTH))

    def forward(self, ids: Tensor, seen: Tensor) -> Tensor:
        places = torch.arange(ids.shape[1], device=ids.device)
        x = self.norm(self.words(ids) + self.positions(places) + self.kind.weight[0])
        mask = (1.0 - seen.to(x.dtype))[:, None, None] * -10000.0
        for layer in self.layers:
            x = layer(x, mask)
        weights = seen.to(x.dtype)[..., None]
        return functional.normalize((x * weights).sum(1) / weights.sum(1), dim=-1)


def named(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the package under the names of `MiniLM`."""
    names = {"attention.self.query": "query", "attention.self.key": "key", "attention.self.value": "value"}
    names |= {"attention.output.dense": "out", "attention.output.LayerNorm": "norm1", "intermediate.dense": "up", "output.dense": "down"}
    names |= {"output.LayerNorm": "norm2"}
    found = {}
    for name, value in state.items():
        layer = re.fullmatch(r"encoder\.layer\.(\d+)\.(.+)\.(weight|bias)", name)
        if layer:
            found[f"layers.{layer[1]}.{names[layer[2]]}.{layer[3]}"] = value
    for theirs, ours in (("word", "words"), ("position", "positions"), ("token_type", "kind")):
        found[f"{ours}.weight"] = state[f"embeddings.{theirs}_embeddings.weight"]
    return found | {f"norm.{part}": state[f"embeddings.LayerNorm.{part}"] for part in ("weight", "bias")}


class WordPieces:
    """Lower-case WordPiece (Devlin et al., 2019)."""

    def __init__(self, vocabulary: Path) -> None:
        self.ids = {word: place for place, word in enumerate(vocabulary.read_text(encoding="utf-8").split("\n")[:-1])}

    def __call__(self, text: str) -> list[int]:
        plain = "".join(c for c in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(c) != "Mn")
        pieces = [piece for word in re.findall(r"\w+|[^\w\s]", plain) for piece in self._pieces(word)]
        return [self.ids["[CLS]"], *pieces[: LENGTH - 2], self.ids["[SEP]"]]

    def _pieces(self, word: str) -> list[int]:
        found, start = [], 0
        while start < len(word):
            prefix = "##" if start else ""
            end = next((end for end in range(len(word), start, -1) if prefix + word[start:end] in self.ids), None)
            if end is None:
                return [self.ids["[UNK]"]]
            found.append(self.ids[prefix + word[start:end]])
            start = end
        return found


def sentences(count: int) -> list[str]:
    """Different sentences out of the documentation of Python's own modules."""
    found: dict[str, None] = {}
    for name in _MODULES:
        module = importlib.import_module(name)
        for item in [module, *(getattr(module, key, None) for key in sorted(dir(module)))]:
            members = [item, *(getattr(item, key, None) for key in sorted(vars(item)))] if isinstance(item, type) else [item]
            for member in members:
                text = getattr(member, "__doc__", None)
                for sentence in re.split(r"(?<=[.!?])\s+", " ".join(text.split())) if isinstance(text, str) else ():
                    if 6 <= len(sentence.split()) <= 40:
                        found[sentence] = None
    generator = np.random.default_rng(0)
    every = list(found)
    return [every[place] for place in generator.permutation(len(every))[:count]]


def make(package: Path, network: Path, data: Path, *, train: int = 256, test: int = 200) -> None:
    """Write the network as ONNX and sentences as a dataset."""
    from safetensors.torch import load_file

    pieces = WordPieces(package / "vocab.txt")
    module = MiniLM(len(pieces.ids)).eval()
    module.load_state_dict(named(load_file(str(package / "model.safetensors"))))
    tokens = [pieces(sentence) for sentence in sentences(train + test)]
    ids = np.array([row + [0] * (LENGTH - len(row)) for row in tokens], np.int64)
    seen = np.array([[1] * len(row) + [0] * (LENGTH - len(row)) for row in tokens], np.int64)
    arguments = (torch.from_numpy(ids[:2]), torch.from_numpy(seen[:2]))
    names = {"input_names": ["ids", "seen"], "output_names": ["embedding"]}
    axes = {name: {0: "batch"} for name in ("ids", "seen", "embedding")}
    torch.onnx.export(module, arguments, network, dynamo=False, opset_version=17, dynamic_axes=axes, **names)
    parts = {"train": slice(0, train), "test": slice(train, None)}
    arrays = {f"x_{split}.{name}": values[part] for split, part in parts.items() for name, values in (("ids", ids), ("seen", seen))}
    np.savez(data, **arrays)
