"""One picture, as a viewer shows it: turned as the camera was held, laid on white, scaled by its depth of bits.

A picture without orientation, transparency or unusual depth stays what it is: equal to CLIP's own preparation.
"""

import contextlib
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps
from torch import Tensor

_BOMB = (Image.DecompressionBombError, Image.DecompressionBombWarning)


def open_picture(path: str | Path) -> Image.Image:
    """The picture of a file (of an animated one: its first frame), mode RGB.

    Raises FileNotFoundError where there is no such file, ValueError, which names the file, for what cannot be read as a
    picture: a folder, another kind of file, half a file, one that unpacks to more pixels than Pillow allows.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{str(path)!r} is a folder, not a picture: hub.local reads folders.")
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    picture, fault = _read(path)
    if picture is None:
        raise ValueError(f"{str(path)!r} is not a picture that can be read: {fault}. Give a png, jpg or webp file.")
    return picture


def picture_fault(path: str | Path) -> str | None:
    """Why a file cannot be read as a picture, or None. The whole file is read, a JPEG at an eighth of its size."""
    return _read(Path(path), small=True)[1]


def _read(path: Path, small: bool = False) -> tuple[Image.Image | None, str | None]:
    """The picture as it is seen, or why there is none."""
    if find_spec("pillow_heif"):
        import pillow_heif

        pillow_heif.register_heif_opener()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with open(path, "rb") as file, Image.open(file) as picture:  # by path, Pillow maps a turned TIFF wrongly
                if small:
                    picture.draft("RGB", (64, 64))
                return as_seen(picture), None
    except _BOMB:
        return None, f"it unpacks to more than {Image.MAX_IMAGE_PIXELS // 10**6} million pixels"
    except Image.UnidentifiedImageError:
        heic = path.suffix.lower() in (".heic", ".heif")
        return None, "heic needs `pip install pillow-heif`" if heic else _content(path)
    except Exception as error:  # decoders of broken files raise a dozen kinds
        return None, str(error).rstrip(".") or type(error).__name__


def _content(path: Path) -> str:
    return "its content is no picture" if path.stat().st_size else "it is empty"


def as_seen(picture: Image.Image) -> Image.Image:
    """A PIL picture of any mode -> RGB, as a viewer shows it.

    Orientation (EXIF, all eight) is applied, what is transparent becomes white, 16 bits and floats in [0, 1] are scaled
    to 8 bits. Raises ValueError for numbers of which nothing says what is white: other floats, 32-bit integers.
    """
    picture.load()  # half a file raises here
    tags = dict(getattr(picture, "tag_v2", {}))  # TIFF's, before a turned copy loses them
    with contextlib.suppress(Exception):  # a broken note of the camera turns nothing, as in a viewer
        picture = ImageOps.exif_transpose(picture)
    if picture.mode in ("I", "F") or picture.mode.startswith("I;"):
        picture = _eight_bits(picture, tags)
    if picture.mode == "LAB":
        return ImageCms.profileToProfile(picture, *map(ImageCms.createProfile, ("LAB", "sRGB")), outputMode="RGB")
    if picture.mode in ("RGBA", "RGBa", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def _eight_bits(picture: Image.Image, tags: dict) -> Image.Image:
    """Grey of 16 bits or of floats in [0, 1] -> 8 bits, with alpha where one grey is transparent. tags: TIFF's."""
    values, depth = np.asarray(picture, dtype=np.float64), tags.get(258, (16,))[0]
    white = 1.0 if picture.mode == "F" else 2.0 ** (depth - (tags.get(339) == (2,))) - 1  # format 2 has a sign
    known = picture.mode == "F" or depth <= 16
    if not (known and values.min() >= 0 and values.max() <= white):  # nan fails here, too
        raise ValueError(f"greys from {values.min():.4g} to {values.max():.4g}, and nothing says which is white")
    clear = picture.info.get("transparency")
    alpha = Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8))
    if tags.get(262) == 0:  # scans that count down from white
        values = white - values
    grey = Image.fromarray((values / white * 255).round().astype(np.uint8))
    if clear is not None:
        grey.putalpha(alpha)
    return grey


def to_tensor(picture: Any, size: int) -> Tensor:
    """A PIL picture -> 3×size×size in [0, 1]: shorter side resized (bicubic), middle cut out, as CLIP."""
    picture = as_seen(picture)
    scale = size / min(picture.size)
    picture = picture.resize([max(size, round(s * scale)) for s in picture.size], Image.Resampling.BICUBIC)
    left, top = ((s - size) // 2 for s in picture.size)
    pixels = np.array(picture.crop((left, top, left + size, top + size)))
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
