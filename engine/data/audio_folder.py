"""Sounds of a zip archive as arrays: each is decoded once, brought to one length, and written into a scratch file that is mapped."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from engine.contract import limits
from engine.contract.arrangement import preprocessing_of_only
from engine.contract.audio import AudioSpec
from engine.contract.errors import EngineError
from engine.contract.metadata import SPLITS, DatasetMetadata
from engine.data.archived import content, labels_of
from engine.data.log_mel import LogMel
from engine.data.stored import Array, Standardization, Stored
from engine.data.tables import Scratch, standardize
from engine.data.wav import decode
from engine.files.archive import DAMAGED, open_archive, printable
from engine.files.audio_folder import NAMING, entries_of
from engine.files.folders import Entry, class_names
from engine.networks.network import Signature

_WITH_CHANNEL = 1


@dataclass
class _Form:
    """What every sound is made to be; rate and length are those of the first one where they are not stated."""

    spec: AudioSpec
    rate: int
    samples: int
    first: str
    features: LogMel | None
    changed: dict[str, int] = field(default_factory=dict)
    """How many sounds were cut, filled, or mixed down."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example."""
        return (self.samples,) if self.features is None else self.features.shape


def read(path: Path, metadata: DatasetMetadata, signature: Signature | None, work: Path) -> Stored:
    """Waveforms or log-mel energies in float32 by split, as `metadata.audio` says.

    Raises `dataset_invalid` with the name of the file, `archive_limit_exceeded`, `decompression_limit_exceeded`.
    """
    spec = metadata.audio or AudioSpec()
    try:
        with path.open("rb") as file, open_archive(file) as archive:
            entries = entries_of(archive)
            classes = class_names(entries, metadata.labels)
            form = _form(archive, entries, spec)
            with Scratch(work, form.shape) as scratch:
                ordered = [entry for split in SPLITS for entry in entries if entry.split == split]
                for entry in ordered:
                    samples = _samples(archive, entry, form)
                    scratch.add(entry.split, (samples if form.features is None else form.features(samples))[None])
    except DAMAGED as error:
        raise EngineError("dataset_invalid", "The file is not a whole zip archive.", hint="Zip the folder again.") from error
    inputs = scratch.mapped()
    fitted = _standardized(inputs, form) if spec.standardize == "train" else None
    splits = {
        split: {"x": _with_channel(array, metadata, signature), **labels_of([one for one in entries if one.split == split], classes)}
        for split, array in inputs.items()
    }
    return Stored(splits, classes or None, NAMING, open_sizes=True, standardization=fitted, notes=_notes(form))


def _form(archive: zipfile.ZipFile, entries: Sequence[Entry], spec: AudioSpec) -> _Form:
    first = printable(entries[0].info.filename)
    sound = decode(content(archive, entries[0].info), first)
    rate, samples = spec.sample_rate or sound.sample_rate, spec.samples or len(sound.samples)
    features = LogMel(spec, rate, samples) if spec.features == "log_mel" else None
    form = _Form(spec, rate, samples, first, features)
    total = len(entries) * int(np.prod(form.shape)) * 4
    if total > limits.MAX_DATASET_BYTES or total // len(entries) > limits.MAX_SOUND_FEATURES_BYTES:
        raise EngineError(
            "decompression_limit_exceeded",
            f"{len(entries)} sounds of shape {form.shape} have {total} bytes.",
            hint="Raise audio.hop, or state fewer samples.",
        )
    return form


def _samples(archive: zipfile.ZipFile, entry: Entry, form: _Form) -> Array:
    """The samples of a sound in one channel, of the stated length."""
    name = printable(entry.info.filename)
    sound = decode(content(archive, entry.info), name)
    if sound.sample_rate != form.rate:
        stated = "metadata.audio.sample_rate says" if form.spec.sample_rate else f"{form.first!r} has"
        raise EngineError(
            "dataset_invalid",
            f"{name!r} has {sound.sample_rate} samples a second, and {stated} {form.rate}.",
            hint="Resample the files to the rate that the network was trained on; the service does not.",
        )
    count, channels = sound.samples.shape
    if channels > 1 and form.spec.channels == "mono":
        raise EngineError(
            "dataset_invalid",
            f"{name!r} has {channels} channels.",
            hint="State metadata.audio.channels: mean, or first.",
        )
    mixed = sound.samples.mean(axis=1) if form.spec.channels == "mean" else sound.samples[:, 0]
    if count != form.samples and form.spec.samples is None:
        raise EngineError(
            "dataset_invalid",
            f"{name!r} has {count} samples, and {form.first!r} has {form.samples}.",
            hint="State metadata.audio.samples: longer sounds are cut, shorter ones filled with zeros.",
        )
    if channels > 1:
        _count(form, "mixed to one channel" if form.spec.channels == "mean" else "read from their first channel alone")
    if count > form.samples:
        _count(form, f"cut to {form.samples} samples ({form.spec.cut})")
        start = {"start": 0, "middle": (count - form.samples) // 2, "end": count - form.samples}[form.spec.cut]
        mixed = mixed[start : start + form.samples]
    elif count < form.samples:
        _count(form, f"filled with zeros to {form.samples} samples")
        mixed = np.pad(mixed, (0, form.samples - count))
    return mixed


def _count(form: _Form, what: str) -> None:
    form.changed[what] = form.changed.get(what, 0) + 1


def _notes(form: _Form) -> tuple[str, ...]:
    return (f"All sounds have {form.rate} samples a second.", *(f"{count} sounds were {what}." for what, count in form.changed.items()))


def _standardized(inputs: Mapping[str, Array], form: _Form) -> Standardization:
    """By mel bin, or of all samples of a waveform."""
    if form.features is None:
        return standardize({split: array[..., None] for split, array in inputs.items()})
    axis = 1 if form.spec.axes == "mel_time" else 2
    return standardize({split: np.moveaxis(array, axis, -1) for split, array in inputs.items()})


def _with_channel(array: Array, metadata: DatasetMetadata, signature: Signature | None) -> Array:
    """With a channel of size one in front, or last, where the network takes one and no layout is stated."""
    stated = preprocessing_of_only(metadata)
    if signature is None or len(signature.inputs) != 1 or (stated is not None and stated.layout is not None):
        return array
    shape = signature.inputs[0].shape
    if len(shape) != array.ndim + 1:
        return array
    return array[:, None] if shape[1] == _WITH_CHANNEL or shape[-1] != _WITH_CHANNEL else array[..., None]
