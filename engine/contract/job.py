"""`job.json`: what a job child finds in its directory."""

import json
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict

from engine.contract.errors import EngineError
from engine.contract.metadata import DatasetMetadata, ModelMetadata
from engine.contract.spec import Spec, parse

FILE_NAME = "job.json"
RESULT = "result.json"
"""What the job came to, in its directory: a `Summary`, or what an inspection found."""
DRAIN_FILE = "drain"
"""Appears beside `job.json` when the supervisor wants a checkpoint as soon as possible, because the worker is about to stop."""


class InputFile(BaseModel):
    """An uploaded file; `path` is relative to the job directory."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str | None = None
    path: Path
    format: str
    sha256: str | None = None
    name: str | None = None

    def below(self, directory: Path) -> Self:
        """The same file with a path that does not depend on the working directory."""
        return self.model_copy(update={"path": (directory / self.path).absolute()})


class ModelFile(InputFile):
    """An uploaded model and what its owner declared about it."""

    metadata: ModelMetadata = ModelMetadata()


class DatasetFile(InputFile):
    """An uploaded dataset and what its owner declared about it."""

    metadata: DatasetMetadata = DatasetMetadata()


class Job(BaseModel):
    """One job of a child."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    kind: Literal["compress", "inspect_model", "inspect_dataset"]
    job_id: str
    spec: Spec | None = None
    """Of a compression."""
    device: str = "cpu"
    threads: int = 1
    model: ModelFile | None = None
    dataset: DatasetFile | None = None
    teachers: dict[str, ModelFile] = {}
    resume: Path | None = None
    """The checkpoint of an earlier attempt."""
    checkpoint_seconds: float = 60.0
    """Time between two checkpoints of a training."""

    @classmethod
    def read(cls, directory: Path) -> "Job":
        """The job in `directory`, with absolute paths. Raises `spec_invalid`."""
        document = json.loads((directory / FILE_NAME).read_bytes())
        job = cls.model_validate({**document, "spec": _parsed(document.get("spec"))})
        return job.model_copy(
            update={
                "model": job.model and job.model.below(directory),
                "dataset": job.dataset and job.dataset.below(directory),
                "resume": job.resume and (directory / job.resume).absolute(),
                "teachers": {name: file.below(directory) for name, file in job.teachers.items()},
            }
        )


def _parsed(document: Any) -> Spec | None:
    """The spec, which is read here and nowhere else in the child."""
    if document is None:
        return None
    spec, problems = parse(document)
    if spec is None:
        raise EngineError("spec_invalid", "; ".join(f"{p.pointer}: {p.detail}" for p in problems), hint=problems[0].hint)
    return spec
