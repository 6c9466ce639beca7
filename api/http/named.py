"""JSON bodies that name a model or a dataset instead of carrying it."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from api.http.remote import PATTERN
from api.http.words import PRINTABLE, Labels


class FinishedUpload(BaseModel):
    """A body that names the bytes instead of carrying them."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    upload_id: str = Field(pattern=r"^upl_[A-Za-z0-9]{1,40}$")
    """A completed upload of `POST /v1/uploads`."""
    name: str | None = Field(None, max_length=200, pattern=PRINTABLE)
    format: str | None = None
    metadata: dict[str, Any] = {}
    labels: Labels = {}
    """Pairs to find it by."""


class NamedFile(BaseModel):
    """A body that names where the file is instead of carrying it."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    uri: str = Field(pattern=PATTERN)
    """`https://…` (also presigned), `s3://bucket/key` of an object that may be read without credentials, or, from the project's MLflow server,
    `mlflow:models:/name/version` and `mlflow:runs:/run_id/path`. Fetched before the answer; private addresses are refused."""
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    """What the file's hash has to be."""
    name: str | None = Field(None, max_length=200, pattern=PRINTABLE)
    format: str | None = None
    metadata: dict[str, Any] = {}
    labels: Labels = {}
    """Pairs to find it by."""


class NamedModel(BaseModel):
    """A body that names a builtin architecture to be trained, instead of carrying weights."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    architecture: str | dict[str, Any]
    """Its name, or `{"name": …, "params": {…}, "seed": 0}`; see `GET /v1/architectures`. The initial weights are drawn with `seed`."""
    name: str | None = Field(None, max_length=200, pattern=PRINTABLE)
    metadata: dict[str, Any] = {}
    labels: Labels = {}
    """Pairs to find it by."""
