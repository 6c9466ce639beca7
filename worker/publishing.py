"""What a child wrote becomes stored, once every announced byte was found and hashed again."""

import errno
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from core.blobs import Blob, Blobs
from core.errors import DigestMismatch
from core.jobs import NewArtifact
from engine.contract.events import ArtifactWritten, Checkpointed
from engine.contract.figures import Measured, Summary
from engine.contract.files import MAX_SUMMARY_BYTES, FileRef
from engine.contract.inspection import INSPECTIONS
from worker.staging import OUT
from worker.stop import Reason, Stop


class ManifestError(Exception):
    """A file is not what the child announced."""


def read_result(announced: FileRef | None, directory: Path, *, inspection: str | None) -> tuple[dict[str, Any], dict[str, Measured]]:
    """What the job came to, as JSON types, and its figures by the names of the settings.

    Args:
        announced: The file that holds it, as the child announced it.
        directory: The job's directory.
        inspection: The kind of the inspection that it was, if it was one; it has no figures.

    Raises:
        ManifestError: There is no such file, it is not the one that was announced, or it holds something else.
    """
    content = _content(announced, directory)
    try:
        if content is None:
            raise ManifestError("the job ended without figures")
        if inspection is not None:
            return INSPECTIONS[inspection].model_validate_json(content).model_dump(mode="json"), {}
        if len(content) > MAX_SUMMARY_BYTES:
            raise ManifestError(f"the job's figures have {len(content)} bytes, more than {MAX_SUMMARY_BYTES}")
        summary = Summary.model_validate_json(content)
    except ValueError as error:
        raise ManifestError(f"the job's result is of another form: {str(error)[:500]}") from None
    return summary.model_dump(mode="json"), {item.setting.name: item for item in summary.settings}


def _content(announced: FileRef | None, directory: Path) -> bytes | None:
    if announced is None:
        return None
    with _plain_file(directory, Path(announced.path), levels=8) as file:
        content = file.read(announced.size_bytes + 1)
    if not announced.holds(content):
        raise ManifestError(f"{announced.path!r} is not the file that was announced")
    return content


def publish(
    announced: Sequence[ArtifactWritten], directory: Path, blobs: Blobs, stop: Stop, settings: Mapping[str, Measured]
) -> list[NewArtifact]:
    """Store every announced file; nothing points to the blobs until the job's last transaction does.

    Args:
        announced: The files below `out/`.
        directory: The job's directory.
        blobs: Where they are stored.
        stop: Asked before each file.
        settings: What was measured, by the names of the settings.

    Raises:
        ManifestError: A file is missing, elsewhere, or differs in size or hash; two have one name; or a setting was not measured.
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
        if unknown := [name for name in artifact.settings if name not in settings]:
            raise ManifestError(f"{artifact.filename!r} has the setting {unknown[0]!r}, for which the job has no figures")
        with _plain_file(directory, Path(OUT) / artifact.filename, levels=2) as file:
            blob = _store(blobs, file, artifact.filename, artifact.size_bytes, artifact.sha256)
        artifacts.append(
            NewArtifact(
                kind=artifact.kind,
                format=artifact.format,
                filename=artifact.filename,
                blob=blob,
                gzip_bytes=artifact.gzip_bytes,
                step_index=artifact.step_index,
                metrics=artifact.metrics,
                settings=[settings[name].model_dump(mode="json") for name in artifact.settings],
            )
        )
    return artifacts


def store_checkpoint(event: Checkpointed, directory: Path, blobs: Blobs) -> Blob:
    """Store the file of a checkpoint. Raises ManifestError and ServiceError."""
    with _plain_file(directory, Path(event.path), levels=8) as file:
        return blobs.put_file(file)


def _store(blobs: Blobs, file: BinaryIO, name: str, size_bytes: int, sha256: str) -> Blob:
    found = os.fstat(file.fileno()).st_size
    if found != size_bytes:
        raise ManifestError(f"{name!r} has {found} bytes, not {size_bytes}")
    try:
        return blobs.put_file(file, sha256)
    except DigestMismatch as error:
        raise ManifestError(f"{name!r} is not the file that was announced: {error.message}") from error


def _plain_file(directory: Path, name: Path, *, levels: int) -> BinaryIO:
    """The file called `name` below `directory`, opened through no link: a child could lead us to any file of the service.

    Each folder is opened in the one before, so that a child which is still running cannot exchange one in between.
    """
    if name.is_absolute() or not 1 <= len(name.parts) <= levels or ".." in name.parts or len(name.name) > 200:
        raise ManifestError(f"{str(name)!r} is no name of a file in the job's directory")
    inner = [os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)]
    try:
        for folder in name.parts[:-1]:
            inner.append(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=inner[-1]))
        # A pipe would have the reader wait for a writer.
        file = os.open(name.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=inner[-1])
    except (OSError, ValueError) as error:
        linked = isinstance(error, OSError) and error.errno in (errno.ELOOP, errno.ENOTDIR)
        raise ManifestError(f"{str(name)!r} is no plain file" if linked else f"{str(name)!r} cannot be read: {error}") from None
    finally:
        for descriptor in inner:
            os.close(descriptor)
    state = os.fstat(file)
    if not stat.S_ISREG(state.st_mode) or state.st_nlink != 1:
        os.close(file)
        raise ManifestError(f"{str(name)!r} is no plain file")
    return os.fdopen(file, "rb")
