"""Checkpoints of a job's trainings, from which another attempt goes on.

A job is deterministic: another attempt does everything again in the same order, except for trainings. Those that were done are not
repeated, their results are put in their place; the one that was under way goes on at the step of the optimizer where it was saved. So
no structure of a pruned network has to be stored, only tensors, and the result is the one of an undisturbed run, bit by bit.

A checkpoint is a zip archive, not compressed: `index.json`, and a safetensors file for each training.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

import engine
from engine.contract import events
from engine.contract.job import DRAIN_FILE

_MOST_BYTES = 4 * 2**30
"""Results of trainings that are kept; beyond it, those that took the least time are forgotten and would be done again."""
_VERSION = 3
"""Raised when what a training keeps by name changes: masks are kept as factors since 2, right answers are counted since 3."""


Info = dict[str, Any]
"""What a training loop keeps beside its tensors, as JSON types."""


@dataclass(frozen=True)
class Saved:
    """A training that is done or under way."""

    info: Info
    """What the training loop wrote beside its tensors; JSON."""
    done: bool
    seconds: float
    """How long it took so far."""
    file: Path

    def tensors(self) -> dict[str, Tensor]:
        """Everything that was saved, on the CPU."""
        return load_file(self.file)


class Checkpoints:
    """The trainings of one job, by step and number within the step."""

    def __init__(
        self, directory: Path, spec: Mapping[str, Any], emit: Callable[[events.Event], None], *, seconds: float, read_only: bool = False
    ) -> None:
        """Keep files below `directory/tmp`; `spec` identifies the checkpoints of this job. `read_only` keeps nothing new."""
        self._read_only = read_only
        self._directory, self._work, self._emit, self._seconds = directory, directory / "tmp" / "checkpoints", emit, seconds
        self._work.mkdir(parents=True, exist_ok=True)
        text = json.dumps(spec, sort_keys=True, default=str)
        self._identity = {
            "version": _VERSION,
            "engine": engine.__version__,
            "spec_sha256": hashlib.sha256(text.encode()).hexdigest(),
        }
        self._saved: dict[str, Saved] = {}
        self._written = time.monotonic()
        self._changed = False
        self._asked = False

    def resume(self, file: Path) -> None:
        """Take over what another attempt wrote; a file that does not belong to this job and engine is left alone, with a warning."""
        try:
            with zipfile.ZipFile(file) as archive:
                index = json.loads(archive.read("index.json"))
                if {key: index.get(key) for key in self._identity} != self._identity:
                    raise ValueError("it was written for another spec or by another version")
                for key, entry in index["trainings"].items():
                    target = self._file(key)
                    with archive.open(f"{key}.safetensors") as source, target.open("wb") as sink:
                        shutil.copyfileobj(source, sink, 1 << 20)
                    self._saved[key] = Saved(entry["info"], bool(entry["done"]), float(entry["seconds"]), target)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile, SafetensorError) as error:
            self._saved.clear()
            self._emit(
                events.Warned(
                    code="checkpoint_unusable", message=f"The checkpoint was not used, the job starts from the beginning: {error}."
                )
            )
            return
        done = sum(saved.done for saved in self._saved.values())
        rest = [saved for saved in self._saved.values() if not saved.done]
        under_way = f", and one at optimizer step {rest[-1].info.get('iteration')}" if rest else ""
        self._emit(events.Resumed(trainings_done=done, iteration=rest[-1].info.get("iteration") if rest else None))
        self._emit(events.Log(message=f"Resumed from a checkpoint: {done} finished training(s){under_way}."))

    def find(self, step: int | None, number: int) -> Saved | None:
        """What is known of a training."""
        return self._saved.get(_key(step, number))

    def is_due(self) -> bool:
        """Whether it is time for another checkpoint: regularly, and once when the supervisor asks for it."""
        if self._read_only:
            return False
        if not self._asked and (self._directory / DRAIN_FILE).exists():
            self._asked = True
            return True
        return time.monotonic() - self._written >= self._seconds

    def save(self, step: int | None, number: int, tensors: Mapping[str, Tensor], info: Info, *, done: bool, seconds: float) -> None:
        """Remember a training on disk. One that is under way is checkpointed at once, one that is done with the next checkpoint."""
        if self._read_only:
            return
        key = _key(step, number)
        target = self._file(key)
        save_file(_apart(tensors), target.with_suffix(".new"))
        target.with_suffix(".new").replace(target)
        self._saved[key] = Saved(info, done, seconds, target)
        self._changed = True
        self._forget()
        if not done or self.is_due():
            self.write()

    def write(self) -> None:
        """Write the checkpoint and announce it, if there is anything new."""
        if not self._changed:
            return
        target = self._work / "checkpoint.zip"
        with zipfile.ZipFile(target.with_suffix(".new"), "w", zipfile.ZIP_STORED) as archive:
            for key, saved in self._saved.items():
                archive.write(saved.file, f"{key}.safetensors")
            entries = {key: {"info": saved.info, "done": saved.done, "seconds": saved.seconds} for key, saved in self._saved.items()}
            archive.writestr("index.json", json.dumps(self._identity | {"trainings": entries}))
        # The one before may be on its way to a slow store: under this name there is always a whole one, and an open file stays as it is.
        target.with_suffix(".new").replace(target)
        self._written, self._changed = time.monotonic(), False
        self._emit(events.Checkpointed(path=str(target.relative_to(self._directory))))

    def _forget(self) -> None:
        done = [key for key, saved in self._saved.items() if saved.done]
        sizes = {key: self._saved[key].file.stat().st_size for key in done}
        for key in sorted(done, key=lambda key: self._saved[key].seconds):
            if sum(sizes.values()) <= _MOST_BYTES:
                return
            self._saved.pop(key).file.unlink()
            del sizes[key]

    def _file(self, key: str) -> Path:
        if not all(part.isdigit() for part in key.split("-")):
            raise ValueError(f"{key!r} is no name of a training")
        return self._work / f"{key}.safetensors"


@dataclass
class Place:
    """Where one training of one step is saved."""

    checkpoints: Checkpoints
    step: int | None
    number: int
    seconds_before: float = 0.0

    def load(self) -> Saved | None:
        """What another attempt did of this training."""
        saved = self.checkpoints.find(self.step, self.number)
        self.seconds_before = saved.seconds if saved else 0.0
        return saved

    def is_due(self) -> bool:
        """Whether it is time to save."""
        return self.checkpoints.is_due()

    def save(self, tensors: Mapping[str, Tensor], info: Info, *, done: bool, seconds: float) -> None:
        """Save the state of the training after `seconds` of this attempt."""
        self.checkpoints.save(self.step, self.number, tensors, info, done=done, seconds=self.seconds_before + seconds)


def _key(step: int | None, number: int) -> str:
    return f"{0 if step is None else step}-{number}"


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each on the CPU, in memory of its own: safetensors takes no views and no shared tensors. What has that already is not copied."""
    found, seen = {}, set[int]()
    for name, value in tensors.items():
        tensor, storage = value.detach(), value.untyped_storage()
        whole = tensor.is_contiguous() and storage.nbytes() == tensor.nbytes and storage.data_ptr() not in seen
        found[name] = tensor if whole and tensor.device.type == "cpu" else tensor.to("cpu", copy=True).contiguous()
        seen.add(storage.data_ptr())
    return found
