"""`job.json`: what a job child finds in its directory."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict

from engine.contract.metadata import DatasetMetadata, ModelMetadata
from engine.contract.spec import parse

FILE_NAME = "job.json"
DRAIN_FILE = "drain"
"""Appears beside `job.json` when the supervisor wants a checkpoint as soon as possible, because the worker is about to stop."""


def divided(kind: str, spec: dict[str, Any] | None) -> bool:
    """Whether a job runs in several processes: they divide trainings, and nothing else."""
    if kind != "compress" or devices(spec) == 1:
        return False
    parsed, _ = parse(spec)
    return parsed is not None and any(step.needs.trainable for step in parsed.steps)


def devices(spec: dict[str, Any] | None) -> int:
    """How many devices a spec asks for; one of version 1 does not say."""
    return int((spec or {}).get("devices", 1))


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
    spec: dict[str, Any] | None = None
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
        """The job in `directory`, with absolute paths."""
        job = cls.model_validate_json((directory / FILE_NAME).read_bytes())
        return job.model_copy(
            update={
                "model": job.model and job.model.below(directory),
                "dataset": job.dataset and job.dataset.below(directory),
                "resume": job.resume and (directory / job.resume).absolute(),
                "teachers": {name: file.below(directory) for name, file in job.teachers.items()},
            }
        )
