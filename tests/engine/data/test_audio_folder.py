"""Sounds reach the network as the formula says, and what differs between files is refused or stated."""

import io
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.contract.audio import AudioSpec
from engine.contract.errors import EngineError
from engine.contract.metadata import DatasetMetadata
from engine.data.loading import load_dataset, read_stored
from engine.data.log_mel import LogMel, filters
from engine.data.wav import decode
from engine.files.magic import check_file, sniff
from engine.jobs.dataset_inspection import inspect_dataset
from engine.networks.network import Signature, TensorSpec
from tests.engine.data.test_image_folder import archive

RATE = 8000


def wav(samples: Any, rate: int = RATE, width: int = 2) -> bytes:
    """A file of values from -1 to 1, (samples) or (samples, channels), written by the standard library."""
    values = np.atleast_2d(np.asarray(samples, dtype=np.float64).T).T
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(values.shape[1])
        file.setsampwidth(width)
        file.setframerate(rate)
        whole = np.clip(np.rint(values * 2 ** (8 * width - 1)), -(2 ** (8 * width - 1)), 2 ** (8 * width - 1) - 1).astype(np.int64)
        raw = whole.reshape(-1).astype("<i8").view(np.uint8).reshape(-1, 8)[:, :width]
        file.writeframes((raw ^ 128 if width == 1 else raw).tobytes())
    return stream.getvalue()


def floats(samples: np.ndarray, kind: str = "<f4", rate: int = RATE) -> bytes:
    """A file of floating-point samples, put together by hand."""
    raw = np.asarray(samples, dtype=kind).tobytes()
    width = np.dtype(kind).itemsize
    form = b"".join(
        number.to_bytes(size, "little") for number, size in ((3, 2), (1, 2), (rate, 4), (rate * width, 4), (width, 2), (8 * width, 2))
    )
    chunks = b"fmt " + len(form).to_bytes(4, "little") + form + b"LIST" + (3).to_bytes(4, "little") + b"abc\0"
    chunks += b"data" + len(raw).to_bytes(4, "little") + raw
    return b"RIFF" + (4 + len(chunks)).to_bytes(4, "little") + b"WAVE" + chunks


def tone(hertz: float, count: int = 800, rate: int = RATE) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(count) / rate)


def good() -> dict[str, bytes]:
    return {
        f"{split}/{name}/{i}.wav": wav(tone(hertz + 3 * i))
        for split in ("train", "test")
        for name, hertz in (("low", 500), ("high", 3000))
        for i in range(3)
    }


def load(tmp_path: Path, members: dict[str, bytes], signature: Signature | None = None, **metadata: Any) -> Any:
    path = tmp_path / "sounds.zip"
    path.write_bytes(archive(members))
    with path.open("rb") as file:
        check_file(file, "audio_folder")
    work = tmp_path / f"work{len(list(tmp_path.iterdir()))}"
    read = read_stored if signature is None else load_dataset
    return read(path, "audio_folder", DatasetMetadata.model_validate(metadata), signature, work)


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_samples_of_every_width_are_the_same_values(width: int) -> None:
    values = np.array([0.0, 0.5, -0.5, 0.25, -1.0, 0.75])
    sound = decode(wav(values, width=width), "a.wav")
    assert sound.sample_rate == RATE
    np.testing.assert_array_equal(sound.samples[:, 0], values.astype(np.float32))


def test_floating_point_samples_between_other_chunks() -> None:
    for kind in ("<f4", "<f8"):
        np.testing.assert_array_equal(decode(floats(tone(440), kind), "a").samples[:, 0], tone(440).astype(np.float32))


def test_waveforms_classes_and_splits(tmp_path: Path) -> None:
    data = archive(good())
    assert sniff(data[:4096], None) == "audio_folder"
    stored = load(tmp_path, good())
    assert stored.classes == ("high", "low")
    for split in ("train", "test"):
        assert stored.splits[split]["y"].tolist() == [0, 0, 0, 1, 1, 1]
        np.testing.assert_allclose(stored.splits[split]["x"][4], tone(503), atol=2**-15)
    assert stored.notes == ("All sounds have 8000 samples a second.",)


