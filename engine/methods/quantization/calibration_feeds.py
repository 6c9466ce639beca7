"""The examples that quantization looks at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from engine.contract.errors import EngineError
from engine.formats.onnx.runtime import Feed, batches
from engine.methods.quantization.calibration import Feeds
from engine.methods.quantization.shift import warn_shifted
from engine.methods.quantization.spec_shared import Calibration
from engine.networks.network import Network

if TYPE_CHECKING:
    from engine.methods.step import StepContext


def calibration_feeds(network: Network, params: Calibration, context: StepContext, *, passes: int) -> tuple[str, Feeds, int]:
    """Examples of the training split (or, without one, of the validation split), drawn with the job's seed. Never of the test split.

    Args:
        network: What is calibrated.
        params: How many examples.
        context: Holds the dataset and takes the progress.
        passes: How often they are expected to be read.

    Returns:
        The split, a function that starts a pass over its examples, and their number.

    Raises:
        EngineError: `dataset_invalid` without a split to calibrate on.
    """
    splits = {} if context.data is None else context.data.splits
    names = [name for name in ("train", "validation") if name in splits and name != context.evaluation_split]
    if not names:
        raise EngineError(
            "dataset_invalid",
            f"Calibration reads training examples, but the dataset has {', '.join(sorted(splits)) or 'no splits'}"
            f" (and {context.evaluation_split} is kept for the evaluation).",
            hint="Upload a dataset with x_train (labels are not needed), or use dynamic_quantization or weight_only_quantization, which need none.",
        )
    split = splits[names[0]]
    count = min(params.samples, split.count)
    chosen = np.sort(context.rng().choice(split.count, count, replace=False))
    warn_shifted(split, chosen, context)
    fixed = network.signature.inputs[0].shape[0] if network.signature.inputs[0].shape else None

    expected = passes * count
    read = 0

    def feeds(batch_size: int) -> Iterator[Feed]:
        nonlocal read
        for indices in batches(chosen, batch_size, fixed):
            yield split.batch(indices)[0]
            if read < expected:  # what is read later belongs to another part of the step
                read = min(expected, read + len(indices))
                context.progress(0.9 * read / expected, f"calibrating, {read}/{expected} examples")

    return names[0], feeds, count
