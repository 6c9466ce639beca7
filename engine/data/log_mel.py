"""Log-mel energies of a sound, in numpy.

The filters are triangles that stand evenly on a mel scale: Slaney's of the Auditory Toolbox (linear below 1 kHz, logarithmic above, as in
librosa), or that of HTK (2595 log10(1 + f / 700)).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from engine.contract.audio import AudioSpec
from engine.contract.errors import EngineError

_BLOCK = 1 << 22
"""Values of frames that are transformed at once."""
_LINEAR_HZ, _LINEAR_STEP = 1000.0, 200.0 / 3
_LOG_STEP = np.log(6.4) / 27


class LogMel:
    """`AudioSpec` made ready for sounds of one rate and one length."""

    def __init__(self, spec: AudioSpec, sample_rate: int, samples: int) -> None:
        """Raises `dataset_invalid` where a filter is empty, or the sounds are too short."""
        self._spec = spec
        self.filters = filters(spec, sample_rate)
        self._pad = spec.n_fft // 2 if spec.center else 0
        if samples <= self._pad or samples + 2 * self._pad < spec.n_fft:
            raise EngineError(
                "dataset_invalid", f"Sounds of {samples} samples are too short for frames of {spec.n_fft}.", hint="Lower audio.n_fft."
            )
        self.frames = 1 + (samples + 2 * self._pad - spec.n_fft) // spec.hop
        width = spec.window or spec.n_fft
        self._window = np.zeros(spec.n_fft)
        start = (spec.n_fft - width) // 2
        self._window[start : start + width] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(width) / width)

    @property
    def shape(self) -> tuple[int, int]:
        """Of the features of a sound, in the order of `axes`."""
        sizes = (self._spec.mels, self.frames)
        return sizes if self._spec.axes == "mel_time" else sizes[::-1]

    def __call__(self, samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The features of a sound (samples)."""
        spec = self._spec
        padded = np.pad(samples.astype(np.float64), self._pad, mode="reflect")
        framed = np.lib.stride_tricks.sliding_window_view(padded, spec.n_fft)[:: spec.hop]
        found = np.empty((self.frames, spec.mels), dtype=np.float32)
        step = max(1, _BLOCK // spec.n_fft)
        for start in range(0, self.frames, step):
            magnitude = np.abs(np.fft.rfft(framed[start : start + step] * self._window, axis=-1))
            energy = np.maximum((magnitude**spec.power) @ self.filters.T, spec.floor)
            found[start : start + step] = np.log(energy) if spec.log == "ln" else np.log10(energy) * (10 if spec.log == "db" else 1)
        return found.T if spec.axes == "mel_time" else found


def filters(spec: AudioSpec, sample_rate: int) -> npt.NDArray[np.float64]:
    """(mels, n_fft // 2 + 1). Raises `dataset_invalid` for filters that no frequency of the transform falls into."""
    high = spec.high_hz if spec.high_hz is not None else sample_rate / 2
    if high > sample_rate / 2 or high <= spec.low_hz:
        raise EngineError(
            "dataset_invalid",
            f"Filters from {spec.low_hz:g} to {high:g} Hz do not fit sounds of {sample_rate} samples a second.",
            hint="audio.high_hz is at most half of the sample rate, and above low_hz.",
        )
    edges = _hertz(np.linspace(_mel(spec.low_hz, spec), _mel(high, spec), spec.mels + 2), spec)
    frequencies = np.arange(spec.n_fft // 2 + 1) * (sample_rate / spec.n_fft)
    rising = (frequencies - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - frequencies) / (edges[2:] - edges[1:-1])[:, None]
    found = np.maximum(0.0, np.minimum(rising, falling))
    if (empty := np.flatnonzero(found.sum(axis=1) == 0)).size:
        raise EngineError(
            "dataset_invalid",
            f"Mel filter {empty[0]} of {spec.mels} lies between two frequencies of a transform of {spec.n_fft} samples, and stays empty.",
            hint="Lower audio.mels, or raise n_fft.",
        )
    if spec.filter_norm == "slaney":
        found *= (2.0 / (edges[2:] - edges[:-2]))[:, None]
    return np.asarray(found)


def _mel(hertz: float, spec: AudioSpec) -> float:
    if spec.mel_scale == "htk":
        return float(2595.0 * np.log10(1.0 + hertz / 700.0))
    if hertz < _LINEAR_HZ:
        return hertz / _LINEAR_STEP
    return float(_LINEAR_HZ / _LINEAR_STEP + np.log(hertz / _LINEAR_HZ) / _LOG_STEP)


def _hertz(mels: npt.NDArray[np.float64], spec: AudioSpec) -> npt.NDArray[np.float64]:
    if spec.mel_scale == "htk":
        return np.asarray(700.0 * (10.0 ** (mels / 2595.0) - 1.0))
    border = _LINEAR_HZ / _LINEAR_STEP
    return np.where(mels < border, mels * _LINEAR_STEP, _LINEAR_HZ * np.exp(_LOG_STEP * (mels - border)))
