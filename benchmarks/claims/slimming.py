"""T6: an L1 penalty makes scales small, and the smallest of all go. T12: widths that share weights are as good as those trained alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort

from benchmarks.claims import convnet
from benchmarks.claims.bench import Bench, Outcome
from benchmarks.claims.claim import Check, Claim, Figures, difference, one
from modelpress.runtime.subnets import open_settings

SIZE = 14
WIDTHS = (0.25, 0.5, 0.75, 1.0)
RATIO = 0.6
_SGD = {"optimizer": "sgd", "learning_rate": 0.1, "batch_size": 64, "weight_decay": 1e-4}


def scales(bench: Bench, seed: int) -> Figures:
    """Shares of small scales by the penalty, and how the network was pruned with the larger one."""
    found = {}
    kept: list[int] = []
    for penalty in (0.0, 1e-3, 1e-2):
        step = {"method": "network_slimming", "penalty": penalty, "gamma_init": 0.5, "pruning_ratio": RATIO, "min_channels": 2, **_SGD}
        length = {"epochs": 40} if bench.full else {"epochs": 5}
        job = bench.run(f"T6-{penalty:g}", [{**step, **length}], seed=seed, size=SIZE, model=convnet.write(bench.folder / "convnet.onnx"))
        (found[penalty],) = job.step()["report"]["passes"]
        kept += [layer["channels_after"] for layer in job.step()["report"]["layers"].values()]
    last = found[1e-2]
    return {
        **{f"share at {penalty:g}": entry["near_zero_share"] for penalty, entry in found.items()},
        "misplaced": float(_misplaced(last["scales"], last["removed"])),
        "fewest": float(min(kept)),
    }


def _misplaced(listed: dict[str, list[float]], removed: dict[str, int]) -> int:
    """Channels that went although one with a smaller scale stayed, in a layer that keeps more than two."""
    gone = [value for name, values in listed.items() for value in sorted(values)[: removed[name]]]
    free = [(name, sorted(values)[removed[name] :]) for name, values in listed.items()]
    stayed = [value for _, values in free if len(values) > 2 for value in values]
    return sum(value > min(stayed, default=np.inf) for value in gone)


def trained(bench: Bench, seed: int) -> Outcome:
    """The job of T12."""
    length = {"epochs": 40} if bench.full else {"iterations": 600}
    step = {
        "method": "slimmable",
        "widths": list(WIDTHS),
        "ranking": "first",
        "controls": ["individual", "shared", "sliced"],
        "schedule": "cosine",
        **_SGD,
        **length,
    }
    return bench.run("T12", [step], seed=seed, size=SIZE, model=convnet.write(bench.folder / "convnet.onnx"))


def widths(bench: Bench, seed: int) -> Figures:
    """Accuracy of every width beside its controls, in points, and the one file that all of them come out of."""
    job = trained(bench, seed)
    compared = job.step()["report"]["comparison"]
    points = {control: [100 * figures[f"width {width:g}"]["test.top1"] for width in WIDTHS] for control, figures in compared.items()}
    whole = job.file("model", "onnx")
    wrong, plain = _recomputed(whole, bench.digits(seed, size=SIZE), job.report["settings"])
    return {
        "lost": max(alone - ours for alone, ours in zip(points["individual"], points["slimmable"], strict=True)),
        "over shared": points["slimmable"][0] - points["shared"][0],
        "over sliced": points["slimmable"][0] - points["sliced"][0],
        "wrong": float(wrong),
        "size": whole.stat().st_size / plain,
        **{f"{control} {width:g}": value for control, each in points.items() for width, value in zip(WIDTHS, each, strict=True)},
    }


def _recomputed(whole: Path, digits: Path, settings: list[dict]) -> tuple[int, int]:
    """Test digits by which the files that are cut out differ from what the job measured at the widths; size of the widest alone."""
    stored = np.load(digits)
    images, labels = stored["x_test"][:, None].astype(np.float32) / 255, stored["y_test"]
    packed, wrong, largest = open_settings(whole), 0, 0
    for item in settings:
        content = b"".join(packed.cut(packed.setting(item["setting"]["name"])))
        session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
        right = int((session.run(None, {session.get_inputs()[0].name: images})[0].argmax(1) == labels).sum())
        wrong += abs(right - round(item["figures"]["metrics"]["test.top1"] * len(labels)))
        largest = max(largest, len(content))
    return wrong, largest


CLAIMS = (
    Claim(
        "T6",
        scales,
        (
            Check("share of scales below 0.01: penalty 0.01 over none", "rises with λ", difference("share at 0.01", "share at 0"), 0.15),
            Check("channels that went while a smaller scale stayed, one threshold for all layers (count)", "by definition", one("misplaced"), 0, at_most=True, every_seed=True),
            Check("channels of the narrowest layer at 60 % removed, min_channels 2", "no layer is emptied", one("fewest"), 2, every_seed=True),
        ),
    ),
    Claim(
        "T12",
        widths,
        (
            Check("largest loss of a width against the same width trained alone (points)", "-0.8 to +0.3 on ImageNet (ResNet-50)", one("lost"), 1.5, at_most=True),
            Check("width 0.25 with switchable over shared normalization (points)", "shared fails", one("over shared"), 10),
            Check("width 0.25 over the network cut without training (points)", "chance", one("over sliced"), 40),
            Check("test digits by which files cut out of the one file differ from what was measured (count)", "by definition", one("wrong"), 0, at_most=True, every_seed=True),
            Check("size of the file with four widths over that of the widest alone", "BN < 1 % of the parameters", one("size"), 1.05, at_most=True, every_seed=True),
        ),
    ),
)  # fmt: skip
