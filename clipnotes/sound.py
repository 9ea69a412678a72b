"""One sound, as a loudspeaker plays it: read from a file as one channel of samples at one rate, cut, seen, heard.

Samples are floats in [-1, 1]; all that names sounds here hears 8,000 of them a second.
"""

import base64
import io
import math
import warnings
import wave
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from clipnotes.video import FILM_ENDINGS

RATE = 8000
FLOOR = 1e-10  # of power: silence is -100 dB
BLOCK = 1 << 20  # samples a channel that are read at once, so that a long recording never lies in memory twice
FULL, CLIPPED = 0.999, 0.01  # samples at the limit; the share of them that a warning is worth


def read(file: str | Path, rate: int = RATE, start: float = 0.0, seconds: float | None = None) -> Tensor:
    """A sound file -> samples N at `rate`, the mean of its channels. start, seconds: only this part of it.

    Whatever libsndfile reads: wav (8 to 32 bits, floats), flac, ogg, mp3. Warns of silence, and of samples that were
    cut off. Raises FileNotFoundError, ValueError for what holds no sound, ModuleNotFoundError without soundfile.
    """
    path = Path(file)
    if path.is_dir():
        raise ValueError(f"{str(path)!r} is a folder, not a sound: give one file of it.")
    if not path.is_file():
        raise FileNotFoundError(f"There is no sound {str(path)!r}.")
    samples, own_rate = _samples(path, start, seconds)
    if not len(samples):
        raise ValueError(_refusal(path, "it holds not one sample" if start == 0 else f"it ends before {start:g} s"))
    if not np.isfinite(samples).all():
        raise ValueError(_refusal(path, "it holds samples that are no numbers (nan or infinite)"))
    loudest = np.abs(samples).max()
    if loudest == 0:
        warnings.warn(f"{path.name!r} is silent: all samples are 0.", stacklevel=2)
    elif (cut := (np.abs(samples) >= FULL).mean()) > CLIPPED:
        warnings.warn(f"{path.name!r} was recorded too loud: {cut:.0%} of its samples are cut off.", stacklevel=2)
    return resample(torch.from_numpy(samples), own_rate, rate)


def _samples(path: Path, start: float, seconds: float | None) -> tuple[np.ndarray, int]:
    """The mean of the channels of a part of a file, as float32, and its rate."""
    try:
        import soundfile
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("Sounds are read by soundfile: `pip install soundfile`, then try again.") from error
    try:
        with soundfile.SoundFile(path) as sound:
            first = min(round(start * sound.samplerate), sound.frames)
            sound.seek(first)
            count = sound.frames - first if seconds is None else round(seconds * sound.samplerate)
            blocks = sound.blocks(BLOCK, frames=count, dtype="float32", always_2d=True)
            parts = [block.mean(1) for block in blocks] if count else []
            return np.concatenate([np.zeros(0, np.float32), *parts]), sound.samplerate
    except soundfile.LibsndfileError as error:
        why = "it is empty" if not path.stat().st_size else error.error_string.rstrip(". ").lower()
        if path.suffix.lower() in FILM_ENDINGS - {".ogg"}:
            why = "it is a film, whose sound has to be saved as a wav file first"
        raise ValueError(_refusal(path, why)) from error


def _refusal(path: Path, why: str) -> str:
    return f"{str(path)!r} is not a sound that can be read: {why}. Give a wav, flac, ogg or mp3 file."


def resample(samples: Tensor, rate: int, new_rate: int) -> Tensor:
    """Samples ...×N at one rate -> at another, what lies above half of it filtered out; the length is rounded up."""
    if rate == new_rate:
        return samples
    from scipy.signal import resample_poly

    common = math.gcd(rate, new_rate)
    found = resample_poly(samples.numpy(), new_rate // common, rate // common, axis=-1)
    return torch.from_numpy(np.ascontiguousarray(found, dtype=np.float32))


def clips(samples: Tensor, length: int = RATE, hop: int | None = None) -> Tensor:
    """One long sound N -> B×length, every `hop` samples (length by default); zeros after its end, none lost."""
    if samples.ndim != 1 or not len(samples):
        raise ValueError(f"One sound is a row of at least one sample, not a tensor {tuple(samples.shape)}.")
    hop = hop or length
    count = 1 + math.ceil(max(0, len(samples) - length) / hop)
    padded = torch.nn.functional.pad(samples, (0, (count - 1) * hop + length - len(samples)))
    return padded.unfold(0, length, hop)


def mel_filters(
    bands: int = 64, n_fft: int = 512, rate: int = RATE, low: float = 50.0
) -> Tensor:
    """Triangles over the bins of a spectrum, bands×(n_fft/2 + 1).

    Their corners stand evenly on the mel scale (2595 log10(1 + f/700))
    from `low` to half the rate.
    """
    ends = 2595 * np.log10(1 + np.array([low, rate / 2]) / 700)
    corners = 700 * (10 ** (np.linspace(*ends, bands + 2) / 2595) - 1)
    bins = np.linspace(0, rate / 2, n_fft // 2 + 1)
    width = np.diff(corners)[:, None]
    up = (bins - corners[:-2, None]) / width[:-1]
    down = (corners[2:, None] - bins) / width[1:]
    return torch.from_numpy(np.minimum(up, down).clip(min=0)).float()


def log_mel(
    samples: Tensor, filters: Tensor | None = None, hop: int = 128
) -> Tensor:
    """Samples B×N -> decibels B×bands×T, T = 1 + N // hop; silence is -100.

    Windows (Hann) stand every `hop` samples, mirrored at both ends.
    """
    filters = mel_filters() if filters is None else filters
    n_fft = 2 * (filters.shape[1] - 1)
    if samples.ndim != 2 or samples.shape[1] <= n_fft // 2:
        raise ValueError(f"Sounds are B×N with more than {n_fft // 2} samples, "
                         f"not {tuple(samples.shape)}.")
    window = torch.hann_window(n_fft, device=samples.device)
    spectrum = torch.stft(samples.float(), n_fft, hop, window=window,
                          pad_mode="reflect", return_complex=True)
    power = filters.to(samples.device) @ spectrum.abs() ** 2
    return 10 * power.clamp(min=FLOOR).log10()


def wav_uri(samples: Tensor, rate: int = RATE) -> str:
    """A sound N as the text of a wav file of 16 bits, for `<audio src=...>` in a page without a server."""
    whole = (samples.clamp(-1, 1) * 32767).round().to(torch.int16)
    written = io.BytesIO()
    with wave.Wave_write(written) as file:
        file.setparams((1, 2, rate, len(whole), "NONE", ""))
        file.writeframes(whole.numpy().astype("<i2").tobytes())
    return "data:audio/wav;base64," + base64.b64encode(written.getvalue()).decode()
