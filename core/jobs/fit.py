"""Do a dataset's arrays fit a model's inputs, as far as their inspections show? The engine looks again when it has both files open."""

from collections.abc import Mapping, Sequence
from typing import Any

from core.database.tables import Dataset, Model
from core.errors import DatasetInvalid, FieldError, ServiceError, ShapeMismatch
from engine.contract.arrangement import arrange, check_kind, check_type, check_unscaled, preprocessing_of
from engine.contract.errors import EngineError
from engine.contract.metadata import DatasetMetadata


def misfit(model: Model, dataset: Dataset | None, *, trained: bool = True) -> ServiceError | None:
    """`shape_mismatch` or `dataset_invalid` where the two cannot belong together; None where they may, or nothing is known yet."""
    if dataset is None or model.inspection is None or dataset.inspection is None:
        return None
    signature, columns = model.inspection.get("signature"), dataset.inspection.get("columns")
    if not signature or columns is None:
        return None
    stored = {column["name"]: column for column in columns}
    if (error := _wrong_inputs(signature["inputs"], stored, model, dataset)) is not None:
        return error
    return wrong_labels(model, dataset) if trained else None


def declared(model: Model) -> bool:
    """Whether the owner declared what the model is for; only the engine finds whether a dataset's targets fit that."""
    return bool(model.declared.get("task") or model.declared.get("outputs"))


def _wrong_inputs(
    inputs: Sequence[Mapping[str, Any]], stored: Mapping[str, Mapping[str, Any]], model: Model, dataset: Dataset
) -> ServiceError | None:
    names = [str(wanted["name"]) for wanted in inputs]
    try:
        preprocessing = preprocessing_of(DatasetMetadata.model_validate(dataset.declared), names)
        for wanted in inputs:
            check_type(str(wanted["name"]), str(wanted["dtype"]))
            name = "x" if len(inputs) == 1 and "x" in stored else f"x.{wanted['name']}"
            if name not in stored:
                known = ", ".join(sorted(column for column in stored if column.partition(".")[0] == "x")) or "none"
                message = (
                    f"{model.id} has the input {wanted['name']!r}, and {dataset.id} no array for it: name it x_<split>.{wanted['name']}"
                )
                hint = f"arrays of inputs in the dataset: {known}"
                return ShapeMismatch(message, hint=hint, errors=[FieldError("/dataset", "shape_mismatch", message, hint)])
            check_unscaled(preprocessing[wanted["name"]], wanted["name"], wanted["dtype"])
            check_kind(name, stored[name]["dtype"], wanted["name"], wanted["dtype"])
            shape = stored[name]["shape"]
            if wanted["shape"] and None not in shape:  # pictures are made as large as the network wants them
                arrange(preprocessing[wanted["name"]], tuple(shape), wanted["name"], wanted["shape"])
    except EngineError as error:
        kind = DatasetInvalid if error.code == "dataset_invalid" else ShapeMismatch
        message = f"{dataset.id} does not fit {model.id}: {error.message}"
        return kind(message, hint=error.hint, errors=[FieldError("/dataset", kind.code, message, error.hint)])
    return None


def wrong_labels(model: Model, dataset: Dataset) -> DatasetInvalid | None:
    """Labels are numbers of outputs, where the model has one vector of known width; a single value decides between two, or is a number."""
    classes = (dataset.inspection or {}).get("classes")
    outputs: Sequence[Mapping[str, Any]] = ((model.inspection or {}).get("signature") or {}).get("outputs") or ()
    if declared(model) or not classes or len(outputs) != 1 or len(outputs[0]["shape"]) != 2 or outputs[0]["shape"][1] is None:
        return None
    width = outputs[0]["shape"][1]
    if width == 1:
        return None
    highest = max(classes) if all(isinstance(item, int) for item in classes) else len(classes) - 1
    if highest < width:
        return None
    lowest = min(classes) if all(isinstance(item, int) for item in classes) else 0
    shifted = lowest >= 1 and highest - lowest < width
    return DatasetInvalid(
        f"{dataset.id} has labels from {lowest} to {highest}, and the model has {width} outputs, for the labels 0 to {width - 1}",
        hint=f"labels begin at 0: store y - {lowest}" if shifted else "choose the model that was made for this dataset",
    )
