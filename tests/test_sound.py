"""Sounds of every kind are read as one channel, or refused in one sentence; log-mel equals a kept library's."""

import base64
import io
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import soundfile
import torch

from clipnotes import sound

RATE = sound.RATE


def sine(hertz: float, seconds: float = 1.0, rate: int = RATE) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)


def pitch(samples) -> float:
    spectrum = np.abs(np.fft.rfft(np.asarray(samples)))
    return spectrum.argmax() * RATE / len(samples)


@pytest.fixture(autouse=True)
def no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# ---------------------------------------------------------------- what is read


@pytest.mark.parametrize(("subtype", "near"), [
    ("PCM_U8", 1e-2), ("PCM_16", 1e-4), ("PCM_24", 1e-6), ("PCM_32", 1e-6), ("FLOAT", 1e-6), ("DOUBLE", 1e-6)])
def test_every_depth_of_bits(tmp_path, subtype, near):
    soundfile.write(tmp_path / "x.wav", sine(440), RATE, subtype)
    found = sound.read(tmp_path / "x.wav")
    assert found.dtype == torch.float32 and found.shape == (RATE,)
    assert np.abs(found.numpy() - sine(440)).max() < near


@pytest.mark.parametrize("ending", ["flac", "ogg", "mp3", "aiff"])
def test_other_kinds(tmp_path, ending):
    soundfile.write(tmp_path / f"x.{ending}", sine(440, rate=44100), 44100)
    assert abs(pitch(sound.read(tmp_path / f"x.{ending}")) - 440) < 5


def test_stereo_is_the_mean_of_its_channels(tmp_path):
    soundfile.write(tmp_path / "x.wav", np.stack([sine(440), sine(880), 0 * sine(1)], 1), RATE, "FLOAT")
    assert np.allclose(sound.read(tmp_path / "x.wav"), (sine(440) + sine(880)) / 3, atol=1e-6)


@pytest.mark.parametrize("rate", [4000, 11025, 22050, 44100, 48000, 96000])
def test_other_rates_keep_pitch_and_length(tmp_path, rate):
    soundfile.write(tmp_path / "x.wav", sine(500, rate=rate), rate, "FLOAT")
    found = sound.read(tmp_path / "x.wav").numpy()
    assert len(found) == RATE and abs(pitch(found) - 500) <= 1
    assert np.abs(found - sine(500))[200:-200].max() < 0.01


def test_what_is_too_high_is_filtered_out_not_folded(tmp_path):
    soundfile.write(tmp_path / "x.wav", sine(7000, rate=44100), 44100, "FLOAT")
    assert sound.read(tmp_path / "x.wav")[400:-400].abs().max() < 0.01


def test_ten_minutes_or_a_part_of_them(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "x.wav", np.tile(sine(300, 60), 10), RATE)
    whole = sound.read(tmp_path / "x.wav")
    assert whole.shape == (600 * RATE,) and sound.clips(whole).shape == (600, RATE)
    part = sound.read(tmp_path / "x.wav", start=599.5, seconds=3)
    assert torch.equal(part, whole[-RATE // 2 :]), "it ends there"
    assert torch.equal(sound.read(tmp_path / "x.wav", start=2, seconds=1), whole[2 * RATE : 3 * RATE])
    monkeypatch.setattr(sound, "BLOCK", 999)
    assert torch.equal(sound.read(tmp_path / "x.wav", seconds=2), whole[: 2 * RATE])


def test_silence_and_clipping_are_read_and_told(tmp_path):
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    with pytest.warns(UserWarning, match="^'silent.wav' is silent: all samples are 0.$"):
        silent = sound.read(tmp_path / "silent.wav")
    assert (sound.log_mel(silent[None]) == -100).all()
    soundfile.write(tmp_path / "loud.wav", (4 * sine(440)).clip(-1, 1), RATE)
    with pytest.warns(UserWarning, match=r"^'loud.wav' was recorded too loud: \d\d% of its samples are cut off.$"):
        assert sound.read(tmp_path / "loud.wav").abs().max() <= 1


# ---------------------------------------------------------------- what is refused


def refused(path, why, **part):
    with pytest.raises(ValueError, match=why) as told:
        sound.read(path, **part)
    assert str(path) in str(told.value) and "\n" not in str(told.value)


def test_what_is_no_sound_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no sound '.*none.wav'"):
        sound.read(tmp_path / "none.wav")
    refused(tmp_path, "is a folder, not a sound: give one file of it")
    for name, content, why in [
        ("empty.wav", b"", "it is empty. Give a wav"), ("text.wav", b"hello" * 99, "format not recognised"),
        ("text.ogg", b"hello" * 99, "format not recognised"),
        ("film.mp4", b"\0\0\0\x18ftypmp42" + bytes(99), "it is a film, whose sound has to be saved as a wav"),
    ]:
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, why)


def test_no_samples_or_no_numbers(tmp_path):
    soundfile.write(tmp_path / "none.wav", np.zeros(0), RATE)
    refused(tmp_path / "none.wav", "it holds not one sample")
    soundfile.write(tmp_path / "x.wav", sine(440), RATE)
    refused(tmp_path / "x.wav", "it ends before 7 s", start=7)
    soundfile.write(tmp_path / "nan.wav", np.array([0.1, np.nan]), RATE, "FLOAT")
    refused(tmp_path / "nan.wav", "nan or infinite")


def test_a_real_film_is_refused(tmp_path):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "film.mp4"), "w") as film:
        stream = film.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 16
        for _ in range(3):
            film.mux(stream.encode(av.VideoFrame(16, 16, "yuv420p")))
        film.mux(stream.encode())
    refused(tmp_path / "film.mp4", "it is a film")