def test_features_take_the_channel_that_the_network_has(tmp_path: Path) -> None:
    audio = {"features": "log_mel", "mels": 12, "n_fft": 256, "hop": 80}
    outputs = (TensorSpec("y", (None, 2)),)
    for shape, expected in (((None, 1, 12, None), (1, 12, 11)), ((None, 12, 11), (12, 11)), ((None, 12, 11, 1), (12, 11, 1))):
        data = load(tmp_path, good(), Signature((TensorSpec("x", shape),), outputs), audio=audio)
        assert data.split("train").batch([0])[0]["x"].shape == (1, *expected)
    wave = Signature((TensorSpec("x", (None, 1, 800)),), outputs)
    for preprocessing in ({"layout": "NL"}, {"x": {"layout": "NL"}}):
        assert load(tmp_path, good(), wave, preprocessing=preprocessing).split("train").batch([0])[0]["x"].shape == (1, 1, 800)
    with pytest.raises(EngineError) as caught:
        load(tmp_path, good(), Signature((TensorSpec("x", (None, 1, 11, 12)),), outputs), audio=audio)
    assert caught.value.code == "shape_mismatch"


@pytest.mark.parametrize(
    "spec",
    [
        AudioSpec(features="log_mel", mels=20),
        AudioSpec(features="log_mel", mels=20, window=300, hop=100, mel_scale="htk", filter_norm="none", log="db"),
        AudioSpec(features="log_mel", mels=20, center=False, power=1.0, log="log10", axes="time_mel", low_hz=100, high_hz=3000),
    ],
)
def test_log_mel_is_the_logarithm_of_filtered_energies(spec: AudioSpec) -> None:
    samples = np.random.default_rng(0).normal(0, 0.1, 3000).astype(np.float32)
    own = LogMel(spec, RATE, len(samples))
    width = spec.window or spec.n_fft
    spectrum = (
        torch.stft(
            torch.from_numpy(samples).double(),
            spec.n_fft,
            spec.hop,
            width,
            torch.hann_window(width, dtype=torch.float64),
            spec.center,
            return_complex=True,
        )
        .abs()
        .numpy()
        ** spec.power
    )
    energy = np.maximum(filters(spec, RATE) @ spectrum, spec.floor)
    expected = {"ln": np.log(energy), "log10": np.log10(energy), "db": 10 * np.log10(energy)}[spec.log]
    expected = expected if spec.axes == "mel_time" else expected.T
    assert own.shape == expected.shape
    np.testing.assert_allclose(own(samples), expected, atol=1e-5)


def test_filters_are_triangles_on_the_mel_scale() -> None:
    """Figures by hand: HTK's 1000 Hz are 999.99 mel; Slaney's are 15 steps of 66.7 Hz, and the next 27 a factor of 6.4."""
    htk = filters(AudioSpec(n_fft=4096, mels=3, mel_scale="htk", filter_norm="none"), RATE)
    top = 2595 * np.log10(1 + 4000 / 700)
    centers = 700 * (10 ** (top * np.arange(1, 4) / 4 / 2595) - 1)
    np.testing.assert_allclose(np.argmax(htk, axis=1) * RATE / 4096, centers, atol=RATE / 4096)
    assert (htk.max(axis=1) > 0.99).all()
    slaney = filters(AudioSpec(n_fft=8192, mels=41, high_hz=6400, filter_norm="slaney"), 16_000)
    np.testing.assert_allclose(np.argmax(slaney, axis=1)[[0, 14, 40]] * 16_000 / 8192, [66.67, 1000, 6400 / 6.4 ** (1 / 27)], atol=2)
    np.testing.assert_allclose(slaney.sum(axis=1) * 16_000 / 8192, 1, rtol=0.02)  # of equal area


def test_standardization_is_fitted_on_the_training_sounds_by_mel_bin(tmp_path: Path) -> None:
    for axes, axis in (("mel_time", (0, 2)), ("time_mel", (0, 1))):
        audio = {"features": "log_mel", "mels": 8, "n_fft": 256, "axes": axes}
        plain = load(tmp_path, good(), audio=audio).splits
        stored = load(tmp_path, good(), audio={**audio, "standardize": "train"})
        mean, std = plain["train"]["x"].mean(axis, keepdims=True), plain["train"]["x"].std(axis, keepdims=True)
        np.testing.assert_allclose(stored.splits["test"]["x"], (plain["test"]["x"] - mean) / std, atol=1e-3)
        assert len(stored.standardization.mean) == 8
    assert len(load(tmp_path, good(), audio={"standardize": "train"}).standardization.std) == 1


