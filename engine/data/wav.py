"""WAV files as arrays of samples from -1 to 1: PCM of 8, 16, 24 and 32 bits and floating point (RIFF, as Microsoft's specification has it)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.contract.errors import EngineError

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_HINT = "Convert it to PCM of 16 bits, or leave it out."


@dataclass(frozen=True)
class _Form:
    encoding: int
    channels: int
    rate: int
    bits: int


@dataclass(frozen=True, eq=False)
class Sound:
    """What a file holds."""

    sample_rate: int
    samples: npt.NDArray[np.float32]
    """(samples, channels)"""


def decode(data: bytes, name: str) -> Sound:
    """The sound of a whole file; `name` is for messages. Raises `dataset_invalid`."""
    if len(data) < 12 or data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise _unreadable(name, "no WAV file, whatever its name says")
    form: _Form | None = None
    place = 12
    while place + 8 <= len(data):
        kind, size = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], "little")
        body = place + 8
        if kind == b"data":
            if form is None:
                raise _unreadable(name, "its samples stand before their format")
            if body + size > len(data):
                raise _unreadable(name, f"it says {size} bytes of samples and holds {len(data) - body}")
            return _samples(data[body : body + size], form, name)
        if kind == b"fmt ":
            form = _form(data[body : body + size], name)
        place = body + size + size % 2
    raise _unreadable(name, "it holds no samples")


def _form(chunk: bytes, name: str) -> _Form:
    if len(chunk) < 16:
        raise _unreadable(name, "its format is cut off")
    encoding, channels, rate = (
        int.from_bytes(chunk[:2], "little"),
        int.from_bytes(chunk[2:4], "little"),
        int.from_bytes(chunk[4:8], "little"),
    )
    frame, bits = int.from_bytes(chunk[12:14], "little"), int.from_bytes(chunk[14:16], "little")
    if encoding == _EXTENSIBLE:
        if len(chunk) < 40 or int.from_bytes(chunk[18:20], "little") not in (0, bits):
            raise _unreadable(name, "samples whose bits are not all used")
        encoding = int.from_bytes(chunk[24:26], "little")
    if (encoding, bits) not in {(_PCM, 8), (_PCM, 16), (_PCM, 24), (_PCM, 32), (_FLOAT, 32), (_FLOAT, 64)}:
        raise _unreadable(name, f"encoding {encoding} of {bits} bits is not read")
    if not channels or not rate or frame != channels * bits // 8:
        raise _unreadable(name, f"{channels} channels of {bits} bits in frames of {frame} bytes at rate {rate}")
    return _Form(encoding, channels, rate, bits)


def _samples(raw: bytes, form: _Form, name: str) -> Sound:
    width = form.bits // 8
    if not raw or len(raw) % (width * form.channels):
        raise _unreadable(name, f"{len(raw)} bytes are no whole number of samples, or none")
    values: npt.NDArray[np.floating]
    if form.encoding == _FLOAT:
        with np.errstate(over="ignore", invalid="ignore"):
            values = np.frombuffer(raw, dtype=f"<f{width}").astype(np.float32)
        if not np.isfinite(values).all():
            raise _unreadable(name, "it holds NaN or infinity")
    elif form.bits == 8:
        values = (np.frombuffer(raw, dtype=np.uint8).astype(np.float32) - 128) / 128
    elif form.bits == 24:
        thirds = np.frombuffer(raw, dtype=np.uint8).reshape(-1, 3).astype(np.int32)
        values = ((thirds[:, 0] << 8 | thirds[:, 1] << 16 | thirds[:, 2] << 24) >> 8) / np.float32(2**23)
    else:
        values = np.frombuffer(raw, dtype=f"<i{width}") / np.float64(2 ** (form.bits - 1))
    return Sound(form.rate, values.astype(np.float32).reshape(-1, form.channels))


def _unreadable(name: str, why: str) -> EngineError:
    return EngineError("dataset_invalid", f"{name!r} cannot be decoded: {why}.", hint=_HINT)
