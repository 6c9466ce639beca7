"""The trained network and the dataset of each task, which every comparison begins with."""

from __future__ import annotations

import argparse
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from benchmarks.tasks import by_hand
from benchmarks.tasks.cases import Case, cases
from engine.formats.onnx.export import export_onnx
from engine.networks.network import Signature, TensorSpec

Row = TypeVar("Row")


def signature(case: Case) -> Signature:
    """Of the network, as its ONNX file names it."""
    arrays = [TensorSpec(name, (None, *value.shape[1:]), str(value.dtype)) for name, value in case.inputs.items()]
    return Signature(tuple(arrays), tuple(TensorSpec(name, (None,)) for name in case.outputs))


def written(case: Case, work: Path, seed: int) -> tuple[Path, Path]:
    """Train the network; its file and that of its data."""
    torch.manual_seed(seed)
    by_hand.train(case.module, case, epochs=case.epochs)
    original, data = work / "original.onnx", work / "data.npz"
    export_onnx(case.module.eval(), signature(case), original)
    np.savez(data, **case.dataset())
    return original, data


def options(description: str | None) -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="")
    parser.add_argument("--seeds", type=int, default=1)
    return parser.parse_args()


def each(asked: argparse.Namespace, measured: Callable[[Case, Path, int], Row]) -> Iterator[tuple[Case, list[Row]]]:
    """Each task that is asked for, and what `measured` finds of it in a folder of its own, for one seed after the other."""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    for name in [case.name for case in cases(0) if asked.only in case.name]:
        rows = []
        for seed in range(asked.seeds):
            case = next(case for case in cases(seed) if case.name == name)
            with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                rows.append(measured(case, Path(folder), seed))
        yield case, rows
