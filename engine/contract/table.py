"""Which columns of a table are what: `metadata.table` of a dataset in CSV or Parquet."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from engine.contract.base import Params

ColumnName = Annotated[str, Field(min_length=1, max_length=256)]
TARGETS = ("target", "label", "class", "y")
"""Names that a column of targets customarily has; of several, the first here."""
SPLIT = "split"
"""Name of the column that says which split a row belongs to, if there is one."""


class TableSpec(Params):
    """Rows are examples; features become one vector of float32 in the order that is stated, or that of the file."""

    features: tuple[ColumnName, ...] = Field((), max_length=100_000)
    """Columns of the input; left out, all but targets and split."""
    targets: tuple[ColumnName, ...] = Field((), max_length=10_000)
    """Columns of the targets; left out, one called target, label, class or y, if there is one. Texts are names of classes."""
    split: ColumnName | None = None
    """Column that holds train, validation or test; left out, the one called split, if there is one."""
    test_share: float = Field(0.0, ge=0, lt=1)
    """Without such a column: share of the rows, drawn at random and the same every time, that are the test split."""
    standardize: Literal["none", "train"] = "none"
    """`train`: subtract each feature's mean over the training rows and divide by its standard deviation. The network then expects such
    inputs; figures that are known are stated as `preprocessing.mean` and `std` instead."""

    @model_validator(mode="after")
    def _apart(self) -> "TableSpec":
        for name in (*self.targets, *((self.split,) if self.split else ())):
            if name in self.features:
                raise ValueError(f"{name!r} cannot be a feature and something else")
        if self.split is not None and self.test_share:
            raise ValueError("give either split or test_share")
        return self
