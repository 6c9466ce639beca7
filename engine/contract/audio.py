"""How sounds in WAV files become arrays: `metadata.audio` of a dataset of such files."""

from typing import Literal

from pydantic import Field, model_validator

from engine.contract.base import Params


class AudioSpec(Params):
    """A file is decoded to values from -1 to 1, brought to one channel and one length, and kept as a waveform or as log-mel energies.

    Nothing is resampled: files of another rate are refused.
    """

    sample_rate: int | None = Field(None, ge=100, le=1_000_000)
    """Samples a second that every file has to have; left out, all have to have the same."""
    channels: Literal["mono", "mean", "first"] = "mono"
    """Of files with several channels: `mono` refuses them, `mean` averages them, `first` takes the first."""
    samples: int | None = Field(None, ge=1, le=2**27)
    """Length that every sound is brought to: longer ones are cut, shorter ones filled with zeros at their end. Left out, all have to have the same."""
    cut: Literal["start", "middle", "end"] = "start"
    """Which part of a longer sound is kept."""
    features: Literal["waveform", "log_mel"] = "waveform"
    """`waveform`: the samples themselves. `log_mel`: log(max(floor, M · |STFT|^power)), M being the mel filters."""
    n_fft: int = Field(400, ge=2, le=65_536)
    """Samples of a frame's Fourier transform."""
    window: int | None = Field(None, ge=1, le=65_536)
    """Samples of the (periodic) Hann window, in the middle of the frame; left out, `n_fft`."""
    hop: int = Field(160, ge=1, le=65_536)
    """Samples from frame to frame."""
    center: bool = True
    """Whether frames are centred on multiples of `hop`, the sound being continued at both ends by reflection."""
    power: float = Field(2.0, gt=0, le=4)
    """Of the magnitudes: 2 for energies."""
    mels: int = Field(80, ge=1, le=1024)
    """Number of mel filters."""
    low_hz: float = Field(0.0, ge=0)
    """Where the first filter begins."""
    high_hz: float | None = Field(None, gt=0)
    """Where the last filter ends; left out, half of the sample rate."""
    mel_scale: Literal["slaney", "htk"] = "slaney"
    """`slaney`: linear below 1 kHz (librosa, Whisper). `htk`: 2595 log10(1 + f / 700) (torchaudio)."""
    filter_norm: Literal["slaney", "none"] = "slaney"
    """`slaney`: filters of equal area (librosa, Whisper). `none`: of equal height (torchaudio)."""
    log: Literal["ln", "log10", "db"] = "ln"
    """Natural logarithm, decimal, or 10 times the decimal one."""
    floor: float = Field(1e-10, gt=0)
    """Energies below are raised to this."""
    axes: Literal["mel_time", "time_mel"] = "mel_time"
    """Order of the features' dimensions."""
    standardize: Literal["none", "train"] = "none"
    """`train`: subtract each mel bin's mean over the training sounds and divide by its standard deviation (of a waveform: of all samples)."""

    @model_validator(mode="after")
    def _consistent(self) -> "AudioSpec":
        if self.window is not None and self.window > self.n_fft:
            raise ValueError("window is at most n_fft")
        if self.high_hz is not None and self.high_hz <= self.low_hz:
            raise ValueError("high_hz is above low_hz")
        return self
