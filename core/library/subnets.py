"""Plain networks that are cut out of one artifact with several settings, on demand."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from core.blobs import Blob, Blobs
from core.database.tables import Artifact
from core.errors import NoSettingFits, SettingNotFound, SettingsNotSeparable
from engine.contract.metric import Key, first_of

MOST_REMEMBERED = 1000
"""Cut files that a process knows the hash of. Their bytes are in the blob store until nothing has asked for them for its grace time."""


@dataclass(frozen=True)
class Wanted:
    """Which setting of an artifact is meant: one by its name or width, or the best one within a limit. Exactly one is given."""

    setting: str | None = None
    width: float | None = None
    max_latency_ms: float | None = None
    max_macs: float | None = None


def chosen(artifact: Artifact, wanted: Wanted) -> dict[str, Any]:
    """The measured setting that is meant. Raises `setting_not_found`, `no_setting_fits`, `settings_not_separable`."""
    settings: list[dict[str, Any]] = artifact.settings
    if not settings:
        raise SettingsNotSeparable(
            f"{artifact.filename} is no network with settings", hint="ask for the artifact of kind model, format onnx"
        )
    names = ", ".join(item["setting"]["name"] or "(its only one)" for item in settings)
    if wanted.setting is not None or wanted.width is not None:
        for item in settings:
            width = item["setting"]["values"].get("width")
            by_width = wanted.width is not None and isinstance(width, int | float) and abs(width - wanted.width) <= 1e-9
            if by_width or item["setting"]["name"] == wanted.setting:
                return item
        asked = repr(wanted.setting) if wanted.setting is not None else f"of width {wanted.width:g}"
        raise SettingNotFound(f"{artifact.filename} has no setting {asked}", hint=f"it has {names}")
    fitting = [item for item in settings if _within(item, wanted)]
    if not fitting:
        least = min((value for item in settings if (value := _cost(item, wanted)) is not None), default=None)
        raise NoSettingFits(
            f"no setting of {artifact.filename} is within the limit",
            hint=f"it has {names}" + ("" if least is None else f"; the least is {least:.6g}"),
        )
    return max(fitting, key=_goodness)


def _cost(item: dict[str, Any], wanted: Wanted) -> float | None:
    figures = item["figures"]
    found = figures["latency_ms"]["p50"] if wanted.max_latency_ms is not None else figures["macs_count"]
    return None if found is None else float(found)


def _within(item: dict[str, Any], wanted: Wanted) -> bool:
    cost = _cost(item, wanted)
    limit = wanted.max_latency_ms if wanted.max_latency_ms is not None else wanted.max_macs
    return cost is not None and limit is not None and cost <= limit


def _goodness(item: dict[str, Any]) -> tuple[float, float]:
    """By the first metric, then by what is computed: the most accurate, and of equals the cheapest."""
    figures = item["figures"]
    key = first_of(figures["metrics"])
    metric, value = (None, None) if key is None else (Key.parse(key).metric, figures["metrics"][key])
    quality = float("-inf") if metric is None or value is None else -metric.loss(0.0, value)
    return quality, -(figures["macs_count"] or 0)


class Subnets:
    """Cuts settings out of artifacts and remembers what came of it."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._known: OrderedDict[tuple[str, str], Blob] = OrderedDict()
        self._lock = Lock()

    def blob(self, artifact: Artifact, blob: Blob, item: dict[str, Any]) -> Blob:
        """A plain file of one setting of the artifact, whose bytes are `blob`, in the blob store.

        Raises `settings_not_separable` where the file's settings are no parts that could be cut out of it.
        """
        if len(artifact.settings) == 1:
            return blob
        key = blob.sha256, str(item["setting"]["name"])
        with self._lock:
            known = self._known.get(key)
        if known is not None and self._blobs.touch(known):
            return known
        made = self._cut(artifact, blob, key[1])
        with self._lock:
            self._known[key] = made
            self._known.move_to_end(key)
            while len(self._known) > MOST_REMEMBERED:
                self._known.popitem(last=False)
        return made

    def _cut(self, artifact: Artifact, blob: Blob, name: str) -> Blob:
        from modelpress.runtime.manifest import ArtifactError  # numpy is loaded where a file is cut, not with the service
        from modelpress.runtime.subnets import open_settings

        with self._blobs.stage() as whole, self._blobs.stage() as part:
            for chunk in self._blobs.read(blob):
                whole.write(chunk)
            try:
                packed = open_settings(Path(whole.path))
                part.write(*packed.cut(packed.setting(name)))
            except ArtifactError as error:
                raise SettingsNotSeparable(
                    f"the settings of {artifact.filename} cannot be cut out of it: {error}",
                    hint="download the file, and choose the setting where it runs",
                ) from error
            return self._blobs.keep(part)


def file_name(artifact: Artifact, item: dict[str, Any]) -> str:
    """What a cut file is called."""
    stem, dot, ending = artifact.filename.rpartition(".")
    name = "-".join(str(item["setting"]["name"]).split())
    return f"{stem}-{name}{dot}{ending}" if name else artifact.filename