def test_lengths_and_channels_as_stated(tmp_path: Path) -> None:
    values = np.arange(10) / 16
    members = {"a/1.wav": wav(values), "a/2.wav": wav(values[:3]), "a/3.wav": wav(np.stack([values, -values], axis=1))}
    stored = load(tmp_path, members, audio={"samples": 4, "cut": "middle", "channels": "mean"})
    np.testing.assert_array_equal(stored.splits["train"]["x"], [values[3:7], [*values[:3], 0], [0] * 4])
    assert stored.notes[1:] == (
        "2 sounds were cut to 4 samples (middle).",
        "1 sounds were filled with zeros to 4 samples.",
        "1 sounds were mixed to one channel.",
    )
    first = load(tmp_path, members, audio={"samples": 4, "cut": "end", "channels": "first"}).splits["train"]["x"]
    np.testing.assert_array_equal(first[[0, 2]], [values[6:], values[6:]])
    (tmp_path / "s.zip").write_bytes(archive(members))
    found = inspect_dataset(
        tmp_path / "s.zip", "audio_folder", DatasetMetadata(audio=AudioSpec(samples=4, channels="first")), tmp_path / "w"
    )
    assert (found.columns[0].shape, found.histogram, len(found.notes)) == ((None,), {"train": {"a": 3}}, 4)


WRONG = {
    "another rate": (wav(tone(500, rate=16_000), rate=16_000), {}, "16000 samples a second, and 'test/high/0.wav' has 8000"),
    "another rate than stated": (wav(tone(500)), {"audio": {"sample_rate": 16_000}}, "metadata.audio.sample_rate says 16000"),
    "stereo": (wav(np.zeros((800, 2))), {}, "2 channels"),
    "another length": (wav(tone(500, 801)), {}, "801 samples"),
    "cut off": (wav(tone(500))[:-10], {}, "says 1600 bytes of samples"),
    "no sound": (b"RIFF\0\0\0\0WAVE", {}, "no samples"),
    "another file": (b"OggS" + bytes(40), {}, "no WAV file"),
    "compressed": (wav(tone(500)).replace(b"fmt \x10\0\0\0\1\0", b"fmt \x10\0\0\0\x11\0"), {}, "encoding 17"),
    "not a number": (floats(np.array([*tone(500, 799), np.nan])), {}, "NaN"),
    "too many filters": (wav(tone(500)), {"audio": {"features": "log_mel", "mels": 200, "n_fft": 128}}, "stays empty"),
    "above half of the rate": (wav(tone(500)), {"audio": {"features": "log_mel", "mels": 8, "high_hz": 8000}}, "do not fit"),
    "too short": (wav(tone(500)), {"audio": {"features": "log_mel", "n_fft": 4096}}, "too short"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named(tmp_path: Path, name: str) -> None:
    data, metadata, message = WRONG[name]
    with pytest.raises(EngineError, match=message) as caught:
        load(tmp_path, {**good(), "train/low/9.wav": data}, **metadata)
    assert caught.value.code == "dataset_invalid"


def test_features_without_end_are_refused(tmp_path: Path) -> None:
    members = {"a/1.wav": wav(np.zeros(600_000))}
    with pytest.raises(EngineError) as caught:
        load(tmp_path, members, audio={"features": "log_mel", "hop": 1, "mels": 1024, "n_fft": 65_536})
    assert caught.value.code == "decompression_limit_exceeded"


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)), min_size=1, max_size=4), st.integers(0, 60))
def test_any_bytes_are_a_sound_or_refused(changes: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(wav(tone(500, 20)))
    for place, value in changes:
        data[place] = value
    found: Any = None
    try:
        found = decode(bytes(data[: len(data) - cut]), "a.wav")
    except EngineError as error:
        found = error
    assert found.code == "dataset_invalid" if isinstance(found, EngineError) else np.isfinite(found.samples).all()
