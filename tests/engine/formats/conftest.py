"""What tests of formats share: files that torch's own exporter writes."""

import functools
from collections.abc import Iterator

import pytest
from torch.onnx._internal.exporter._registration import ONNXRegistry


@pytest.fixture(scope="session", autouse=True)
def _one_list_of_operators() -> Iterator[None]:
    """For every file torch's exporter parses the sources of its 500 operators anew, which takes half a second: here once a process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(functools.cache(ONNXRegistry.from_torchlib)))
        yield
