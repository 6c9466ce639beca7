"""What may be declared about an upload; the same for the command line, the service and the job."""

from typing import Any

import pytest
from pydantic import ValidationError

from engine.contract.metadata import DatasetMetadata, ModelMetadata, PreprocessingSpec


@pytest.mark.parametrize(
    ("preprocessing", "word"),
    [
        ({"std": 0}, "std"),
        ({"std": [0.5, 0.0]}, "std"),
        ({"scales": 2}, "scales"),
        ({"layout": "HWC"}, "layout"),
        ({"layout": "NHHC"}, "once"),
        ({"image": {"std": 0}}, "image"),
        ("NHWC", "preprocessing"),
    ],
)
def test_preprocessing_that_means_nothing(preprocessing: Any, word: str) -> None:
    with pytest.raises(ValidationError, match=word):
        DatasetMetadata.model_validate({"preprocessing": preprocessing})


def test_preprocessing_is_stated_once_or_by_input() -> None:
    once = DatasetMetadata.model_validate({"preprocessing": {"scale": 0.5}})
    assert once.preprocessing == PreprocessingSpec(scale=0.5)
    each = DatasetMetadata.model_validate({"preprocessing": {"a": {"scale": 0.5}, "b": {}}})
    assert each.preprocessing == {"a": PreprocessingSpec(scale=0.5), "b": PreprocessingSpec()}
    for metadata in (once, each):
        assert DatasetMetadata.model_validate(metadata.model_dump(mode="json")) == metadata


@pytest.mark.parametrize("document", [{"architecture": 7}, {"input_specs": [{"name": "x", "shape": []}]}, {"arch": "lenet_5"}])
def test_models_are_declared_by_known_fields(document: dict) -> None:
    with pytest.raises(ValidationError):
        ModelMetadata.model_validate(document)
