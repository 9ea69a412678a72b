"""One film, as a player shows it: which pictures stand for it, read from a file, stacked as a batch of tensors."""

import warnings
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipnotes.pictures import as_seen, to_tensor

FILM_ENDINGS = frozenset(
    ".3g2 .3gp .asf .avi .divx .f4v .flv .gif .h264 .hevc .m1v .m2ts .m2v .m4v .mjpeg .mjpg .mkv .mov .mp4 .mpe .mpeg "
    ".mpg .mts .mxf .nut .ogg .ogm .ogv .qt .rm .rmvb .ts .vob .webm .wmv .wtv .y4m".split())

EMPTY = "it holds not one picture"


def sample(count: int, frames: int) -> list[int]:
    """Which `frames` of `count` pictures stand for a film: evenly spread, first and last among them (the released
    `slice_framepos 2`); all of them where there are not so many. Raises ValueError for an empty film."""
    if count < 1 or frames < 1:
        raise ValueError(f"Cannot take {frames} frames of a film of {count}: give at least one of each.")
    return np.linspace(0, count - 1, min(count, frames)).astype(int).tolist()


def sample_times(times: Sequence[float | None], frames: int) -> list[int]:
    """As `sample`, by the times at which the pictures appear, in any unit: where the rate varies, the pictures on show
    at evenly spread moments, so that one which stays for long may stand for several. Without times: by number."""
    short = len(times) <= frames or None in times
    gaps = [] if short else np.diff(np.array(times, dtype=float))
    if short or min(gaps) <= 0 or max(gaps) < 1.5 * min(gaps):  # a steady rate, but for rounding; or broken times
        return sample(len(times), frames)
    moments = np.linspace(times[0], times[-1], frames)
    return (np.searchsorted(times, moments + 1e-6 * min(gaps), side="right") - 1).tolist()


def decode(file: str | Path, frames: int) -> list[Image.Image]:
    """At most `frames` pictures of a film (PIL, RGB), evenly spread over its time, first and last among them.

    They are turned, mirrored and stretched as the film asks a player to. Two passes, so that a long film never lies in
    memory. A film that breaks off is read as far as it goes, with a warning. Raises FileNotFoundError, ValueError for a
    file that holds no film, ModuleNotFoundError without PyAV.
    """
    times, whole = [], True
    try:
        for picture, _ in _pictures(file):
            times.append(picture.pts)
            whole = not picture.is_corrupt
    except ValueError:
        if not times:
            raise
        whole = False
    if not times:
        raise ValueError(_refusal(file, EMPTY))
    if not whole:
        warnings.warn(f"{str(file)!r} breaks off after {len(times)} pictures.", stacklevel=2)
    wanted, shown = sample_times(times, frames), {}
    for i, (picture, shape) in enumerate(_pictures(file)):
        if i in wanted:
            shown[i] = _as_shown(picture, shape)
        if i == wanted[-1]:
            break
    return [shown[i] for i in wanted]


def film_fault(file: str | Path) -> str | None:
    """Why a file cannot be read as a film, or None: by its ending and its head, not by all of its pictures."""
    if Path(file).suffix.lower() not in FILM_ENDINGS:
        return "no film"
    try:
        for _ in _pictures(file):
            return None
    except ValueError as error:
        return _reason(error.__cause__ or error)
    return EMPTY


def _pictures(file: str | Path) -> Iterator[tuple[Any, Fraction]]:
    """The decoded pictures of a film, in the order of a player, each with the width of its pixels over their height."""
    try:
        import av
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("Films are read with PyAV: run `pip install av`, then try again.") from error
    if not Path(file).is_file():
        raise FileNotFoundError(f"There is no film {str(file)!r}.")
    try:
        with av.open(str(file)) as film:
            cover = av.stream.Disposition.attached_pic  # of a piece of music; and "tty" shows letters as films
            streams = [s for s in film.streams.video if not s.disposition & cover and film.format.name != "tty"]
            if not streams:
                raise ValueError("it holds no moving pictures")
            for picture in film.decode(streams[0]):
                yield picture, streams[0].sample_aspect_ratio or Fraction(1)
    except (av.error.FFmpegError, ValueError) as error:
        raise ValueError(_refusal(file, _reason(error))) from error


def _reason(error: BaseException) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()  # without FFmpeg's number


def _refusal(file: str | Path, why: str) -> str:
    return f"{str(file)!r} is not a film that can be read: {why}. Give an mp4 or avi file."


def _as_shown(picture: Any, shape: Fraction) -> Image.Image:
    """A decoded picture -> RGB: laid on white, its pixels made square, then turned and mirrored."""
    if any(component.is_alpha for component in picture.format.components):
        image = as_seen(Image.fromarray(picture.to_ndarray(format="rgba")))
    else:
        image = picture.to_image()
    if shape != 1:
        image = image.resize((max(1, round(image.width * shape)), image.height), Image.Resampling.BICUBIC)
    matrix = picture.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return image
    (a, b), (c, d) = np.frombuffer(bytes(matrix), np.int32)[:9].reshape(3, 3)[:2, :2]
    if abs(b) + abs(c) > abs(a) + abs(d):  # x and y change places: a quarter turn
        image, a, d = image.transpose(Image.Transpose.TRANSPOSE), c, b
    if a < 0:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return image.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if d < 0 else image


def stack(videos: Sequence, frames: int, size: int) -> tuple[Tensor, Tensor]:
    """The column `video` of a data set as tensors: (B×frames×3×size×size in [0, 1], mask B×frames of 1 and 0).

    Each video: a list of PIL pictures, or a file for `decode`. Shorter films are padded with black frames.
    """
    if isinstance(videos, (str, Path)):
        raise ValueError(f"Give a list of films, such as [{str(videos)!r}].")
    pictures = torch.zeros(len(videos), frames, 3, size, size)
    mask = torch.zeros(len(videos), frames, dtype=torch.long)
    for i, video in enumerate(videos):
        film = decode(video, frames) if isinstance(video, (str, Path)) else video
        kept = [film[k] for k in sample(len(film), frames)]
        pictures[i, : len(kept)] = torch.stack([to_tensor(p, size) for p in kept])
        mask[i, : len(kept)] = 1
    return pictures, mask
