"""Do a dataset's arrays fit a model's inputs, as far as their inspections show? The engine looks again when it has both files open."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from core.database.tables import Dataset, Model
from core.errors import DatasetInvalid, FieldError, ServiceError, ShapeMismatch


def misfit(model: Model, dataset: Dataset | None, *, trained: bool = True) -> ServiceError | None:
    """`shape_mismatch` or `dataset_invalid` where the two cannot belong together; None where they may, or nothing is known yet."""
    if dataset is None or model.inspection is None or dataset.inspection is None:
        return None
    signature, columns = model.inspection.get("signature"), dataset.inspection.get("columns")
    if not signature or columns is None:
        return None
    stored = {column["name"]: column["shape"] for column in columns}
    errors = [*_wrong_inputs(signature["inputs"], stored, model, dataset)]
    if errors:
        hint = "metadata.preprocessing.layout says what the stored dimensions mean; it does not change how many values there are"
        return ShapeMismatch(errors[0].detail, hint=hint, errors=errors)
    return _wrong_labels(signature["outputs"], dataset) if trained and not declared(model) else None


def declared(model: Model) -> bool:
    """Whether the owner declared what the model is for; only the engine finds whether a dataset's targets fit that."""
    return bool(model.declared.get("task") or model.declared.get("outputs"))


def _wrong_inputs(
    inputs: Sequence[Mapping[str, Any]], stored: Mapping[str, Sequence[int]], model: Model, dataset: Dataset
) -> list[FieldError]:
    errors = []
    for wanted in inputs:
        name = "x" if len(inputs) == 1 and "x" in stored else f"x.{wanted['name']}"
        if name not in stored:
            detail = f"{model.id} has the input {wanted['name']!r}, and {dataset.id} no array for it: name it x_<split>.{wanted['name']}"
            errors.append(FieldError("/dataset", "shape_mismatch", detail))
            continue
        sizes = wanted["shape"][1:]
        if None not in sizes and prod(sizes) != prod(stored[name]):
            detail = (
                f"an example of {dataset.id} is {_text(stored[name])} ({prod(stored[name])} values), the input {wanted['name']!r} of "
                f"{model.id} is {_text(sizes)} ({prod(sizes)} values)"
            )
            errors.append(FieldError("/dataset", "shape_mismatch", detail))
    return errors


def _wrong_labels(outputs: Sequence[Mapping[str, Any]], dataset: Dataset) -> DatasetInvalid | None:
    """Labels are numbers of outputs, where the model has one vector of known width; a single value decides between two, or is a number."""
    classes = (dataset.inspection or {}).get("classes")
    if not classes or len(outputs) != 1 or len(outputs[0]["shape"]) != 2 or outputs[0]["shape"][1] is None:
        return None
    width = outputs[0]["shape"][1]
    if width == 1:
        return None
    highest = max(classes) if all(isinstance(item, int) for item in classes) else len(classes) - 1
    if highest < width:
        return None
    return DatasetInvalid(
        f"{dataset.id} has labels up to {highest}, and the model has {width} outputs, for the labels 0 to {width - 1}",
        hint="choose the model that was made for this dataset",
    )


def _text(shape: Sequence[int]) -> str:
    return "×".join(str(size) for size in shape) or "a single number"
