"""What any film needs: which frames stand for it, how a file is read, how films become a batch."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipnotes.pictures import to_tensor


def sample(count: int, frames: int) -> list[int]:
    """Which `frames` of `count` pictures stand for a film: evenly spread, first and last among them (the released
    `slice_framepos 2`); all of them where there are not so many. Raises ValueError for an empty film."""
    if count < 1 or frames < 1:
        raise ValueError(f"Cannot take {frames} frames of a film of {count}: give at least one of each.")
    return np.linspace(0, count - 1, min(count, frames)).astype(int).tolist()


def stack(videos: Sequence, frames: int, size: int) -> tuple[Tensor, Tensor]:
    """The column `video` of a data set as tensors: (B x frames x 3 x size x size in [0, 1], mask B x frames).

    Each video: a list of PIL pictures, or a file that `decode` reads. Shorter films are padded with black frames.
    """
    pictures = torch.zeros(len(videos), frames, 3, size, size)
    mask = torch.zeros(len(videos), frames, dtype=torch.long)
    for i, video in enumerate(videos):
        film = video if isinstance(video, list) and isinstance(video[0], Image.Image) else decode(video, frames)
        kept = [film[k] for k in sample(len(film), frames)]
        pictures[i, : len(kept)] = torch.stack([to_tensor(p, size) for p in kept])
        mask[i, : len(kept)] = 1
    return pictures, mask


def decode(file: str | Path, frames: int) -> list[Image.Image]:
    """At most `frames` pictures of a film, evenly spread over it, first and last among them.

    Two passes, so that a long film never lies in memory. Raises FileNotFoundError, ValueError for a file that holds
    no film, ModuleNotFoundError without PyAV.
    """
    try:
        import av
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("Films are read with PyAV: run `pip install av`, then try again.") from error
    try:
        with av.open(str(file)) as film:
            count = sum(1 for _ in film.decode(video=0))
        wanted = set(sample(count, frames))
        with av.open(str(file)) as film:
            return [picture.to_image() for i, picture in enumerate(film.decode(video=0)) if i in wanted]
    except (av.error.FFmpegError, IndexError, ValueError) as error:
        if isinstance(error, FileNotFoundError):
            raise FileNotFoundError(f"There is no film {str(file)!r}.") from error
        raise ValueError(f"{str(file)!r} is not a film that can be read. Give an mp4 or avi file.") from error