# ---------------------------------------------------------------- clips, log-mel, players


def test_clips_lose_nothing():
    long = torch.arange(2.5 * RATE)
    rows = sound.clips(long)
    assert rows.shape == (3, RATE) and torch.equal(rows.flatten()[: len(long)], long) and not rows[2, RATE // 2 :].any()
    assert sound.clips(long[:10]).shape == (1, RATE)
    assert torch.equal(sound.clips(long, hop=RATE // 2)[1], long[RATE // 2 : RATE * 3 // 2])
    with pytest.raises(ValueError, match=r"not a tensor \(2, 3\)"):
        sound.clips(torch.zeros(2, 3))


def noisy(count: int = 3) -> torch.Tensor:
    tones = torch.from_numpy(np.stack([sine(200 * k) for k in range(1, count + 1)])).float()
    return tones + 0.01 * torch.randn(count, RATE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("bands", "n_fft", "hop"), [(64, 512, 128), (40, 256, 100)])
def test_log_mel_equals_a_kept_librarys(bands, n_fft, hop):
    from transformers import audio_utils

    theirs = audio_utils.mel_filter_bank(n_fft // 2 + 1, bands, 50.0, RATE / 2, RATE, norm=None, mel_scale="htk")
    filters = sound.mel_filters(bands, n_fft)
    assert np.abs(filters.numpy() - theirs.T).max() < 1e-6
    ours = sound.log_mel(noisy(), filters, hop)
    assert ours.shape == (3, bands, 1 + RATE // hop)
    for row, samples in zip(ours, noisy().numpy(), strict=True):
        window = audio_utils.window_function(n_fft, "hann")
        expected = audio_utils.spectrogram(samples, window, n_fft, hop, power=2.0, mel_filters=theirs, mel_floor=1e-10,
                                           log_mel="log10")
        assert np.abs(row.numpy() / 10 - expected).max() < 1e-4


def test_log_mel_equals_scipys():
    window = scipy.signal.get_window("hann", 512)
    padded = np.pad(noisy().numpy(), ((0, 0), (256, 256)), "reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, 512, 1)[:, ::128]
    power = np.abs(scipy.fft.rfft(frames * window)) ** 2
    expected = 10 * np.log10(np.maximum(power @ sound.mel_filters().numpy().T, 1e-10)).swapaxes(1, 2)
    assert np.abs(sound.log_mel(noisy()).numpy() - expected).max() < 1e-3  # of 100 dB


def test_a_higher_tone_stands_higher():
    rows = sound.log_mel(noisy(4)).mean(2).argmax(1)
    assert (rows.diff() > 0).all()
    assert (sound.mel_filters().sum(1) > 0).all(), "no band is empty"


def test_too_short_a_sound_has_no_spectrum():
    with pytest.raises(ValueError, match="more than 256 samples, not"):
        sound.log_mel(torch.zeros(1, 256))
    with pytest.raises(ValueError, match="not"):
        sound.log_mel(torch.zeros(RATE))


def test_a_player_holds_the_sound():
    uri = sound.wav_uri(torch.from_numpy(sine(440)))
    kind, text = uri.split(",")
    assert kind == "data:audio/wav;base64"
    found, rate = soundfile.read(io.BytesIO(base64.b64decode(text)))
    assert rate == RATE and np.abs(found - sine(440)).max() < 1e-4


def test_real_clips_can_be_read():
    folder = Path(os.environ.get("CLIPNOTES_TEST_DATA", "none")) / "esc10"
    if not folder.is_dir():
        pytest.skip("CLIPNOTES_TEST_DATA names no folder with esc10/")
    files = sorted(folder.rglob("*.ogg"))[::40]
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert all(len(sound.read(file)) > 3 * RATE for file in files)
