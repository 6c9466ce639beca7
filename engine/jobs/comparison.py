"""A module beside an ONNX file on a few inputs: what was imported, and what is exported, must compute the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.contract.errors import EngineError
from engine.formats.onnx import runtime
from engine.formats.onnx.runtime import Feed
from engine.jobs.inputs import JobInputs
from engine.measuring.examples import CompletedExamples, Examples, RandomExamples, SplitExamples
from engine.networks.network import Network, Signature

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

COMPARED_EXAMPLES, LARGE_COMPARED_EXAMPLES = 16, 2
LARGE_FILE_BYTES = 2**24
"""A file from this size on is compared on fewer examples: each of its outputs depends on nearly all of it anyway."""
_IMPORTED, _IMPORTED_HALF = 1e-4, 1e-2
"""Power of what an imported module may differ by, as a share of the output's: other kernels cost some 1e-10 (in half precision 1e-6), and
an operator that rounds or chooses may go the other way now and then; a wrong operator costs far more."""


def some_inputs(inputs: JobInputs, file: Path, network: Network) -> Feed:
    """The first few examples, or random inputs, for a file of `network`."""
    session = runtime.open_session(file, threads=inputs.job.threads, optimized=False)
    count = COMPARED_EXAMPLES if file.stat().st_size < LARGE_FILE_BYTES else LARGE_COMPARED_EXAMPLES
    examples: Examples
    if inputs.data is None:
        examples = RandomExamples(session, seed=inputs.spec.seed, signature=inputs.baseline.signature, added=inputs.added(network))
    else:
        examples = SplitExamples(inputs.split, inputs.data.splits[inputs.split], session)
    completed = CompletedExamples(examples, inputs.added(network), [session])
    return next(iter(completed.batches(min(count, examples.count)))).feed


def module_outputs(module: nn.Module, signature: Signature, feed: Feed) -> list[NDArray[Any]]:
    """What a module on the CPU gives."""
    import torch

    with torch.no_grad():
        outputs = module(*_given(signature, feed))
    return [output.detach().numpy() for output in ([outputs] if isinstance(outputs, torch.Tensor) else outputs)]


def _given(signature: Signature, feed: Feed) -> list[Tensor]:
    import torch

    return [torch.from_numpy(np.require(feed[tensor.name], requirements=("C", "W"))) for tensor in signature.inputs]


def decided(module: nn.Module, signature: Signature, feed: Feed) -> Feed:
    """The examples whose way through the module does not hang on rounding; the first of them stands in the places of the others.

    What another runtime computes for an example is another thing where it goes another way, and says nothing of the file.
    """
    import torch

    from engine.networks.routed import RoutedModule

    if not isinstance(module, RoutedModule):
        return feed
    with torch.no_grad():
        near = module.borderline(*_given(signature, feed))
    clear = np.flatnonzero(~near.numpy())
    if len(clear) in (0, len(near)):
        return feed
    rows = np.where(near.numpy(), clear[0], np.arange(len(near)))
    return {name: value[rows] if len(value.shape) and len(value) == len(near) else value for name, value in feed.items()}


def check_import(inputs: JobInputs) -> None:
    """The module that was built from the uploaded network beside its file, on the same few inputs.

    Raises:
        EngineError: `import_mismatch` where they differ by more than rounding: nothing may be trained or pruned on such a module.
    """
    from engine.networks import masks

    network = inputs.baseline
    feed = some_inputs(inputs, inputs.onnx, network)
    session = runtime.open_session(inputs.onnx, threads=inputs.job.threads)
    expected = runtime.run(session, {item.name: feed[item.name] for item in session.get_inputs()})
    found = module_outputs(masks.fold(network.module).cpu().eval(), network.signature, feed)
    limit = _IMPORTED_HALF if network.weights_type == "float16" else _IMPORTED
    for tensor, want, got in zip(network.signature.outputs, expected, found, strict=True):
        error = difference(want, got)
        if error is None or error > limit:
            raise EngineError(
                "import_mismatch",
                f"The trainable form of this network computes something else than its file at output {tensor.name!r}: "
                + ("shapes differ." if error is None else f"{100 * error**0.5:.2g} % of the output's size."),
                hint="Please report this with the model. Methods that need no training (quantization) work on the file itself.",
                category="internal",
                details={"output": tensor.name, "error": error},
            )


def difference(want: NDArray[Any], got: NDArray[Any]) -> float | None:
    """Power of the difference as a share of the wanted output's, of whole numbers the share that is another; None where shapes differ."""
    if want.shape != got.shape:
        return None
    if not np.issubdtype(want.dtype, np.floating):
        return float((want != got).mean()) ** 2 if want.size else 0.0
    a, b = want.astype(np.float64), got.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    left, right = np.where(same, 0.0, a), np.where(same, 0.0, b)
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        return float("inf")
    power = float(np.square(a[np.isfinite(a)]).sum())
    return float(np.square(left - right).sum()) / max(power, 1e-30)
