"""A file by which one process hands another what is too large for a line: announced with its size and hash, verified before it is read."""

import hashlib
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

MAX_BYTES = 64 << 20
"""Largest file that is read whole: what an inspection found of the largest networks."""
MAX_SUMMARY_BYTES = 4 << 20
"""Largest summary of a compression: clients read it with the job."""


class FileRef(BaseModel):
    """A finished file below the job's directory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str = Field(min_length=1, max_length=1000)
    """Relative to the job's directory."""
    size_bytes: int = Field(ge=0, le=MAX_BYTES)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")

    @classmethod
    def write(cls, directory: Path, path: str, content: bytes) -> Self:
        """Write the file and describe it."""
        (directory / path).write_bytes(content)
        return cls.of(path, content)

    @classmethod
    def of(cls, path: str, content: bytes) -> Self:
        """Describe a file with this content."""
        return cls(path=path, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())

    def holds(self, content: bytes) -> bool:
        """Whether these are the bytes that were announced."""
        return len(content) == self.size_bytes and hashlib.sha256(content).hexdigest() == self.sha256

    def read(self, directory: Path) -> bytes:
        """The content, for a reader that trusts the names in the directory. Raises ValueError where it is another."""
        content = (directory / self.path).read_bytes()
        if not self.holds(content):
            raise ValueError(f"{self.path} is not the file that was announced")
        return content
