"""Pictures of a zip archive of class folders as arrays: each is decoded once, into a scratch file that is mapped."""

from __future__ import annotations

from pathlib import Path

from engine.contract.errors import EngineError
from engine.contract.metadata import SPLITS, DatasetMetadata
from engine.data.archived import labels_of
from engine.data.image_files import form_of, written
from engine.data.stored import Stored
from engine.files.archive import DAMAGED, open_archive
from engine.files.folders import class_names
from engine.files.image_folder import NAMING, entries_of
from engine.networks.network import Signature


def read(path: Path, metadata: DatasetMetadata, signature: Signature | None, work: Path) -> Stored:
    """Pictures as uint8 arrays by split, in the size that `metadata.images` states, else in that of the network's input.

    Raises `dataset_invalid`, `shape_mismatch`, `archive_limit_exceeded`, `decompression_limit_exceeded`.
    """
    try:
        with path.open("rb") as file, open_archive(file) as archive:
            entries = entries_of(archive)
            classes = class_names(entries, metadata.labels)
            form = form_of(metadata, signature, archive, [entry.info for entry in entries])
            splits = {}
            for split in SPLITS:
                own = [entry for entry in entries if entry.split == split]
                if own:
                    splits[split] = {"x": written(archive, [entry.info for entry in own], form, work), **labels_of(own, classes)}
    except DAMAGED as error:
        raise EngineError("dataset_invalid", "The file is not a whole zip archive.", hint="Zip the folder again.") from error
    return Stored(splits, classes or None, open_sizes=True, naming=NAMING)
