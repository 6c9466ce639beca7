"""What a child wrote becomes stored, once every announced byte was found and hashed again."""

import stat
from collections.abc import Sequence
from pathlib import Path

from core.blobs import Blob, Blobs
from core.errors import DigestMismatch
from core.jobs import NewArtifact
from engine.events import ArtifactWritten, Checkpointed
from worker.staging import OUT
from worker.stop import Reason, Stop


class ManifestError(Exception):
    """A file is not what the child said."""


def publish(announced: Sequence[ArtifactWritten], directory: Path, blobs: Blobs, stop: Stop) -> list[NewArtifact]:
    """Store every announced file; nothing points to the blobs until the job's last transaction does.

    Raises:
        ManifestError: A file is missing, elsewhere, or differs in size or hash; or two have one name.
        ServiceError: `storage_full`, `service_unavailable`.
        Stopped: The attempt should end.
    """
    names = [artifact.filename for artifact in announced]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ManifestError(f"two artifacts are called {twice!r}")
    artifacts = []
    for artifact in announced:
        stop.check(Reason.DRAINED)
        if max(len(artifact.kind), len(artifact.format)) > 32:
            raise ManifestError(f"{artifact.filename!r} is of no known kind and format")
        path = _regular_file(directory, Path(OUT) / artifact.filename, levels=2)
        artifacts.append(
            NewArtifact(
                kind=artifact.kind,
                format=artifact.format,
                filename=artifact.filename,
                blob=_store(blobs, path, artifact.filename, artifact.size_bytes, artifact.sha256),
                gzip_bytes=artifact.gzip_bytes,
                step_index=artifact.step_index,
                metrics=artifact.metrics,
            )
        )
    return artifacts


def store_checkpoint(event: Checkpointed, directory: Path, blobs: Blobs) -> Blob:
    """Store the file of a checkpoint. Raises ManifestError and ServiceError."""
    return blobs.put_file(_regular_file(directory, Path(event.path), levels=8))


def _store(blobs: Blobs, path: Path, name: str, size_bytes: int, sha256: str) -> Blob:
    if path.stat().st_size != size_bytes:
        raise ManifestError(f"{name!r} has {path.stat().st_size} bytes, not {size_bytes}")
    try:
        return blobs.put_file(path, sha256)
    except DigestMismatch as error:
        raise ManifestError(f"{name!r} is not the file that was announced: {error.message}") from error


def _regular_file(directory: Path, name: Path, *, levels: int) -> Path:
    """The file called `name` below `directory`, reached through no link: a child could lead us to any file of the service."""
    if name.is_absolute() or not 1 <= len(name.parts) <= levels or ".." in name.parts or len(name.name) > 200:
        raise ManifestError(f"{str(name)!r} is no name of a file in the job's directory")
    root = directory.resolve()
    try:
        path = (root / name).resolve(strict=True)
        state = path.lstat()
    except (OSError, ValueError, RuntimeError) as error:
        raise ManifestError(f"{str(name)!r} cannot be read: {error}") from None
    if path != root / name or not stat.S_ISREG(state.st_mode) or state.st_nlink != 1:
        raise ManifestError(f"{str(name)!r} is no plain file")
    return path
